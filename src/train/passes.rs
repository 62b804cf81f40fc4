//! The passes of one optimizer step: its batches, divided into what goes through the model at once.

use std::ops::ControlFlow;

use mlx_rs::Array;
use mlx_rs::ops::{concatenate, zeros_like};

use super::objective::Totals;
use super::plan::Plan;
use super::rewards::{RewardSum, Rewards};
use super::step;
use crate::data::Batch;
use crate::io::tensors::Tensors;
use crate::kernels::group::Group;
use crate::models::Model;
use crate::progress::Observer;
use crate::{Error, Result, kernels};

/// Bytes of gradients that processes exchange at once.
const EXCHANGED: usize = 32 << 20;

/// Sums over what one process reads in a step.
pub(super) struct Sums {
    loss: f64,
    rewards: RewardSum,
    grads: Tensors,
    tokens: f64,
}

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

/// Sums over `batches`, this process's share of the batches of step `index` in their parts, divided by `totals`.
///
/// # Errors
/// [`Error::Interrupted`] when the observer stops it; what MLX raises.
pub(super) fn sum(
    model: &mut dyn Model,
    parameters: &Tensors,
    plan: &Plan,
    (index, batches, totals): (u64, &[Vec<Batch>], Totals),
    scale: Option<f32>,
    observer: &mut dyn Observer,
) -> Result<Sums> {
    let rank = plan.evaluation.group.rank() as u64;
    let (mut loss, mut rewards, mut sum) = (0.0, RewardSum::default(), None);
    for (micro, parts) in (index * plan.accumulation..).zip(batches) {
        for (part, batch) in (0..).zip(parts) {
            if observer.poll() == ControlFlow::Break(()) {
                return Err(Error::Interrupted);
            }
            let draw = Some((plan.seed, [micro, part, rank]));
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
    let tokens = batches.iter().flatten().map(|batch| batch.tokens as f64).sum();
    Ok(Sums { loss, rewards, grads: sum.unwrap_or_default(), tokens })
}

impl Sums {
    /// With those of the other processes; `parameters` are what the gradients are of.
    ///
    /// # Errors
    /// What MLX raises.
    pub(super) fn over(self, group: Group, parameters: &Tensors) -> Result<Summed> {
        let Self { loss, rewards, mut grads, tokens } = self;
        let [tokens, rest @ ..] = group.all_sum_f64(prepend(tokens, rewards.with(loss)))?;
        let [loss, rewards @ ..] = rest;
        if group.size() > 1 {
            for (name, parameter) in parameters {
                // A short batch may have left nothing for this process.
                if !grads.contains_key(name) {
                    grads.insert(name.clone(), zeros_like(parameter)?);
                }
            }
            grads = exchanged(group, grads)?;
        }
        Ok(Summed { loss, rewards: RewardSum::from(rewards).mean(), grads, tokens: tokens as u64 })
    }
}

fn prepend(first: f64, [a, b, c, d]: [f64; 4]) -> [f64; 5] {
    [first, a, b, c, d]
}

/// `grads` summed over processes, many small ones in one message.
fn exchanged(group: Group, grads: Tensors) -> Result<Tensors> {
    let mut messages: Vec<Vec<(String, Array)>> = Vec::new();
    let mut room = 0;
    for (name, grad) in grads {
        let bytes = grad.nbytes();
        if bytes > room || messages.is_empty() {
            messages.push(Vec::new());
            room = EXCHANGED.max(bytes);
        }
        room -= bytes;
        messages.last_mut().into_iter().for_each(|message| message.push((name.clone(), grad.clone())));
    }
    let mut sums = Tensors::new();
    for message in messages {
        let flat = message.iter().map(|(_, grad)| grad.reshape(&[-1])).collect::<Result<Vec<_>, _>>()?;
        let sum = group.all_sum(&concatenate(&flat, 0)?)?;
        let mut ends: Vec<i32> = Vec::new();
        for (_, grad) in &message {
            ends.push(ends.last().unwrap_or(&0) + grad.size() as i32);
        }
        ends.pop();
        let parts = sum.split_at_indices(&ends, 0)?;
        for ((name, grad), part) in message.into_iter().zip(parts) {
            sums.insert(name, part.reshape(grad.shape())?);
        }
        kernels::eval(sums.values())?;
    }
    Ok(sums)
}
