//! Products of many rows in int8 arithmetic.
//!
//! Levels go into panels of rows of weights, four columns per word, which the instructions for dot products
//! of bytes take; activations stay row-major. Sums are integers within a group of columns and f32 from group
//! to group, where the scales of both sides come in.

use std::ops::Range;

use super::activations::Int8;
use super::format::Format;
use super::groups::{WidenedGroups, group_size};
use super::product::{Product, run_blocks};
use super::rows::QuantizedRows;
use crate::gemm::transpose;
use crate::runtime::disjoint::Disjoint;
use crate::runtime::isa::Isa;
use crate::runtime::pool::parallel_for;
use crate::runtime::scratch::{self, Scratch};

mod avx2;
mod avx512;

/// Rows of weights of a task, so that activations are read less often; they fit the second-level cache.
const ROWS: usize = 64;
/// Words of a row brought into a panel at once.
const DEPTH: usize = 64;
/// Numbers of the largest tile.
const MAX_TILE: usize = avx512::HEIGHT * avx512::WIDTH;

/// The instructions of the inner loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kernel {
    Avx2,
    Vnni,
}

impl Kernel {
    /// The best one for weights of `format`, if there is any.
    pub(super) fn choose(isa: Isa, format: Format) -> Option<Self> {
        match isa {
            _ if isa >= Isa::Avx512Vnni => Some(Self::Vnni),
            _ if isa >= Isa::Avx2 && avx2::takes(format) => Some(Self::Avx2),
            _ => None,
        }
    }

    /// Rows of weights in a panel.
    fn width(self) -> usize {
        match self {
            Self::Avx2 => avx2::WIDTH,
            Self::Vnni => avx512::WIDTH,
        }
    }

    /// Rows of activations at once.
    fn height(self) -> usize {
        match self {
            Self::Avx2 => avx2::HEIGHT,
            Self::Vnni => avx512::HEIGHT,
        }
    }
}

/// Computes `products`, at least one and all in one format, for which `kernel` was chosen.
pub(super) fn multiply(isa: Isa, kernel: Kernel, x: &[f32], products: &mut [Product]) {
    let weights = products[0].weights;
    assert!(Kernel::choose(isa, weights.format) == Some(kernel), "another kernel for these weights");
    let (columns, group) = (weights.columns, group_size(&weights));
    let (rows, width) = (x.len() / columns, kernel.width());
    let prepared = quantize(isa, x, columns, group);
    run_blocks(products, ROWS, |weights, range, y| {
        let panels: Vec<_> = range
            .clone()
            .step_by(width)
            .map(|row| Panel::new(isa, weights, row..range.end.min(row + width), width))
            .collect();
        for row in (0..rows).step_by(kernel.height()) {
            let x = Part::of(&prepared, row..rows.min(row + kernel.height()), columns, group);
            for panel in &panels {
                let mut tile = [0.0; MAX_TILE];
                let tile = &mut tile[..x.rows * width];
                // SAFETY: the kernel was chosen for this processor, as checked above.
                unsafe {
                    match kernel {
                        Kernel::Avx2 => avx2::multiply(panel, x, weights.format, tile),
                        Kernel::Vnni => avx512::multiply(panel, x, tile),
                    }
                }
                for (i, tile) in tile.chunks_exact(width).enumerate() {
                    let start = (row + i) * weights.rows + panel.rows.start;
                    // SAFETY: every task has rows of weights of its own.
                    let place = unsafe { y.part(start..start + panel.rows.len()) };
                    place.copy_from_slice(&tile[..panel.rows.len()]);
                }
            }
        }
    });
}

