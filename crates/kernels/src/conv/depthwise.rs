//! Depthwise convolution: no sums over channels; bound by memory bandwidth.

use std::ops::Range;

use super::geometry::Geometry;
use super::grid::{Grid, Place};
use crate::runtime::disjoint::{Disjoint, parallel_chunks};
use crate::runtime::element::Element;
use crate::runtime::isa::{Isa, vectorized};
use crate::runtime::pool::parallel_ranges;
use crate::runtime::scratch::{self, Scratch};

/// Multiply-adds that one task has at least.
const GRAIN: usize = 1 << 15;
/// Tasks at most for the gradient of the weight: each has sums of its own.
const MAX_TASKS: usize = 64;
/// Channels whose sums stay in registers.
const LANES: usize = 64;
/// Pixels of which [`LANES`] channels stay in the first-level cache.
const PIXELS: usize = 64;

pub(super) fn forward<T: Element>(isa: Isa, geometry: &Geometry, x: &[T], w: &[T], y: &mut [T]) {
    gather(isa, geometry, &geometry.forward(), x, &transposed(geometry, w), &Disjoint::new(y));
}

pub(super) fn input_gradient<T: Element>(isa: Isa, geometry: &Geometry, dy: &[T], w: &[T], dx: &mut [T]) {
    let (w, dx) = (transposed(geometry, w), Disjoint::new(dx));
    for grid in geometry.backward() {
        gather(isa, geometry, &grid, dy, &w, &dx);
    }
}

pub(super) fn weight_gradient<T: Element>(isa: Isa, geometry: &Geometry, x: &[T], dy: &[T], dw: &mut [T]) {
    let (grid, channels, taps) = (geometry.forward(), geometry.inputs, geometry.taps());
    let (rows, neighbours) = (grid.rows(), Neighbours::of(geometry, &grid));
    // By shape alone, so that sums never depend on the threads.
    let at_once = (GRAIN / (channels * taps)).max(rows.div_ceil(MAX_TASKS)).max(1);
    let mut sums = scratch::take::<f32>(rows.div_ceil(at_once) * taps * channels);
    parallel_chunks(&mut sums, taps * channels, |task, sums| {
        sums.fill(0.0);
        let (mut pairs, end) = (vec![Vec::new(); taps], rows.min((task + 1) * at_once));
        for start in (task * at_once..end).step_by(PIXELS) {
            // For each element of the kernel, where the channels of the pixels it reads begin, and those of the rows.
            pairs.iter_mut().for_each(Vec::clear);
            let rows = start..end.min(start + PIXELS);
            for (row, place) in rows.clone().zip(grid.places(rows)) {
                let mut meet = |element: usize, pixel| {
                    pairs[element].push((pixel * channels, row * channels));
                };
                neighbours.visit(place, &mut meet);
            }
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
fn transposed<T: Element>(geometry: &Geometry, w: &[T]) -> Scratch<f32> {
    let (channels, taps) = (geometry.inputs, geometry.taps());
    let mut transposed = scratch::take::<f32>(w.len());
    for (tap, line) in transposed.chunks_exact_mut(channels).enumerate() {
        for (channel, x) in line.iter_mut().enumerate() {
            *x = Element::to_f32(w[channel * taps + tap]);
        }
    }
    transposed
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
    let neighbours = Neighbours::of(geometry, grid);
    parallel_ranges(grid.rows(), grain, |rows| pixels(isa, geometry, &neighbours, rows, source, w, target));
}

/// What rows read, by element of the kernel and pixel: most see the same neighbourhood.
struct Neighbours<'a> {
    grid: &'a Grid,
    columns: usize,
    /// For rows that see no border: the element of the kernel, and pixels behind the first one read.
    inner: Vec<(usize, usize)>,
}

impl<'a> Neighbours<'a> {
    fn of(geometry: &Geometry, grid: &'a Grid) -> Self {
        let columns = geometry.kernel[1];
        let inner = grid.offsets().map(|([y, x], pixels)| (y * columns + x, pixels)).collect();
        Self { grid, columns, inner }
    }

    /// Calls `each` with the elements of the kernel that `row` meets, and the pixels they read.
    #[inline]
    fn visit(&self, row: Place, mut each: impl FnMut(usize, usize)) {
        if let Some(first) = self.grid.inner(row) {
            self.inner.iter().for_each(|&(element, pixels)| each(element, first + pixels));
        } else {
            self.grid.elements(row).for_each(|([y, x], pixel)| each(y * self.columns + x, pixel));
        }
    }
}

vectorized! {
    fn pixels<T: Element>(
        geometry: &Geometry,
        neighbours: &Neighbours,
        rows: Range<usize>,
        source: &[T],
        w: &[f32],
        target: &Disjoint<T>,
    ) {
        let (channels, grid) = (geometry.inputs, neighbours.grid);
        // Where the channels of each pixel read begin, and those of its element of the kernel.
        let mut terms = Vec::with_capacity(grid.taps());
        for row in grid.places(rows) {
            terms.clear();
            neighbours.visit(row, |element, pixel| terms.push((pixel * channels, element * channels)));
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
