//! The state of a run.

use serde::{Deserialize, Serialize};

use super::best::BestParameters;
use crate::params::Tensors;
use crate::train::gradients::loss_scale::LossScale;
use crate::train::optimizer::OptimizerState;
use crate::train::task::rewards::RewardMetrics;

/// The curves of a run so far.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// Loss of every step; of SFT in nats per target token.
    pub train_losses: Vec<f64>,
    /// `(steps taken, validation loss)`.
    pub validation_losses: Vec<(u64, f64)>,
    /// Rewards of every step, where rows are pairs.
    pub train_rewards: Vec<RewardMetrics>,
    /// `(steps taken, rewards of the validation set)`.
    pub validation_rewards: Vec<(u64, RewardMetrics)>,
    /// Tokens that went through the model, padding not counted.
    pub trained_tokens: u64,
    /// Time spent in steps, in seconds.
    pub training_secs: f64,
}

/// A run at the end of a step.
#[derive(Debug, Clone)]
pub struct TrainingState {
    /// Steps taken.
    pub step: u64,
    /// The trained parameters.
    pub parameters: Tensors,
    /// The optimizer's memory.
    pub optimizer: OptimizerState,
    /// The memory of the method.
    pub hooks: Tensors,
    /// Curves so far.
    pub history: History,
    /// The parameters of the lowest validation loss, where the run keeps them.
    pub best: Option<BestParameters>,
    /// Factor of the loss, in float16.
    pub loss_scale: Option<LossScale>,
}
