//! `SparseGPT` ([Frantar & Alistarh](https://arxiv.org/abs/2301.00774)): weights are removed column by column, and those
//! that come later make up for them.
//!
//! With the [factor](InverseFactor) `M` of the inverse Hessian, the weights of lowest `(w_k / M_kk)²` go: in every block
//! of 128 columns, or in every group of the pattern. For each that goes,
//!
//! ```text
//! e = w_k / M_kk        w_j −= e · M_kj   for j < k
//! ```

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::mask::{Mask, remove_lowest};
use super::pattern::Pattern;
use crate::calibrate::InverseFactor;

/// Columns among which the lowest scores are found.
const BLOCK: usize = 128;

/// Prunes `weights`, `[rows, columns]`, in place, and returns their mask. With groups, the columns of `factor` must be in
/// their original order.
pub(super) fn sparsegpt(
    weights: &mut [f32],
    factor: &InverseFactor,
    pattern: Pattern,
    sparsity: f64,
) -> Mask {
    let InverseFactor { order, triangle, .. } = factor;
    let columns = order.len();
    let rows = weights.len() / columns;
    let mut work = permuted(weights, order);
    let mut mask = vec![true; weights.len()];
    let mut errors = vec![0.0_f32; rows * BLOCK];
    let mut end = columns;
    while end > 0 {
        // Whole groups, so that each is chosen from weights that the ones before have changed.
        let start = end.saturating_sub(match pattern {
            Pattern::Groups { of, .. } => BLOCK / of * of,
            _ => BLOCK,
        });
        let width = end - start;
        if pattern == Pattern::Unstructured {
            choose_block(&work, &mut mask, triangle, columns, start..end, sparsity);
        }
        let errors = &mut errors[..rows * width];
        work.par_chunks_exact_mut(columns)
            .zip(mask.par_chunks_exact_mut(columns))
            .zip(errors.par_chunks_exact_mut(width))
            .for_each(|((work, mask), errors)| {
                for k in (start..end).rev() {
                    if let Pattern::Groups { keep, of } = pattern
                        && (end - 1 - k).is_multiple_of(of)
                    {
                        let group = k + 1 - of..k + 1;
                        let scores: Vec<f32> =
                            group.clone().map(|j| (work[j] / triangle[j * columns + j]).powi(2)).collect();
                        remove_lowest(&scores, of - keep, &mut mask[group]);
                    }
                    errors[k - start] = 0.0;
                    if mask[k] {
                        continue;
                    }
                    let factors = &triangle[k * columns..=k * columns + k];
                    let error = work[k] / factors[k];
                    for (weight, factor) in work[start..k].iter_mut().zip(&factors[start..k]) {
                        *weight -= error * factor;
                    }
                    work[k] = 0.0;
                    errors[k - start] = error;
                }
            });
        // Row-major matrices, seen as the transposed ones.
        matmul(
            MatMut::from_column_major_slice_mut(&mut work, columns, rows).subrows_mut(0, start),
            Accum::Add,
            MatRef::from_column_major_slice(&triangle[start * columns..end * columns], columns, width)
                .subrows(0, start),
            MatRef::from_column_major_slice(errors, width, rows),
            -1.0,
            Par::rayon(0),
        );
        end = start;
    }
    restore(weights, &work, order);
    let mut original = mask.clone();
    restore(&mut original, &mask, order);
    original
}

/// Removes the lowest scores of all rows in the columns `range`.
fn choose_block(
    work: &[f32],
    mask: &mut [bool],
    triangle: &[f32],
    columns: usize,
    range: std::ops::Range<usize>,
    sparsity: f64,
) {
    let width = range.len();
    let diagonal: Vec<f32> = range.clone().map(|k| triangle[k * columns + k]).collect();
    let scores: Vec<f32> = work
        .chunks_exact(columns)
        .flat_map(|row| row[range.clone()].iter().zip(&diagonal).map(|(w, d)| (w / d).powi(2)))
        .collect();
    let mut chosen = vec![true; scores.len()];
    remove_lowest(&scores, (scores.len() as f64 * sparsity) as usize, &mut chosen);
    for (mask, chosen) in mask.chunks_exact_mut(columns).zip(chosen.chunks_exact(width)) {
        mask[range.clone()].copy_from_slice(chosen);
    }
}

/// `values`, `[rows, columns]`, with columns in this `order`.
fn permuted(values: &[f32], order: &[usize]) -> Vec<f32> {
    let columns = order.len();
    let mut sorted = vec![0.0; values.len()];
    sorted.par_chunks_exact_mut(columns).zip(values.par_chunks_exact(columns)).for_each(
        |(sorted, values)| {
            for (slot, &column) in sorted.iter_mut().zip(order) {
                *slot = values[column];
            }
        },
    );
    sorted
}

/// Puts `sorted`, `[rows, columns]`, back into its original order of columns.
fn restore<T: Copy>(values: &mut [T], sorted: &[T], order: &[usize]) {
    let columns = order.len();
    for (values, sorted) in values.chunks_exact_mut(columns).zip(sorted.chunks_exact(columns)) {
        for (&value, &column) in sorted.iter().zip(order) {
            values[column] = value;
        }
    }
}
