//! Products with few rows of activations: each packed weight is read once; bound by memory bandwidth.

use std::ops::Range;

use super::Accuracy;
use super::activations::{Int8, round_bf16, sum_groups};
use super::groups::{WidenedGroups, group_size};
use super::product::{Product, run_blocks};
use super::rows::QuantizedRows;
use crate::runtime::isa::{Isa, vectorized};
use crate::runtime::pool::threads;
use crate::runtime::scratch::{self, Scratch};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

/// Rows of activations that share one pass over the weights.
pub(super) const MAX_ROWS: usize = 8;

/// Bytes of packed weights per task.
const TASK_BYTES: usize = 256 << 10;

/// Bytes between a load of codes and the request for those that follow: the processor's own prefetcher does
/// not run far enough ahead. They come into the second-level cache, since the first has room for fewer requests.
#[cfg(target_arch = "x86_64")]
const PREFETCH_DISTANCE: usize = 4096;

/// Rows of weights whose scales are widened at once.
const BLOCK: usize = 16;

/// Computes `products`, at least one and all in one format, for at most [`MAX_ROWS`] rows of `x`.
///
/// On processors without the instructions for `accuracy` they are at least as accurate.
pub(super) fn multiply(isa: Isa, accuracy: Accuracy, x: &[f32], products: &mut [Product]) {
    let weights = products[0].weights;
    let rows = x.len() / weights.columns;
    let prepared = Prepared::of(isa, accuracy, x, &weights);
    let n: usize = products.iter().map(|product| product.weights.rows).sum();
    // Small matrices are cut finer, so that every thread has a share.
    let step = (TASK_BYTES / weights.row_bytes()).min(n.div_ceil(16 * threads())).next_multiple_of(BLOCK);
    run_blocks(products, step, |weights, range, y| {
        // SAFETY: tasks have different ranges of every row.
        let part = |i| unsafe { y.part(i * weights.rows + range.start..i * weights.rows + range.end) };
        if rows == 1 {
            return prepared.multiply(weights, range.clone(), part(0));
        }
        let mut products = scratch::take::<f32>(range.len() * rows);
        prepared.multiply(weights, range.clone(), &mut products);
        for i in 0..rows {
            for (y, products) in part(i).iter_mut().zip(products.chunks_exact(rows)) {
                *y = products[i];
            }
        }
    });
}

/// Some rows of weights.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Block<'a, N> {
    /// One code per half or whole byte.
    codes: &'a [u8],
    /// `[rows, groups]`
    scales: &'a [N],
    biases: &'a [N],
    /// Groups of a row.
    groups: usize,
    /// Columns of a group.
    group: usize,
}

/// Calls `multiply` with a few rows of `range` at a time, with their scales and biases, widened, and with their
/// places in `out`, `[range, …]`.
fn for_each_widened(
    isa: Isa,
    weights: &QuantizedRows,
    range: Range<usize>,
    out: &mut [f32],
    mut multiply: impl FnMut(Range<usize>, (&[f32], &[f32]), &mut [f32]),
) {
    let mut groups = WidenedGroups::with_capacity(weights, BLOCK);
    let products = out.len() / range.len();
    for (start, out) in range.clone().step_by(BLOCK).zip(out.chunks_mut(BLOCK * products)) {
        let rows = start..(start + BLOCK).min(range.end);
        groups.read(isa, weights, rows.clone());
        multiply(rows, groups.of_rows(), out);
    }
}

/// Calls `multiply` with the rows `range` of the weights, whose scales and biases are given, and with their places in
/// `out`, `[range, …]`: at once where codes are halves of bytes or bytes as they are stored, otherwise row by row.
#[cfg(target_arch = "x86_64")]
fn for_each_block<N>(
    isa: Isa,
    weights: &QuantizedRows,
    range: Range<usize>,
    (scales, biases): (&[N], &[N]),
    out: &mut [f32],
    mut multiply: impl FnMut(Block<N>, &mut [f32]),
) {
    let groups = scales.len() / range.len();
    let mut block = |rows: Range<usize>, codes: &[u8], out: &mut [f32]| {
        let numbers = rows.start * groups..rows.end * groups;
        let (scales, biases) = (&scales[numbers.clone()], &biases[numbers]);
        multiply(Block { codes, scales, biases, groups, group: weights.columns / groups }, out);
    };
    if matches!(weights.format.bits(), 4 | 8) && !weights.is_sparse() {
        return block(0..range.len(), bytemuck::cast_slice(weights.words(range)), out);
    }
    let mut levels = scratch::take::<u8>(weights.columns);
    let products = out.len() / range.len();
    for (i, out) in out.chunks_exact_mut(products).enumerate() {
        weights.read_levels(isa, range.start + i, 0..weights.columns, &mut levels);
        block(i..i + 1, &levels, out);
    }
}

