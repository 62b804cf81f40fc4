//! Gradient accumulation within a process, and the all-reduce between processes.

use std::ops::ControlFlow;

use mlx_rs::Array;
use mlx_rs::ops::{concatenate, zeros_like};

use crate::kernels::graphs::Graphs;
use crate::kernels::group::Group;
use crate::params::{self, Tensors};
use crate::progress::Observer;
use crate::train::gradients::{gradients, inputs};
use crate::train::plan::Plan;
use crate::train::task::batch::Batch as _;
use crate::train::task::rewards::{RewardMetrics, RewardSum};
use crate::train::task::{ForwardOptions, Loss, Task, Totals};
use crate::{Error, Result, kernels};

/// Bytes of gradients per all-reduce.
const BUCKET_BYTES: usize = 32 << 20;

/// Options of the forward and backward passes of a step.
pub(super) struct AccumulationOptions<'a> {
    /// Settings of the run.
    pub(super) plan: &'a Plan,
    /// Loss scale, in float16 only.
    pub(super) loss_scale: Option<f32>,
    /// Graphs to reuse.
    pub(super) graphs: &'a Graphs,
    /// Whether results are not waited for.
    pub(super) is_async: bool,
}

/// Losses and gradients of the batches of one process.
pub(super) struct LocalGradients {
    /// Loss of each forward pass.
    pub(super) losses: Vec<Loss>,
    /// Sum of the gradients, by parameter name.
    pub(super) grads: Tensors,
    /// Number of tokens without padding.
    pub(super) tokens: u64,
}

/// Loss and gradients of a step over all processes.
pub(super) struct ReducedGradients {
    /// The loss, for SFT the mean per target token in nats.
    pub(super) loss: f64,
    /// Reward metrics of preference pairs.
    pub(super) rewards: Option<RewardMetrics>,
    /// Gradients by parameter name, multiplied by the loss scale.
    pub(super) grads: Tensors,
    /// Number of tokens without padding.
    pub(super) tokens: u64,
}

/// Computes losses and gradients of `batches`, this process's share of the batches of step `index` and their
/// parts. Losses are divided by `totals`.
///
/// # Errors
/// [`Error::Interrupted`] if the observer stops the work; errors from MLX.
pub(super) fn accumulate<T: Task>(
    task: &T,
    model: &mut T::Model,
    parameters: &Tensors,
    options: &AccumulationOptions,
    (index, batches, totals): (u64, &[Vec<T::Batch>], Totals),
    observer: &mut dyn Observer,
) -> Result<LocalGradients> {
    let &AccumulationOptions { plan, loss_scale, graphs, is_async } = options;
    let rank = plan.group.rank() as u64;
    let (mut losses, mut sum) = (Vec::new(), None);
    for (micro_batch, parts) in (index * plan.accumulation..).zip(batches) {
        for (part, batch) in (0..).zip(parts) {
            if observer.poll() == ControlFlow::Break(()) {
                return Err(Error::Interrupted);
            }
            let rng_path = Some((plan.seed, [micro_batch, part, rank]));
            let forward =
                ForwardOptions { loss_scale, pad_for_graphs: graphs.are_kept(), rng_path, is_probe: false };
            let inputs = inputs(task, model, batch, totals, &forward)?;
            let (share, grads) = gradients(task, model, parameters, &inputs, graphs)?;
            let so_far = sum.take();
            let grads = sum.insert(params::accumulate(so_far, grads)?);
            let outputs = share.arrays().chain(grads.values());
            if is_async {
                kernels::async_eval(outputs)?;
            } else {
                kernels::eval(outputs)?;
            }
            losses.push(share);
        }
    }
    let tokens = batches.iter().flatten().map(|batch| batch.tokens() as u64).sum();
    Ok(LocalGradients { losses, grads: sum.unwrap_or_default(), tokens })
}

/// Evaluates losses and returns the sums of losses and rewards.
///
/// # Errors
/// Errors from MLX.
pub(super) fn read_losses(losses: &[Loss]) -> Result<(f64, RewardSum)> {
    kernels::eval(losses.iter().flat_map(Loss::arrays))?;
    let (mut loss, mut rewards) = (0.0, RewardSum::default());
    for share in losses {
        loss += f64::from(share.value.item_exact::<f32>());
        rewards.add(share.rewards.as_ref());
    }
    Ok((loss, rewards))
}

impl LocalGradients {
    /// All-reduces losses and gradients over `group`. `parameters` are the trained parameters.
    ///
    /// # Errors
    /// Errors from MLX.
    pub(super) fn all_reduce(self, group: Group, parameters: &Tensors) -> Result<ReducedGradients> {
        let Self { losses, mut grads, tokens } = self;
        let (loss, rewards) = read_losses(&losses)?;
        let [tokens, rest @ ..] = group.all_sum_f64(prepend(tokens as f64, rewards.with(loss)))?;
        let [loss, rewards @ ..] = rest;
        if group.size() > 1 {
            for (name, parameter) in parameters {
                // A short batch may have left nothing for this process.
                if !grads.contains_key(name) {
                    grads.insert(name.clone(), zeros_like(parameter)?);
                }
            }
            grads = all_reduce_gradients(group, grads)?;
        }
        Ok(ReducedGradients { loss, rewards: RewardSum::from(rewards).mean(), grads, tokens: tokens as u64 })
    }
}

fn prepend(first: f64, [a, b, c, d]: [f64; 4]) -> [f64; 5] {
    [first, a, b, c, d]
}

/// Sums `grads` over all processes, in buckets of [`BUCKET_BYTES`].
fn all_reduce_gradients(group: Group, grads: Tensors) -> Result<Tensors> {
    let mut buckets: Vec<Vec<(String, Array)>> = Vec::new();
    let mut room = 0;
    for (name, grad) in grads {
        let bytes = grad.nbytes();
        if bytes > room || buckets.is_empty() {
            buckets.push(Vec::new());
            room = BUCKET_BYTES.max(bytes);
        }
        room -= bytes;
        buckets.last_mut().into_iter().for_each(|bucket| bucket.push((name.clone(), grad.clone())));
    }
    let mut sums = Tensors::new();
    for bucket in buckets {
        let flat = bucket.iter().map(|(_, grad)| grad.reshape(&[-1])).collect::<Result<Vec<_>, _>>()?;
        let sum = group.all_sum(&concatenate(&flat, 0)?)?;
        let mut ends: Vec<i32> = Vec::new();
        for (_, grad) in &bucket {
            ends.push(ends.last().unwrap_or(&0) + grad.size() as i32);
        }
        ends.pop();
        let parts = sum.split_at_indices(&ends, 0)?;
        for ((name, grad), part) in bucket.into_iter().zip(parts) {
            sums.insert(name, part.reshape(grad.shape())?);
        }
        kernels::eval(sums.values())?;
    }
    Ok(sums)
}
