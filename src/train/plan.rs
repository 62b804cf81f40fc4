//! Resolved settings of a training run.

use super::early_stopping::EarlyStopping;
use super::optimizer::Optimizer;
use super::optimizer::lr_multipliers::LrMultipliers;
use super::schedule::LrSchedule;
use crate::kernels::group::Group;

/// Settings of a training run, resolved for a data set and a process group.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Number of optimizer steps.
    pub steps: u64,
    /// Examples per batch, over all processes of the group.
    pub batch_size: usize,
    /// Processes that train together.
    pub group: Group,
    /// Batches per optimizer step.
    pub accumulation: u64,
    /// Memory limit in bytes; `None` for the limit of the device.
    pub memory_budget: Option<u64>,
    /// Peak learning rate.
    pub lr: f64,
    /// Learning-rate multipliers of parameter groups.
    pub lr_multipliers: LrMultipliers,
    /// Learning-rate schedule.
    pub lr_schedule: LrSchedule,
    /// Number of warm-up steps.
    pub warmup_steps: u64,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// Maximum gradient norm; 0 disables gradient clipping.
    pub max_grad_norm: f32,
    /// Number of blocks per gradient checkpoint, between which activations are recomputed in the backward pass; 0
    /// keeps all activations.
    pub grad_checkpoint: usize,
    /// Whether compute graphs are reused from step to step, and steps are queued on the device before the previous
    /// one has finished.
    pub keep_graphs: bool,
    /// Seed of the data order, dropout and noise.
    pub seed: u64,
    /// Evaluate every `eval_every` steps; 0 evaluates before and after training only.
    pub eval_every: u64,
    /// Maximum number of validation batches; 0 for all.
    pub eval_batches: usize,
    /// Early-stopping criterion.
    pub early_stopping: Option<EarlyStopping>,
    /// Whether to return the parameters of the lowest validation loss instead of the last ones.
    pub keep_best: bool,
    /// Save a checkpoint every `save_every` steps; 0 saves on interruption only.
    pub save_every: u64,
}
