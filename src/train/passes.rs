//! The passes of one optimizer step: its batches, divided into what goes through the model at once.

use std::ops::ControlFlow;

use super::fit::Plan;
use super::rewards::{RewardSum, Rewards};
use super::step;
use crate::data::Batch;
use crate::io::tensors::Tensors;
use crate::models::Model;
use crate::progress::Observer;
use crate::{Error, Result, kernels};

/// Loss and gradient of a step, as if all its rows had gone through the model together.
pub(super) struct Summed {
    /// The loss; of SFT the mean per target token, in nats.
    pub(super) loss: f64,
    /// Of pairs.
    pub(super) rewards: Option<Rewards>,
    /// Its gradient by parameter name, times the scale of the loss.
    pub(super) grads: Tensors,
    /// Tokens that went through the model, padding not counted.
    pub(super) tokens: u64,
}

/// Sums over `batches`, the batches of step `index` in their parts.
///
/// # Errors
/// [`Error::Interrupted`] when the observer stops it; what MLX raises.
pub(super) fn sum(
    model: &mut dyn Model,
    parameters: &Tensors,
    plan: &Plan,
    (index, batches): (u64, &[Vec<Batch>]),
    scale: Option<f32>,
    observer: &mut dyn Observer,
) -> Result<Summed> {
    // All passes share one divisor, so a token counts the same in each of them.
    let totals = plan.objective.totals(batches.iter().flatten());
    let (mut loss, mut rewards, mut sum) = (0.0, RewardSum::default(), None);
    for (micro, parts) in (index * plan.accumulation..).zip(batches) {
        for (part, batch) in (0..).zip(parts) {
            if observer.poll() == ControlFlow::Break(()) {
                return Err(Error::Interrupted);
            }
            let draw = Some((plan.seed, [micro, part]));
            step::set_dropout(model, draw)?;
            step::set_noise(model, plan.neftune_alpha, draw)?;
            let (share, grads) = step::gradients(model, parameters, &plan.objective, batch, totals, scale)?;
            kernels::eval(std::iter::once(&share.loss).chain(&share.rewards).chain(grads.values()))?;
            loss += f64::from(share.loss.item_exact::<f32>());
            rewards.add(share.rewards.as_ref());
            sum = Some(step::accumulate(sum, grads)?);
        }
    }
    step::set_dropout(model, None)?;
    step::set_noise(model, None, None)?;
    let tokens = batches.iter().flatten().map(|batch| batch.tokens as u64).sum();
    Ok(Summed { loss, rewards: rewards.mean(), grads: sum.unwrap_or_default(), tokens })
}
