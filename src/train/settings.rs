//! Settings of the training loop.

use super::early_stopping::EarlyStopping;
use super::optimizer::lr_multipliers::LrMultipliers;
use super::optimizer::{self, Optimizer};
use super::plan::Plan;
use super::schedule::{LrSchedule, ScheduleKind, parse_table};
use crate::kernels::group::Group;
use crate::kernels::on_cpu;
use crate::{Error, Result};

/// Settings of the training loop, with their defaults. The configuration of a capability has fields of the same
/// names.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Number of epochs.
    pub epochs: f64,
    /// Number of optimizer steps; overrides `epochs`.
    pub iters: Option<u64>,
    /// Peak learning rate.
    pub lr: f64,
    /// Examples per batch and process.
    pub batch_size: usize,
    /// Number of batches per optimizer step.
    pub grad_accumulation: u64,
    /// Memory limit in units of 10⁹ bytes; `None` for the limit of the device.
    pub memory_budget_gb: Option<f64>,
    /// Random seed.
    pub seed: u64,
    /// The optimizer.
    pub optimizer: optimizer::OptimizerKind,
    /// Momentum of SGD (`None`: 0.9) and Muon (`None`: 0.95).
    pub momentum: Option<f64>,
    /// Whether SGD uses Nesterov momentum.
    pub nesterov: bool,
    /// Weight decay; `None` for 0.01 with `AdamW`, Lion and Muon, 0 with the others.
    pub weight_decay: Option<f64>,
    /// Decay of the first moment of Adam and `AdamW`; of the interpolation of Lion.
    pub beta1: f64,
    /// Decay of the second moment of Adam and `AdamW` (`None`: 0.999); of the momentum of Lion (`None`: 0.99).
    pub beta2: Option<f64>,
    /// Term added to the denominator of Adam and `AdamW`.
    pub eps: f64,
    /// Learning-rate schedule after the warm-up.
    pub schedule: ScheduleKind,
    /// Fraction of all steps used for the warm-up.
    pub warmup_ratio: f64,
    /// Minimum learning rate as a fraction of `lr`.
    pub lr_min_ratio: f64,
    /// Number of cycles of the schedule `cosine_with_restarts`.
    pub lr_cycles: u32,
    /// Exponent of the schedule `polynomial`.
    pub lr_power: f64,
    /// Fraction of all steps in which the schedule `wsd` decays.
    pub lr_decay_ratio: f64,
    /// Points `step=factor` of the schedule `table`.
    pub lr_table: Option<Vec<String>>,
    /// Maximum gradient norm; 0 disables gradient clipping.
    pub max_grad_norm: f64,
    /// Number of evaluations without an improvement after which training stops; `None` to disable early stopping.
    pub early_stopping_patience: Option<u64>,
    /// Minimum decrease of the validation loss that counts as an improvement.
    pub early_stopping_threshold: f64,
    /// Whether to keep the parameters of the lowest validation loss instead of the last ones.
    pub keep_best: bool,
    /// Number of blocks per gradient checkpoint ([gradient checkpointing](https://arxiv.org/abs/1604.06174)),
    /// between which activations are recomputed; 0 keeps all activations.
    pub grad_checkpoint: usize,
    /// Evaluate every `eval_every` steps; 0 evaluates before and after training only.
    pub eval_every: u64,
    /// Maximum number of validation batches; 0 for all.
    pub eval_batches: usize,
    /// Save a checkpoint every `save_every` steps; 0 saves on interruption only.
    pub save_every: u64,
    /// Number of checkpoints to keep.
    pub keep_checkpoints: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            epochs: 3.0,
            iters: None,
            lr: 2e-4,
            batch_size: 4,
            grad_accumulation: 1,
            memory_budget_gb: None,
            seed: 0,
            optimizer: optimizer::OptimizerKind::AdamW,
            momentum: None,
            nesterov: false,
            weight_decay: None,
            beta1: 0.9,
            beta2: None,
            eps: 1e-8,
            schedule: ScheduleKind::Cosine,
            warmup_ratio: 0.05,
            lr_min_ratio: 0.0,
            lr_cycles: 2,
            lr_power: 2.0,
            lr_decay_ratio: 0.2,
            lr_table: None,
            max_grad_norm: 1.0,
            early_stopping_patience: None,
            early_stopping_threshold: 0.0,
            keep_best: true,
            grad_checkpoint: 0,
            eval_every: 100,
            eval_batches: 25,
            save_every: 100,
            keep_checkpoints: 2,
        }
    }
}

