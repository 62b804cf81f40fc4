//! Composition over chunks of positions.

use super::{Array, Layer, MlxResult, Options, cross_entropy_of_logits, token_losses};
use crate::chunked_logits::map_logits;
use crate::linear::linears;

/// As [`cross_entropy_rows`](super::cross_entropy_rows), with at most `logits` of them at once.
pub(super) fn rows(
    hidden: &Array,
    head: &Layer,
    targets: &Array,
    weights: &Array,
    options: Options,
    logits: usize,
) -> MlxResult<Array> {
    let positions = targets.size();
    if positions <= (logits / head.weight.shape().0.max(1) as usize).max(1) {
        let logits = linears(hidden, &[*head])?.swap_remove(0);
        return cross_entropy_of_logits(&logits, targets, weights, options);
    }
    let hidden = hidden.reshape(&[positions as i32, -1])?;
    let of_chunk = move |logits: &Array, targets: &[Array]| token_losses(logits, &targets[0], options);
    let losses = map_logits(&hidden, head, &[targets.reshape(&[-1])?], (logits, options.gradient), of_chunk)?;
    losses.reshape(targets.shape())?.multiply(weights)?.sum_axis(-1, false)
}