/// Activations in the layout of a kernel.
enum Prepared<'a> {
    /// As they are, with the sums of their groups.
    F32(Isa, &'a [f32], Scratch<f32>),
    Int8(Isa, Int8),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Prepared),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Prepared),
}

impl<'a> Prepared<'a> {
    fn of(isa: Isa, accuracy: Accuracy, x: &'a [f32], weights: &QuantizedRows) -> Self {
        #[cfg(target_arch = "x86_64")]
        if isa >= Isa::Avx512 && (accuracy != Accuracy::Int8 || isa >= Isa::Avx512Vnni) {
            return Self::Avx512(avx512::Prepared::of(isa, accuracy, x, weights));
        }
        #[cfg(target_arch = "x86_64")]
        if isa >= Isa::Avx2 && accuracy == Accuracy::Int8 {
            return Self::Avx2(avx2::Prepared::of(isa, x, weights));
        }
        let group = group_size(weights);
        if accuracy == Accuracy::Int8 {
            return Self::Int8(isa, Int8::of(isa, x, group));
        }
        let mut sums = scratch::take(x.len() / group);
        sum_groups(isa, x, group, &mut sums);
        Self::F32(isa, x, sums)
    }

    /// Writes the products of the rows `range` of the weights, `[range, rows of x]`.
    fn multiply(&self, weights: &QuantizedRows, range: Range<usize>, out: &mut [f32]) {
        let isa = match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(prepared) => return prepared.multiply(weights, range, out),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(prepared) => return prepared.multiply(weights, range, out),
            Self::F32(isa, ..) | Self::Int8(isa, _) => *isa,
        };
        let (columns, group) = (weights.columns, group_size(weights));
        let (count, rows) = (columns / group, out.len() / range.len());
        let mut levels = scratch::take::<u8>(columns);
        for_each_widened(isa, weights, range, out, |range, (scales, biases), out| {
            let groups = scales.chunks_exact(count).zip(biases.chunks_exact(count));
            for ((row, (scales, biases)), out) in range.zip(groups).zip(out.chunks_exact_mut(rows)) {
                weights.read_levels(isa, row, 0..columns, &mut levels);
                for (m, y) in out.iter_mut().enumerate() {
                    let of_row = m * count..(m + 1) * count;
                    let columns = m * columns..(m + 1) * columns;
                    *y = match self {
                        Self::F32(_, x, sums) => {
                            dot(isa, &levels, scales, biases, &x[columns], &sums[of_row], group)
                        }
                        Self::Int8(_, x) => {
                            let (codes, sums) = (&x.codes[columns], &x.sums[of_row.clone()]);
                            dot_int8(isa, &levels, scales, biases, codes, &x.scales[of_row], sums, group)
                        }
                        #[cfg(target_arch = "x86_64")]
                        Self::Avx2(_) | Self::Avx512(_) => unreachable!("returned above"),
                    };
                }
            }
        });
    }
}

/// Lanes of a sum.
const LANES: usize = 16;

vectorized! {
    fn dot(
        levels: &[u8],
        scales: &[f32],
        biases: &[f32],
        x: &[f32],
        sums: &[f32],
        group: usize,
    ) -> f32 {
        let mut total = [0.0_f32; LANES];
        let groups = levels.chunks_exact(group).zip(x.chunks_exact(group));
        for ((levels, x), scale) in groups.zip(scales) {
            let mut sum = [0.0_f32; LANES];
            for (levels, x) in levels.chunks_exact(LANES).zip(x.chunks_exact(LANES)) {
                for ((sum, &level), x) in sum.iter_mut().zip(levels).zip(x) {
                    *sum += f32::from(level) * x;
                }
            }
            for (total, sum) in total.iter_mut().zip(sum) {
                *total += scale * sum;
            }
        }
        let shift: f32 = biases.iter().zip(sums).map(|(bias, sum)| bias * sum).sum();
        total.iter().sum::<f32>() + shift
    }

    fn dot_int8(
        levels: &[u8],
        scales: &[f32],
        biases: &[f32],
        codes: &[i8],
        code_scales: &[f32],
        sums: &[f32],
        group: usize,
    ) -> f32 {
        let mut total = 0.0;
        let groups = levels.chunks_exact(group).zip(codes.chunks_exact(group));
        for ((levels, codes), (scale, code_scale)) in groups.zip(scales.iter().zip(code_scales)) {
            let mut sum = 0;
            for (&level, &code) in levels.iter().zip(codes) {
                sum += i32::from(level) * i32::from(code);
            }
            total += scale * code_scale * sum as f32;
        }
        let shift: f32 = biases.iter().zip(sums).map(|(bias, sum)| bias * sum).sum();
        total + shift
    }
}

/// Rounds a copy of `x` to bf16.
#[cfg(target_arch = "x86_64")]
fn rounded(isa: Isa, x: &[f32]) -> Scratch<f32> {
    let mut copy = scratch::take(x.len());
    copy.copy_from_slice(x);
    round_bf16(isa, &mut copy);
    copy
}
