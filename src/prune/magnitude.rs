//! Magnitude pruning: the smallest weights of a layer are removed.

use super::mask::{Mask, by_matrix};
use super::pattern::Pattern;

/// Mask of `weights`, `[rows, columns]`.
pub(super) fn magnitude(weights: &[f32], columns: usize, pattern: Pattern, sparsity: f64) -> Mask {
    let scores: Vec<f32> = weights.iter().map(|weight| weight.abs()).collect();
    by_matrix(&scores, columns, pattern, sparsity)
}
