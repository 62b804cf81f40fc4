//! Convolution with a kernel of its own for each channel: no sums over channels, so memory sets the pace.

use std::ops::Range;

use super::super::disjoint::{Disjoint, run_chunks};
use super::super::element::Element;
use super::super::isa::{Isa, vectorized};
use super::super::pool::run_ranges;
use super::super::scratch::{self, Scratch};
use super::geometry::Geometry;
use super::grid::{Grid, Place};

/// Multiply-adds that one task has at least.
const GRAIN: usize = 1 << 15;
/// Tasks at most for the gradient of the weight: each has sums of its own.
const MOST_TASKS: usize = 64;
/// Channels whose sums stay in registers.
const LANES: usize = 64;
/// Pixels of which [`LANES`] channels stay in the first-level cache.
const PIXELS: usize = 64;

pub(super) fn forward<T: Element>(isa: Isa, geometry: &Geometry, x: &[T], w: &[T], y: &mut [T]) {
    gather(isa, geometry, &geometry.forward(), x, &turned(geometry, w), &Disjoint::new(y));
}

pub(super) fn input_gradient<T: Element>(isa: Isa, geometry: &Geometry, dy: &[T], w: &[T], dx: &mut [T]) {
    let (w, dx) = (turned(geometry, w), Disjoint::new(dx));
    for grid in geometry.backward() {
        gather(isa, geometry, &grid, dy, &w, &dx);
    }
}

pub(super) fn weight_gradient<T: Element>(isa: Isa, geometry: &Geometry, x: &[T], dy: &[T], dw: &mut [T]) {
    let (grid, channels, taps) = (geometry.forward(), geometry.inputs, geometry.taps());
    let rows = grid.rows();
    // By shape alone, so that sums never depend on the threads.
    let at_once = (GRAIN / (channels * taps)).max(rows.div_ceil(MOST_TASKS)).max(1);
    let mut sums = scratch::take::<f32>(rows.div_ceil(at_once) * taps * channels);
    run_chunks(&mut sums, taps * channels, |task, sums| {
        sums.fill(0.0);
        let (mut pairs, end) = (vec![Vec::new(); taps], rows.min((task + 1) * at_once));
        for start in (task * at_once..end).step_by(PIXELS) {
            find_pairs(geometry, &grid, start..end.min(start + PIXELS), &mut pairs);
            for first in (0..channels).step_by(LANES) {
                for (sums, pairs) in sums.chunks_exact_mut(channels).zip(&pairs) {
                    accumulate(isa, pairs, first, x, dy, &mut sums[first..channels.min(first + LANES)]);
                }
            }
        }
    });
    let of = |tap: usize, channel: usize| -> f32 {
        sums.chunks_exact(taps * channels).map(|sums| sums[tap * channels + channel]).sum()
    };
    for (channel, dw) in dw.chunks_exact_mut(taps).enumerate() {
        for (tap, dw) in dw.iter_mut().enumerate() {
            *dw = T::from_f32(of(tap, channel));
        }
    }
}

/// `[channels, taps]` → `[taps, channels]`, in f32.
fn turned<T: Element>(geometry: &Geometry, w: &[T]) -> Scratch<f32> {
    let (channels, taps) = (geometry.inputs, geometry.taps());
    let mut turned = scratch::take::<f32>(w.len());
    for (tap, line) in turned.chunks_exact_mut(channels).enumerate() {
        for (channel, x) in line.iter_mut().enumerate() {
            *x = Element::to_f32(w[channel * taps + tap]);
        }
    }
    turned
}

/// Each pixel of `grid` in `target` is the sum of those it reads of `source` times their elements of the kernel.
fn gather<T: Element>(
    isa: Isa,
    geometry: &Geometry,
    grid: &Grid,
    source: &[T],
    w: &[f32],
    target: &Disjoint<T>,
) {
    let grain = GRAIN / (geometry.inputs * grid.taps().max(1));
    run_ranges(grid.rows(), grain, |rows| pixels(isa, geometry, grid, rows, source, w, target));
}