/// Rows go to the threads in blocks.
fn quantize(isa: Isa, x: &[f32], columns: usize, group: usize) -> Int8 {
    /// Numbers of a task.
    const TASK: usize = 1 << 15;
    let groups = x.len() / group;
    let mut all =
        Int8 { codes: scratch::take(x.len()), scales: scratch::take(groups), sums: scratch::take(groups) };
    let step = (TASK / columns).max(1) * columns;
    let (codes, scales, sums) =
        (Disjoint::new(&mut all.codes), Disjoint::new(&mut all.scales), Disjoint::new(&mut all.sums));
    parallel_for(x.len().div_ceil(step), |task| {
        let range = task * step..x.len().min((task + 1) * step);
        let numbers = range.start / group..range.end / group;
        // SAFETY: tasks have different ranges, which begin and end with a row.
        let (codes, scales, sums) =
            unsafe { (codes.part(range.clone()), scales.part(numbers.clone()), sums.part(numbers)) };
        Int8::write(isa, &x[range], group, codes, scales, sums);
    });
    all
}

/// Some rows of activations.
#[derive(Clone, Copy)]
struct Part<'a> {
    rows: usize,
    columns: usize,
    /// Columns of a group.
    group: usize,
    /// `[rows, columns]`
    codes: &'a [i8],
    /// `[rows, groups]`
    scales: &'a [f32],
    sums: &'a [f32],
}

impl<'a> Part<'a> {
    fn of(x: &'a Int8, rows: Range<usize>, columns: usize, group: usize) -> Self {
        let numbers = rows.start * (columns / group)..rows.end * (columns / group);
        Self {
            rows: rows.len(),
            columns,
            group,
            codes: &x.codes[rows.start * columns..rows.end * columns],
            scales: &x.scales[numbers.clone()],
            sums: &x.sums[numbers],
        }
    }
}

/// Rows of weights as wide as the kernel has lanes; those that are missing are zeros.
struct Panel {
    rows: Range<usize>,
    /// `[columns / 4, width]`, four levels each
    words: Scratch<u32>,
    /// `[groups, width]`
    scales: Scratch<u32>,
    biases: Scratch<u32>,
}

impl Panel {
    fn new(isa: Isa, weights: &QuantizedRows, rows: Range<usize>, width: usize) -> Self {
        let columns = weights.columns;
        let mut words = scratch::take::<u32>(columns / 4 * width);
        let mut block = scratch::take::<u32>(width * DEPTH);
        block.fill(0);
        for start in (0..columns).step_by(4 * DEPTH) {
            let end = columns.min(start + 4 * DEPTH);
            for (row, line) in rows.clone().zip(block.chunks_exact_mut(DEPTH)) {
                let levels = bytemuck::cast_slice_mut(&mut line[..(end - start) / 4]);
                weights.read_levels(isa, row, start..end, levels);
            }
            transpose(isa, &block, DEPTH, width, &mut words[start / 4 * width..end / 4 * width]);
        }
        let groups = WidenedGroups::of(isa, weights, rows.clone());
        let transposed = |numbers: &[f32]| {
            // Lines are read 16 words at a time.
            let depth = groups.count.next_multiple_of(16);
            let mut lines = scratch::take::<u32>(width * depth);
            lines.fill(0);
            for (line, numbers) in lines.chunks_exact_mut(depth).zip(numbers.chunks_exact(groups.count)) {
                line[..groups.count].copy_from_slice(bytemuck::cast_slice(numbers));
            }
            let mut transposed = scratch::take::<u32>(width * groups.count);
            transpose(isa, &lines, depth, width, &mut transposed);
            transposed
        };
        let (scales, biases) = groups.of_rows();
        let (scales, biases) = (transposed(scales), transposed(biases));
        Self { rows, words, scales, biases }
    }

    /// Whether it and `tile` have the sizes for a product with `x`.
    fn fits(&self, x: Part, width: usize, tile: &[f32]) -> bool {
        let groups = x.columns / x.group * width;
        tile.len() == x.rows * width
            && self.words.len() == x.columns / 4 * width
            && (self.scales.len(), self.biases.len()) == (groups, groups)
    }
}

/// Calls `$multiply::<H>` for a height `H` that only the run knows.
macro_rules! for_height {
    ($rows:expr, [$($height:literal)*], $multiply:ident $arguments:tt) => {
        match $rows {
            // SAFETY: the caller vouches for the instructions.
            $($height => unsafe { $multiply::<$height> $arguments },)*
            height => unreachable!("{height} rows at once"),
        }
    };
}
use for_height;
