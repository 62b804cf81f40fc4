//! Selection of the target tokens that count.

use mlx_rs::ops::indexing::{Ellipsis, IndexOp as _};
use mlx_rs::ops::{argsort_axis, select};
use mlx_rs::{Array, stop_gradient};
use serde::{Deserialize, Serialize};

use crate::data::Batch;
use crate::nn;

/// What the score of a token is, of which the highest are selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// Entropy of the student's prediction.
    StudentEntropy,
    /// Divergence of the student from the teacher.
    Divergence,
}

/// Number of selected tokens of each row: a fraction of its targets, but at least one if there are any. It does not depend on
/// how a batch is split.
pub(super) fn counts(batch: &Batch, share: f64) -> Vec<usize> {
    let targets = |row: &[f32]| row.iter().filter(|&&weight| weight > 0.0).count();
    batch.weights.chunks(batch.time.max(1)).map(|row| (targets(row) as f64 * share).ceil() as usize).collect()
}

/// Weight of the token of each rank, `[rows, most]`: `weight` for those that are selected.
pub(super) fn ranked_weights(counts: &[usize], weight: f32) -> Array {
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let row = |&count: &usize| (0..most).map(move |rank| if rank < count { weight } else { 0.0 });
    let weights: Vec<f32> = counts.iter().flat_map(row).collect();
    Array::from_slice(&weights, &[counts.len() as i32, most as i32])
}

/// Positions of the `most` highest `scores` of each row among the `targets`, as indices into all positions, `[rows·most]`. Both
/// operands are `[rows, time]`.
pub(super) fn highest(scores: &Array, targets: &Array, most: i32) -> nn::Result<Array> {
    let (rows, time) = (scores.dim(0), scores.dim(1));
    let zero = Array::from_f32(0.0);
    let costs = select(&targets.gt(&zero)?, &scores.negative()?, &Array::from_f32(f32::INFINITY))?;
    // The sort has no gradient.
    let order = argsort_axis(stop_gradient(&costs)?, 1)?.index((Ellipsis, ..most));
    let starts: Vec<u32> = (0..rows as u32).map(|row| row * time as u32).collect();
    order.add(Array::from_slice(&starts, &[rows, 1]))?.reshape(&[-1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::eval;

    #[test]
    fn the_highest_targets_of_each_row_are_selected() {
        let batch = Batch {
            ids: vec![1; 8],
            targets: vec![1; 8],
            weights: vec![0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0],
            starts: None,
            rows: 2,
            time: 4,
            tokens: 8,
            pairs: None,
        };
        let counts = counts(&batch, 0.5);
        assert_eq!(counts, [2, 1]);
        let weights = ranked_weights(&counts, 0.25);
        assert_eq!(weights.as_slice::<f32>(), [0.25, 0.25, 0.25, 0.0]);
        let scores = Array::from_slice(&[9.0_f32, 1.0, 3.0, 2.0, 1.0, 5.0, 6.0, 7.0], &[2, 4]);
        let found = highest(&scores, &Array::from_slice(&batch.weights, &[2, 4]), 2).unwrap();
        eval([&found]).unwrap();
        let found = found.as_slice::<u32>();
        assert_eq!((&found[..2], found[2]), (&[2, 3][..], 4));
    }
}
