//! The numbers of a run.

use super::early_stopping::EarlyStopping;
use super::optimizer::Optimizer;
use super::optimizer::lr_multipliers::LrMultipliers;
use super::schedule::LrSchedule;
use crate::kernels::group::Group;

/// How to train. Every number comes from the configuration of the caller.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Optimizer steps.
    pub steps: u64,
    /// Examples per batch, of which each process of the group reads its share.
    pub batch_size: usize,
    /// The processes that train together.
    pub group: Group,
    /// Batches per optimizer step.
    pub accumulation: u64,
    /// Bytes of MLX's memory to stay below; `None` for the device's.
    pub memory_budget: Option<u64>,
    /// Peak learning rate.
    pub lr: f64,
    /// Parameters that learn faster or slower.
    pub lr_multipliers: LrMultipliers,
    /// Its course.
    pub lr_schedule: LrSchedule,
    /// Steps until the peak.
    pub warmup_steps: u64,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// Gradient norm above which gradients are scaled down; 0 for never.
    pub max_grad_norm: f32,
    /// Blocks between two states that are kept for the gradient; 0 to keep everything.
    pub grad_checkpoint: usize,
    /// Whether the graphs of a step are kept for others, and the device is given a step before the last one is done.
    pub keep_graphs: bool,
    /// Seed of data order, dropout and noise.
    pub seed: u64,
    /// Steps between evaluations; 0 for before and after only.
    pub eval_every: u64,
    /// Validation batches that are scored; 0 for all.
    pub eval_batches: usize,
    /// When to stop early.
    pub early_stopping: Option<EarlyStopping>,
    /// Whether the result is what had the lowest validation loss, or else what the last step left.
    pub keep_best: bool,
    /// Steps between checkpoints; 0 for none but on interruption.
    pub save_every: u64,
}