impl Settings {
    /// Checks the value of every setting.
    ///
    /// # Errors
    /// The first key out of range, with its value and the valid range.
    pub fn validate(&self) -> Result<()> {
        let positive = |value: f64| value > 0.0 && value.is_finite();
        let ratio = |value: f64| (0.0..=1.0).contains(&value);
        let decay = |value: f64| (0.0..1.0).contains(&value);
        let (budget, weight_decay) = (self.memory_budget_gb.unwrap_or(1.0), self.weight_decay.unwrap_or(0.0));
        let (beta2, patience) = (self.beta2.unwrap_or(0.0), self.early_stopping_patience.unwrap_or(1));
        let (accumulation, threshold) = (self.grad_accumulation, self.early_stopping_threshold);
        let checks = [
            ("epochs", self.epochs, positive(self.epochs), "above 0"),
            ("iters", self.iters.unwrap_or(1) as f64, self.iters != Some(0), "above 0"),
            ("lr", self.lr, positive(self.lr), "above 0"),
            ("batch_size", self.batch_size as f64, self.batch_size > 0, "above 0"),
            ("grad_accumulation", accumulation as f64, (1..=1 << 16).contains(&accumulation), "1 to 65536"),
            ("memory_budget_gb", budget, positive(budget), "above 0"),
            ("weight_decay", weight_decay, weight_decay >= 0.0, "0 or more"),
            ("beta1", self.beta1, decay(self.beta1), "0 to below 1"),
            ("beta2", beta2, decay(beta2), "0 to below 1"),
            ("eps", self.eps, self.eps > 0.0, "above 0"),
            ("warmup_ratio", self.warmup_ratio, ratio(self.warmup_ratio), "0 to 1"),
            ("max_grad_norm", self.max_grad_norm, self.max_grad_norm >= 0.0, "0 or more"),
            ("keep_checkpoints", self.keep_checkpoints as f64, self.keep_checkpoints > 0, "above 0"),
            ("lr_min_ratio", self.lr_min_ratio, ratio(self.lr_min_ratio), "0 to 1"),
            ("lr_cycles", self.lr_cycles.into(), self.lr_cycles > 0, "above 0"),
            ("lr_power", self.lr_power, positive(self.lr_power), "above 0"),
            ("lr_decay_ratio", self.lr_decay_ratio, ratio(self.lr_decay_ratio), "0 to 1"),
            ("early_stopping_patience", patience as f64, patience > 0, "above 0"),
            ("early_stopping_threshold", threshold, threshold >= 0.0 && threshold.is_finite(), "0 or more"),
        ];
        for (key, value, holds, range) in checks {
            if !holds {
                return Err(Error::Config(format!("{key} is {value}, expected {range}")));
            }
        }
        if self.early_stopping_patience.is_some() && self.eval_every == 0 {
            return Err(Error::Config("early_stopping_patience needs eval_every above 0".into()));
        }
        self.optimizer()?;
        self.lr_schedule().map(|_| ())
    }

    /// Resolves the settings for `examples` training examples and the processes of `group`. `random_blocks` tells
    /// whether blocks of the model draw random numbers, as dropout does.
    ///
    /// # Errors
    /// As [`validate`](Self::validate).
    pub fn plan(
        &self,
        examples: usize,
        lr_multipliers: LrMultipliers,
        random_blocks: bool,
        group: Group,
    ) -> Result<Plan> {
        let batch_size = self.batch_size * group.size();
        let batches = examples.div_ceil(batch_size.max(1)) as f64 * self.epochs;
        let steps = self.iters.unwrap_or_else(|| (batches / self.grad_accumulation as f64).ceil() as u64);
        Ok(Plan {
            steps,
            batch_size,
            group,
            accumulation: self.grad_accumulation,
            memory_budget: self.memory_budget_gb.map(|budget| (budget * 1e9) as u64),
            lr: self.lr,
            lr_multipliers,
            lr_schedule: self.lr_schedule()?,
            warmup_steps: (steps as f64 * self.warmup_ratio).round() as u64,
            optimizer: self.optimizer()?,
            max_grad_norm: self.max_grad_norm as f32,
            seed: self.seed,
            grad_checkpoint: self.grad_checkpoint,
            // MLX would take the mask that a block draws again for the first one, and keep that.
            keep_graphs: !on_cpu() && (self.grad_checkpoint == 0 || !random_blocks),
            early_stopping: self
                .early_stopping_patience
                .map(|patience| EarlyStopping { patience, threshold: self.early_stopping_threshold }),
            keep_best: self.keep_best,
            eval_every: self.eval_every,
            eval_batches: self.eval_batches,
            save_every: self.save_every,
        })
    }

    fn optimizer(&self) -> Result<Optimizer> {
        Optimizer::new(&optimizer::OptimizerSettings {
            kind: self.optimizer,
            momentum: self.momentum,
            nesterov: self.nesterov,
            weight_decay: self.weight_decay,
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
        })
    }

    fn lr_schedule(&self) -> Result<LrSchedule> {
        if self.lr_table.is_some() != (self.schedule == ScheduleKind::Table) {
            return Err(Error::Config("lr_table and schedule \"table\" need each other".into()));
        }
        Ok(LrSchedule {
            kind: self.schedule,
            min_ratio: self.lr_min_ratio,
            cycles: self.lr_cycles,
            power: self.lr_power,
            decay_ratio: self.lr_decay_ratio,
            table: self.lr_table.as_deref().map(parse_table).transpose()?.unwrap_or_default(),
        })
    }
}
