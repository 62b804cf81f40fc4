//! State of a training run.

use serde::{Deserialize, Serialize};

use super::best::BestParameters;
use crate::params::Tensors;
use crate::train::gradients::loss_scale::LossScale;
use crate::train::optimizer::OptimizerState;
use crate::train::task::rewards::RewardMetrics;

/// Loss curves and counters of a run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// Loss of each step, for SFT in nats per target token.
    pub train_losses: Vec<f64>,
    /// `(steps taken, validation loss)`.
    pub validation_losses: Vec<(u64, f64)>,
    /// Rewards of each step, for preference pairs.
    pub train_rewards: Vec<RewardMetrics>,
    /// `(steps taken, rewards of the validation set)`.
    pub validation_rewards: Vec<(u64, RewardMetrics)>,
    /// Number of tokens trained on, without padding.
    pub trained_tokens: u64,
    /// Time spent in training steps, in seconds.
    pub training_secs: f64,
}

/// State of a run after a step.
#[derive(Debug, Clone)]
pub struct TrainingState {
    /// Number of steps taken.
    pub step: u64,
    /// The trained parameters.
    pub parameters: Tensors,
    /// The optimizer state.
    pub optimizer: OptimizerState,
    /// The merged state of all hooks.
    pub hooks: Tensors,
    /// Loss curves so far.
    pub history: History,
    /// Parameters with the lowest validation loss, if the run keeps them.
    pub best: Option<BestParameters>,
    /// Loss scale, in float16 only.
    pub loss_scale: Option<LossScale>,
}
