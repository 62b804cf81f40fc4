//! Fused linear cross-entropy: the loss of an output head over a large vocabulary, without materializing all logits.
//!
//! | operand | shape |
//! |---|---|
//! | `hidden` | `[..., in]`, input of the head |
//! | `head` | a [`Layer`] of `vocab` outputs |
//! | `targets`, `weights` | `[...]`, integers below `vocab`, and non-negative f32 |
//! | result | `[]`, f32, nats; `[...]` without the last axis for [`cross_entropy_rows`] |
//!
//! `Σ weights · ((1-ε) · -log softmax(logits)[targets] + ε · mean over the vocabulary of -log softmax(logits))`
//! with label smoothing ε ([Szegedy et al.](https://arxiv.org/abs/1512.00567)). The
//! result is a sum, not a mean, so that gradient accumulation can divide by the total number of tokens.
//!
//! On the CPU one pass over the vocabulary in chunks computes the [online softmax](https://arxiv.org/abs/1805.02867) and
//! the gradient of `hidden`. Positions of weight 0 are skipped. On GPUs, and with a softcap or an adapted head, a
//! composition of MLX operations processes a limited number of positions at a time.

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use crate::chunked_logits::LOGITS;
use crate::error::MlxResult;
use crate::linear::{self, Layer, Weight, WeightSlot, is_float};
use crate::mlx::apply::apply_many;
use crate::mlx::device::on_cpu;
use crate::softcap::softcap;

mod chunked;
mod head;
mod loss;
mod problem;

/// Options of [`cross_entropy`].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Options {
    /// Label smoothing, ε.
    pub smoothing: f32,
    /// [Softcap](crate::softcap) of the logits.
    pub softcap: Option<f32>,
    /// Whether the gradient will be needed; it is computed along with the loss.
    pub gradient: bool,
}

/// Computes the weighted sum of the cross-entropy over all positions, in nats. See the [module](self) for shapes.
///
/// # Errors
/// Incompatible shapes.
pub fn cross_entropy(
    hidden: &Array,
    head: &Layer,
    targets: &Array,
    weights: &Array,
    options: Options,
) -> MlxResult<Array> {
    cross_entropy_rows(hidden, head, targets, weights, options)?.sum(None)
}

/// Computes the weighted sums over the last axis of `targets`. With weight 1 on the tokens of an answer and no smoothing,
/// a sum is the negative log-probability of the answer.
///
/// # Errors
/// Incompatible shapes.
pub fn cross_entropy_rows(
    hidden: &Array,
    head: &Layer,
    targets: &Array,
    weights: &Array,
    options: Options,
) -> MlxResult<Array> {
    let lead = &hidden.shape()[..hidden.ndim().saturating_sub(1)];
    if targets.shape() != lead
        || weights.shape() != lead
        || lead.is_empty()
        || hidden.shape().last() != Some(&head.weight.shape().1)
    {
        return Err(Exception::custom(format!(
            "cross-entropy: hidden {:?}, head {:?}, targets {:?} and weights {:?} do not fit",
            hidden.shape(),
            head.weight.shape(),
            targets.shape(),
            weights.shape(),
        )));
    }
    let plain = head.bias.is_none() && head.low_rank.is_none();
    let dense = match head.weight {
        Weight::Dense(weight) => is_float(weight),
        Weight::Packed(_) => true,
    };
    let supported = is_float(hidden) && dense;
    if !(on_cpu() && plain && supported && options.softcap.is_none()) {
        return chunked::rows(hidden, head, targets, weights, options, LOGITS);
    }
    let (targets, weights) = (targets.as_dtype(Dtype::Uint32)?, weights.as_dtype(Dtype::Float32)?);
    let mut shapes = vec![(&lead[..lead.len() - 1], Dtype::Float32)];
    if options.gradient {
        // The gradient of `hidden` and, for that of the head, each position's log of the sum of exponentials.
        shapes.extend([(hidden.shape(), hidden.dtype()), (lead, Dtype::Float32)]);
    }
    let mut inputs = vec![hidden, &targets, &weights];
    let head = WeightSlot::append(head.weight, &mut inputs);
    let mut outputs = apply_many(loss::Loss { options, head }, &inputs, &shapes)?;
    Ok(outputs.swap_remove(0))
}

/// As [`cross_entropy_rows`], given all `logits`, `[..., vocab]`: for heads that are more than a [`Layer`].
///
/// # Errors
/// Incompatible shapes.
pub fn cross_entropy_of_logits(
    logits: &Array,
    targets: &Array,
    weights: &Array,
    options: Options,
) -> MlxResult<Array> {
    token_losses(logits, targets, options)?.multiply(weights)?.sum_axis(-1, false)
}

/// Reference implementation composed of MLX operations.
///
/// # Errors
/// Incompatible shapes.
pub fn reference(
    hidden: &Array,
    head: &Layer,
    targets: &Array,
    weights: &Array,
    options: Options,
) -> MlxResult<Array> {
    reference_rows(hidden, head, targets, weights, options)?.sum(None)
}

fn reference_rows(
    hidden: &Array,
    head: &Layer,
    targets: &Array,
    weights: &Array,
    options: Options,
) -> MlxResult<Array> {
    let logits = linear::reference(hidden, &[*head])?.swap_remove(0);
    cross_entropy_of_logits(&logits, targets, weights, options)
}

/// Loss of each position, in the shape of `targets`, given the logits.
fn token_losses(logits: &Array, targets: &Array, options: Options) -> MlxResult<Array> {
    let mut logits = logits.as_dtype(Dtype::Float32)?;
    if let Some(cap) = options.softcap {
        logits = softcap(&logits, cap)?;
    }
    let chosen = logits.take_along_axis(targets.expand_dims(-1)?, -1)?.squeeze_axes(&[-1])?;
    let total = logits.logsumexp_axis(-1, false)?;
    let mut loss = total.subtract(chosen)?;
    if options.smoothing > 0.0 {
        let uniform = total.subtract(logits.mean_axis(-1, false)?)?;
        let share = |x: Array, share: f32| x.multiply(Array::from_f32(share));
        loss = share(loss, 1.0 - options.smoothing)?.add(share(uniform, options.smoothing)?)?;
    }
    Ok(loss)
}

#[cfg(test)]
mod tests;
