//! Convolution and its gradients as matrix products, one per group:
//!
//! ```text
//! y = patches(x)·wᵀ     dx = patches(dy)·w     dw = dyᵀ·patches(x)
//! ```

use std::ops::Range;

use super::geometry::Geometry;
use super::grid::Grid;
use super::patches::{InPlace, Patches, Pixels};
use crate::gemm::{
    Dense, GatheredRows, Lanes, Packed, Precision, Tile, multiply, multiply_unpacked, supports_unpacked,
};
use crate::runtime::disjoint::{Disjoint, parallel_chunks};
use crate::runtime::element::Element;
use crate::runtime::isa::{Isa, vectorized};
use crate::runtime::pool::{parallel_for, threads};
use crate::runtime::scratch::{self, Scratch};

/// Words of packed patches at once, to stay in the last-level cache …
const WORDS: usize = 2 << 20;
/// … but as many rows at least, because the other operand is packed once for all of them, and in multiples of
/// this, so that threads have equally many tiles.
const ROWS: usize = 896;
/// Rows at once where nothing is packed: places of so many are kept.
const PLACES: usize = 72 * ROWS;
/// Channels that are worth a run of their own.
const MIN_SEGMENT: usize = 16;
/// Rows summed over at once for the gradient of the weight.
const DEPTH: usize = 4096;

pub(super) fn forward<T: Element>(
    isa: Isa,
    precision: Precision,
    geometry: &Geometry,
    x: &[T],
    w: &[T],
    y: &mut [T],
) {
    let (grid, (inputs, outputs)) = (geometry.forward(), geometry.group());
    let depth = geometry.taps() * inputs;
    let y = Target { data: Disjoint::new(y), channels: geometry.outputs };
    let source = Source::of(isa, precision, x, (geometry.inputs, inputs));
    each_group(geometry, |group| {
        let w = Dense::new(&w[group * outputs * depth..][..outputs * depth], (outputs, depth));
        source.gather(isa, group, &grid, Lanes::rows(&w), &y, group * outputs);
    });
}

pub(super) fn input_gradient<T: Element>(
    isa: Isa,
    precision: Precision,
    geometry: &Geometry,
    dy: &[T],
    w: &[T],
    dx: &mut [T],
) {
    let (inputs, outputs) = geometry.group();
    let [height, width] = geometry.kernel;
    let w = Dense::new(w, (geometry.outputs * height * width, inputs));
    let dx = Target { data: Disjoint::new(dx), channels: geometry.inputs };
    let source = Source::of(isa, precision, dy, (geometry.outputs, outputs));
    for grid in geometry.backward() {
        let [y, x] = &grid.axes;
        each_group(geometry, |group| {
            // In the order of the patches: taps, then outputs.
            let map = |row: usize| {
                let (tap, output) = (row / outputs, group * outputs + row % outputs);
                let (y, x) = (y.taps[tap / x.taps.len()], x.taps[tap % x.taps.len()]);
                (output * height + y.kernel) * width + x.kernel
            };
            let transposed = GatheredRows { matrix: &w, rows: grid.taps() * outputs, map };
            source.gather(isa, group, &grid, Lanes::columns(&transposed), &dx, group * inputs);
        });
    }
}

pub(super) fn weight_gradient<T: Element>(
    isa: Isa,
    precision: Precision,
    geometry: &Geometry,
    x: &[T],
    dy: &[T],
    dw: &mut [T],
) {
    let (grid, (inputs, outputs)) = (geometry.forward(), geometry.group());
    let depth = geometry.taps() * inputs;
    let mut sums = scratch::take::<f32>(dw.len());
    sums.fill(0.0);
    let shared = Disjoint::new(&mut sums);
    each_group(geometry, |group| {
        let x = Pixels { data: x, channels: geometry.inputs, part: part(group, inputs) };
        for rows in chunks(grid.rows(), DEPTH) {
            let dy = &dy[rows.start * geometry.outputs..rows.end * geometry.outputs];
            let dy = Dense::new(dy, (rows.len(), geometry.outputs)).columns(part(group, outputs));
            let patches = Patches::new(&x, &grid, rows);
            let dy = Packed::new(isa, precision, Lanes::columns(&dy));
            multiply(isa, &[(&dy, Lanes::columns(&patches))], |mut tile| {
                for i in 0..tile.rows {
                    let start = (group * outputs + tile.row + i) * depth + tile.column;
                    // SAFETY: tiles of one product do not overlap, and groups have different rows.
                    let place = unsafe { shared.part(start..start + tile.columns) };
                    place.iter_mut().zip(tile.row_mut(i)).for_each(|(sum, x)| *sum += *x);
                }
            });
        }
    });
    narrow(isa, &sums, dw);
}

