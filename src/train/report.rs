//! What a run did.

use mlx_rs::memory;
use mlx_rs::module::ModuleParameters;
use serde::Serialize;

use super::fit::Outcome;
use super::plan::Plan;
use super::task::Task;
use super::task::rewards::RewardMetrics;
use crate::Result;
use crate::progress::MemoryEstimate;

/// What a run did. Losses are those of the task, of SFT in nats per target token; times are in seconds, memory in bytes.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Loss of the last step.
    pub final_loss: f64,
    /// What it was expected to take.
    pub memory: MemoryEstimate,
    /// Time spent in steps.
    pub training_time_secs: f64,
    /// Peak of MLX's allocator.
    pub peak_memory_bytes: usize,
    /// Validation loss of the untouched model; `None` without validation rows.
    pub loss_before: Option<f64>,
    /// Validation loss of the result.
    pub loss_after: Option<f64>,
    /// `exp(loss_before)`, where the loss is a negative log-likelihood.
    pub perplexity_before: Option<f64>,
    /// `exp(loss_after)`, where the loss is a negative log-likelihood.
    pub perplexity_after: Option<f64>,
    /// Of the validation pairs under the untouched model.
    pub rewards_before: Option<RewardMetrics>,
    /// Of the validation pairs under the result.
    pub rewards_after: Option<RewardMetrics>,
    /// Tokens (padding not counted) per second of `training_time_secs`.
    pub tokens_per_second: f64,
    /// Tokens that went through the model.
    pub trained_tokens: u64,
    /// Optimizer steps taken.
    pub steps: u64,
    /// Whether the validation loss ended the run before its last step.
    pub stopped_early: bool,
    /// Steps taken before the weights of the result, where the best ones were kept.
    pub best_step: Option<u64>,
    /// Loss of every step.
    pub train_losses: Vec<f64>,
    /// `[steps taken, validation loss]`
    pub validation_losses: Vec<(u64, f64)>,
    /// Rewards of every step, where rows are pairs.
    pub train_rewards: Vec<RewardMetrics>,
    /// `[steps taken, rewards of the validation pairs]`
    pub validation_rewards: Vec<(u64, RewardMetrics)>,
    /// Number of trained parameters.
    pub trainable_parameters: u64,
    /// Number of parameters, those of adapters included.
    pub total_parameters: u64,
    /// Step this run continued from; 0 for a fresh one.
    pub resumed_from: u64,
    /// Processes that trained together.
    pub processes: usize,
}

impl Report {
    /// What `outcome` and the model after it tell; `names` are the trained parameters.
    ///
    /// # Errors
    /// What MLX raises.
    pub fn new<T: Task>(
        task: &T,
        model: &T::Model,
        names: &[String],
        plan: &Plan,
        resumed_from: u64,
        outcome: Outcome,
    ) -> Result<Self> {
        let Outcome { steps, history, best, memory: expected } = outcome;
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
            total_parameters: parameters.values().map(|x| x.size() as u64).sum(),
            train_losses: history.train_losses,
            validation_losses: history.validation_losses,
            train_rewards: history.train_rewards,
            validation_rewards: history.validation_rewards,
            resumed_from,
            processes: plan.group.size(),
        })
    }
}
