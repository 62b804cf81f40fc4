//! Report of a training run.

use mlx_rs::memory;
use mlx_rs::module::ModuleParameters;
use serde::Serialize;

use super::fit::Outcome;
use super::plan::Plan;
use super::task::Task;
use super::task::rewards::RewardMetrics;
use crate::Result;
use crate::nn::Network as _;
use crate::progress::MemoryEstimate;

/// Report of a training run. Losses are those of the task, for SFT in nats per target token; times are in seconds and
/// memory in bytes.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Training loss of the last step.
    pub final_loss: f64,
    /// Memory estimate made before the first step.
    pub memory: MemoryEstimate,
    /// Time spent in training steps.
    pub training_time_secs: f64,
    /// Peak memory of the MLX allocator.
    pub peak_memory_bytes: usize,
    /// Validation loss before training; `None` without validation data.
    pub loss_before: Option<f64>,
    /// Validation loss of the result.
    pub loss_after: Option<f64>,
    /// `exp(loss_before)`, where the loss is a negative log-likelihood.
    pub perplexity_before: Option<f64>,
    /// `exp(loss_after)`, where the loss is a negative log-likelihood.
    pub perplexity_after: Option<f64>,
    /// Rewards of the validation pairs before training.
    pub rewards_before: Option<RewardMetrics>,
    /// Rewards of the validation pairs after training.
    pub rewards_after: Option<RewardMetrics>,
    /// Tokens per second of `training_time_secs`, without padding.
    pub tokens_per_second: f64,
    /// Number of tokens trained on, without padding.
    pub trained_tokens: u64,
    /// Number of optimizer steps taken.
    pub steps: u64,
    /// Whether early stopping ended the run.
    pub stopped_early: bool,
    /// Step of the returned parameters, if the best ones are kept.
    pub best_step: Option<u64>,
    /// Training loss of each step.
    pub train_losses: Vec<f64>,
    /// `[steps taken, validation loss]`
    pub validation_losses: Vec<(u64, f64)>,
    /// Rewards of each step, for preference pairs.
    pub train_rewards: Vec<RewardMetrics>,
    /// `[steps taken, rewards of the validation pairs]`
    pub validation_rewards: Vec<(u64, RewardMetrics)>,
    /// Number of trained parameters.
    pub trainable_parameters: u64,
    /// Number of parameters, including adapters; packed weights count as what they stand for.
    pub total_parameters: u64,
    /// Step at which the run was resumed; 0 for a new run.
    pub resumed_from: u64,
    /// Number of processes that trained together.
    pub processes: usize,
}

impl Report {
    /// Summarises `outcome`. `names` are the names of the trained parameters.
    ///
    /// # Errors
    /// Errors from MLX.
    pub fn new<T: Task>(
        task: &T,
        model: &mut T::Model,
        names: &[String],
        plan: &Plan,
        resumed_from: u64,
        outcome: Outcome,
    ) -> Result<Self> {
        let Outcome { steps, history, best, memory: expected } = outcome;
        let total_parameters = model.count_parameters()?;
        let parameters = model.parameters().flatten();
        let loss = |point: Option<&(u64, f64)>| point.map(|&(_, loss)| loss);
        let perplexity = |loss: Option<f64>| loss.and_then(|loss| task.perplexity(loss));
        let rewards_after = |&(step, _): &(u64, f64)| {
            history.validation_rewards.iter().find(|(at, _)| *at == step).map(|&(_, rewards)| rewards)
        };
        let loss_before = loss(history.validation_losses.first());
        let loss_after = loss(best.as_ref().or(history.validation_losses.last()));
        Ok(Self {
            final_loss: history.train_losses.last().copied().unwrap_or(f64::NAN),
            memory: expected,
            training_time_secs: history.training_secs,
            peak_memory_bytes: memory::peak_memory()?,
            loss_before,
            loss_after,
            perplexity_before: perplexity(loss_before),
            perplexity_after: perplexity(loss_after),
            rewards_before: history.validation_rewards.first().map(|&(_, rewards)| rewards),
            rewards_after: best.as_ref().or(history.validation_losses.last()).and_then(rewards_after),
            tokens_per_second: history.trained_tokens as f64 / history.training_secs,
            trained_tokens: history.trained_tokens,
            steps,
            stopped_early: steps < plan.steps,
            best_step: best.map(|(step, _)| step),
            trainable_parameters: names.iter().map(|name| parameters[name.as_str()].size() as u64).sum(),
            total_parameters,
            train_losses: history.train_losses,
            validation_losses: history.validation_losses,
            train_rewards: history.train_rewards,
            validation_rewards: history.validation_rewards,
            resumed_from,
            processes: plan.group.size(),
        })
    }
}