/// Images written.
struct Target<'a, T> {
    data: Disjoint<'a, T>,
    channels: usize,
}

/// Images read, and how they come to the product.
struct Source<'a, T> {
    pixels: Storage<'a, T>,
    channels: usize,
    /// Channels of a group.
    group: usize,
}

enum Storage<'a, T> {
    /// Packed into panels.
    Packed(Precision, &'a [T]),
    /// Read where they lie, in f32.
    InPlace(Wide<'a>),
}

enum Wide<'a> {
    Own(&'a [f32]),
    Copy(Scratch<f32>),
}

impl AsRef<[f32]> for Wide<'_> {
    fn as_ref(&self) -> &[f32] {
        match self {
            Self::Own(data) => data,
            Self::Copy(data) => data,
        }
    }
}

impl<'a, T: Element> Source<'a, T> {
    fn of(isa: Isa, precision: Precision, data: &'a [T], (channels, group): (usize, usize)) -> Self {
        let pixels = if group < MIN_SEGMENT || !supports_unpacked(isa, precision) {
            Storage::Packed(precision, data)
        } else if let Some(data) = T::as_f32(data) {
            Storage::InPlace(Wide::Own(data))
        } else {
            /// Numbers of a task.
            const TASK: usize = 1 << 16;
            let mut copy = scratch::take(data.len());
            parallel_chunks(&mut copy, TASK, |i, part| widen(isa, &data[i * TASK..][..part.len()], part));
            Storage::InPlace(Wide::Copy(copy))
        };
        Self { pixels, channels, group }
    }

    /// `patches·rightᵀ` of one group, written to the pixels of `grid`, from channel `first` on.
    fn gather(&self, isa: Isa, group: usize, grid: &Grid, right: Lanes, target: &Target<T>, first: usize) {
        let (channels, part) = (self.channels, part(group, self.group));
        let finish = |start: usize, mut tile: Tile| {
            let rows = start + tile.row..start + tile.row + tile.rows;
            for (i, place) in grid.places(rows).enumerate() {
                let place = grid.pixel(place) * target.channels + first + tile.column;
                // SAFETY: tiles of one product do not overlap; grids of one convolution have different pixels,
                // and groups different channels.
                let place = unsafe { target.data.part(place..place + tile.columns) };
                narrow(isa, tile.row_mut(i), place);
            }
        };
        match &self.pixels {
            Storage::Packed(precision, data) => {
                let depth = grid.taps() * part.len();
                let at_once = (WORDS / depth.max(1) / ROWS).max(1) * ROWS;
                let pixels = Pixels { data, channels, part };
                for rows in chunks(grid.rows(), at_once) {
                    let start = rows.start;
                    let patches = Patches::new(&pixels, grid, rows);
                    let patches = Packed::new(isa, *precision, Lanes::rows(&patches));
                    multiply(isa, &[(&patches, right)], |tile| finish(start, tile));
                }
            }
            Storage::InPlace(data) => {
                let pixels = Pixels { data: data.as_ref(), channels, part };
                for rows in chunks(grid.rows(), PLACES) {
                    let start = rows.start;
                    let patches = InPlace::new(&pixels, grid, rows);
                    multiply_unpacked(isa, &patches, right, |tile| finish(start, tile));
                }
            }
        }
    }
}

/// One group after the other on all threads, or many at once on one thread each.
fn each_group(geometry: &Geometry, task: impl Fn(usize) + Sync) {
    if geometry.groups >= 2 * threads() {
        parallel_for(geometry.groups, task);
    } else {
        (0..geometry.groups).for_each(task);
    }
}

/// The channels of a group of `len`.
fn part(group: usize, len: usize) -> Range<usize> {
    group * len..(group + 1) * len
}

fn chunks(len: usize, at_once: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(at_once).map(move |start| start..len.min(start + at_once))
}

vectorized! {
    fn widen<T: Element>(row: &[T], wide: &mut [f32]) {
        T::widen(row, wide);
    }

    fn narrow<T: Element>(wide: &[f32], row: &mut [T]) {
        T::narrow(wide, row);
    }
}
