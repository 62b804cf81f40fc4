//! Wanda ([Sun et al.](https://arxiv.org/abs/2306.11695)): in every row, the weights go that contribute least to the
//! output, `|w_ij|·‖x_j‖`. The others stay as they are.

use super::mask::{Mask, by_rows};
use super::pattern::Pattern;
use crate::calibrate::SecondMoments;

/// Mask of `weights`, `[rows, columns]`, whose inputs had these `moments`.
pub(super) fn wanda(weights: &[f32], moments: &SecondMoments, pattern: Pattern, sparsity: f64) -> Mask {
    by_rows(&scores(weights, moments), moments.len(), pattern, sparsity)
}

/// `|w_ij|·√(mean of x_j²)`, `[rows, columns]`.
pub(super) fn scores(weights: &[f32], moments: &SecondMoments) -> Vec<f32> {
    let norms: Vec<f32> = moments.mean_squares().iter().map(|square| square.sqrt()).collect();
    let scored = |row: &[f32]| row.iter().zip(&norms).map(|(w, norm)| w.abs() * norm).collect::<Vec<_>>();
    weights.chunks_exact(moments.len()).flat_map(scored).collect()
}
