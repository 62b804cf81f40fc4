//! Evaluation on the validation data.

use std::ops::ControlFlow;

use super::accumulation::read_losses;
use crate::kernels::group::Group;
use crate::progress::Observer;
use crate::train::plan::Plan;
use crate::train::task::data::DataModule;
use crate::train::task::max_tokens::MaxTokens;
use crate::train::task::rewards::{RewardMetrics, RewardSum};
use crate::train::task::{ForwardOptions, Loss, Task, Totals};
use crate::{Error, Result, kernels};

/// Result of an evaluation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Evaluation {
    /// The loss, for SFT in nats per target token.
    pub(super) loss: f64,
    /// Reward metrics of preference pairs.
    pub(super) rewards: Option<RewardMetrics>,
}

/// Computes the loss over all validation batches of `plan` as if they were one batch, at most `max_tokens` at a
/// time.
///
/// # Errors
/// Errors from MLX; [`Error::Interrupted`] if the observer stops the work.
pub(super) fn evaluate<T: Task, D: DataModule<Batch = T::Batch>>(
    task: &T,
    model: &mut T::Model,
    data: &D,
    plan: &Plan,
    max_tokens: MaxTokens,
    observer: &mut dyn Observer,
) -> Result<Evaluation> {
    // Those of all processes, without asking them: who runs out of memory begins again while others go on.
    let all = data.validation(plan, Group::ALONE, max_tokens);
    let totals = all.fold(Totals::default(), |sum, batch| sum + task.totals(&batch));
    let (mut loss, mut rewards) = (0.0, RewardSum::default());
    let mut add = |batch_loss: &Loss| -> Result<()> {
        let (of_batch, of_pairs) = read_losses(std::slice::from_ref(batch_loss))?;
        loss += of_batch;
        rewards.merge(of_pairs);
        Ok(())
    };
    // A GPU is given the next batch before the figures of the last one are read.
    let mut pending: Option<Loss> = None;
    for batch in data.validation(plan, plan.group, max_tokens) {
        if observer.poll() == ControlFlow::Break(()) {
            return Err(Error::Interrupted);
        }
        let inputs = task.inputs(model, &batch, totals, &ForwardOptions::default())?;
        let batch_loss = task.loss(model, &inputs, false)?;
        if kernels::on_cpu() {
            add(&batch_loss)?;
        } else {
            kernels::async_eval(batch_loss.arrays())?;
            pending.replace(batch_loss).iter().try_for_each(&mut add)?;
        }
    }
    pending.iter().try_for_each(add)?;
    let [loss, rest @ ..] = plan.group.all_sum_f64(rewards.with(loss))?;
    Ok(Evaluation { loss, rewards: RewardSum::from(rest).mean() })
}