/// Where the channels of each pixel read for `row` begin, and those of its element of the kernel.
fn find_terms(geometry: &Geometry, grid: &Grid, row: Place, terms: &mut Vec<(usize, usize)>) {
    let start =
        |[y, x]: [usize; 2], pixel| (pixel * geometry.inputs, (y * geometry.kernel[1] + x) * geometry.inputs);
    terms.clear();
    terms.extend(grid.elements(row).map(|(element, pixel)| start(element, pixel)));
}

/// For each element of the kernel, where the channels of the pixels it reads for `rows` begin, and those of the rows.
fn find_pairs(geometry: &Geometry, grid: &Grid, rows: Range<usize>, pairs: &mut [Vec<(usize, usize)>]) {
    pairs.iter_mut().for_each(Vec::clear);
    for (row, place) in rows.clone().zip(grid.places(rows)) {
        for ([y, x], pixel) in grid.elements(place) {
            pairs[y * geometry.kernel[1] + x].push((pixel * geometry.inputs, row * geometry.inputs));
        }
    }
}

vectorized! {
    fn pixels<T: Element>(
        geometry: &Geometry,
        grid: &Grid,
        rows: Range<usize>,
        source: &[T],
        w: &[f32],
        target: &Disjoint<T>,
    ) {
        let channels = geometry.inputs;
        let mut terms = Vec::with_capacity(grid.taps());
        for row in grid.places(rows) {
            find_terms(geometry, grid, row, &mut terms);
            let start = grid.pixel(row) * channels;
            // SAFETY: rows of one grid are different pixels, and so are those of grids of one gradient.
            let target = unsafe { target.part(start..start + channels) };
            let (blocks, rest) = target.as_chunks_mut::<LANES>();
            let whole = blocks.len() * LANES;
            for (index, block) in blocks.iter_mut().enumerate() {
                let (mut sums, first) = ([0.0; LANES], index * LANES);
                for &(x, k) in &terms {
                    let (x, k) = (&source[x + first..][..LANES], &w[k + first..][..LANES]);
                    for i in 0..LANES {
                        sums[i] += Element::to_f32(x[i]) * k[i];
                    }
                }
                T::narrow(&sums, block);
            }
            let mut sums = [0.0; LANES];
            let sums = &mut sums[..rest.len()];
            for &(x, k) in &terms {
                let (x, k) = (&source[x + whole..], &w[k + whole..]);
                for ((sum, x), k) in sums.iter_mut().zip(x).zip(k) {
                    *sum += Element::to_f32(*x) * k;
                }
            }
            T::narrow(sums, rest);
        }
    }

    /// Adds `Σ x·dy` over `pairs`, where the channels of both begin, to `sums`, those from `first` on of one element of
    /// the kernel.
    fn accumulate<T: Element>(pairs: &[(usize, usize)], first: usize, x: &[T], dy: &[T], sums: &mut [f32]) {
        let (blocks, rest) = sums.as_chunks_mut::<LANES>();
        let whole = first + blocks.len() * LANES;
        for (index, block) in blocks.iter_mut().enumerate() {
            let (mut sums, first) = (*block, first + index * LANES);
            for &(x_start, dy_start) in pairs {
                let (x, dy) = (&x[x_start + first..][..LANES], &dy[dy_start + first..][..LANES]);
                for i in 0..LANES {
                    sums[i] += Element::to_f32(x[i]) * Element::to_f32(dy[i]);
                }
            }
            *block = sums;
        }
        for &(x_start, dy_start) in pairs {
            let (x, dy) = (&x[x_start + whole..], &dy[dy_start + whole..]);
            for ((sum, x), dy) in rest.iter_mut().zip(x).zip(dy) {
                *sum += Element::to_f32(*x) * Element::to_f32(*dy);
            }
        }
    }
}
