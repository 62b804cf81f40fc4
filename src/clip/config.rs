//! The configuration of contrastive fine-tuning, with its defaults.

use serde::{Deserialize, Serialize};

use super::loss::LossKind;
use crate::adapters::Format;
use crate::adapters::attach::{AdapterSettings, Init, Scaling};
use crate::train::optimizer::OptimizerKind;
use crate::train::schedule::ScheduleKind;
use crate::train::settings::Settings;
use crate::{Error, Result};

/// What is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Low-rank adapters ([LoRA](https://arxiv.org/abs/2106.09685)).
    Lora,
    /// Low-rank adapters with magnitudes ([DoRA](https://arxiv.org/abs/2402.09353)).
    Dora,
    /// All parameters.
    Full,
}

/// One of both encoders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tower {
    /// Of images, with its projection.
    Vision,
    /// Of texts, with its projection.
    Text,
}

impl Tower {
    /// Whether the parameter or layer `name` belongs to the tower.
    #[must_use]
    pub fn owns(self, name: &str) -> bool {
        let parts = match self {
            Self::Vision => ["vision_model.", "visual_projection"],
            Self::Text => ["text_model.", "text_projection"],
        };
        parts.iter().any(|part| name.starts_with(part))
    }
}

/// Configuration of a run. Its defaults are authoritative: a test holds the Python dataclass equal to them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClipConfig {
    /// Folder or hub id of a model.
    pub model_path: Option<String>,
    /// Image–text pairs: a table, or a folder of images.
    pub data: Option<String>,
    /// Image–text pairs for validation; `None` to set `validation_ratio` of `data` aside.
    pub validation_data: Option<String>,
    /// Fraction of the images of `data` that are set aside for validation.
    pub validation_ratio: f64,
    /// Output folder.
    pub output: Option<String>,
    /// What is trained.
    pub method: Method,
    /// The loss; `None` for that of the architecture.
    pub loss: Option<LossKind>,
    /// Towers that are not trained.
    pub freeze: Option<Vec<Tower>>,
    /// Side of images in pixels; `None` for that of the model.
    pub image_size: Option<u32>,
    /// Number of epochs.
    pub epochs: f64,
    /// Number of optimizer steps; overrides `epochs`.
    pub iters: Option<u64>,
    /// Peak learning rate.
    pub lr: f64,
    /// Pairs per batch; all others in it are negatives.
    pub batch_size: usize,
    /// Number of batches per optimizer step; pairs of different batches are no negatives of each other.
    pub grad_accumulation: u64,
    /// Memory limit in units of 10⁹ bytes; `None` for the limit of the device.
    pub memory_budget_gb: Option<f64>,
    /// Rank of the adapters.
    pub lora_rank: u32,
    /// Numerator of the scaling factor `lora_alpha / lora_rank`.
    pub lora_alpha: f64,
    /// Dropout probability of the adapter inputs.
    pub lora_dropout: f64,
    /// Layers with an adapter, such as `q_proj`; `None` for all linear layers.
    pub target_modules: Option<Vec<String>>,
    /// Format of the adapter.
    pub adapter_format: Format,
    /// Data type `float32`, `float16` or `bfloat16`; `None` for float32 on a CPU and that of the model on a GPU.
    pub dtype: Option<String>,
    /// Random seed.
    pub seed: u64,
    /// The optimizer.
    pub optimizer: OptimizerKind,
    /// Weight decay; `None` for that of the optimizer.
    pub weight_decay: Option<f64>,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment; `None` for that of the optimizer.
    pub beta2: Option<f64>,
    /// Term added to the denominator of Adam and `AdamW`.
    pub eps: f64,
    /// Learning-rate schedule after the warm-up.
    pub schedule: ScheduleKind,
    /// Fraction of all steps used for the warm-up.
    pub warmup_ratio: f64,
    /// Minimum learning rate as a fraction of `lr`.
    pub lr_min_ratio: f64,
    /// Maximum gradient norm; 0 disables gradient clipping.
    pub max_grad_norm: f64,
    /// Number of evaluations without an improvement after which training stops; `None` to disable early stopping.
    pub early_stopping_patience: Option<u64>,
    /// Whether to keep the parameters of the lowest validation loss instead of the last ones.
    pub keep_best: bool,
    /// Number of blocks per gradient checkpoint ([gradient checkpointing](https://arxiv.org/abs/1604.06174)); 0 keeps all
    /// activations.
    pub grad_checkpoint: usize,
    /// Evaluate every `eval_every` steps; 0 evaluates before and after training only.
    pub eval_every: u64,
    /// Maximum number of validation batches; 0 for all.
    pub eval_batches: usize,
    /// Save a checkpoint every `save_every` steps; 0 saves on interruption only.
    pub save_every: u64,
    /// Number of checkpoints to keep.
    pub keep_checkpoints: usize,
    /// Whether to resume the unfinished run in `output`.
    pub resume: bool,
    /// Whether to replace the run in `output`.
    pub overwrite: bool,
}

impl Default for ClipConfig {
    fn default() -> Self {
        let settings = Settings::default();
        Self {
            model_path: None,
            data: None,
            validation_data: None,
            validation_ratio: 0.1,
            output: None,
            method: Method::Lora,
            loss: None,
            freeze: None,
            image_size: None,
            epochs: settings.epochs,
            iters: settings.iters,
            lr: 1e-4,
            batch_size: 32,
            grad_accumulation: settings.grad_accumulation,
            memory_budget_gb: settings.memory_budget_gb,
            lora_rank: 8,
            lora_alpha: 16.0,
            lora_dropout: 0.0,
            target_modules: None,
            adapter_format: Format::Peft,
            dtype: None,
            seed: settings.seed,
            optimizer: settings.optimizer,
            weight_decay: settings.weight_decay,
            beta1: settings.beta1,
            beta2: Some(0.98),
            eps: 1e-6,
            schedule: settings.schedule,
            warmup_ratio: 0.1,
            lr_min_ratio: settings.lr_min_ratio,
            max_grad_norm: settings.max_grad_norm,
            early_stopping_patience: settings.early_stopping_patience,
            keep_best: settings.keep_best,
            grad_checkpoint: settings.grad_checkpoint,
            eval_every: settings.eval_every,
            eval_batches: settings.eval_batches,
            save_every: settings.save_every,
            keep_checkpoints: settings.keep_checkpoints,
            resume: false,
            overwrite: false,
        }
    }
}

impl ClipConfig {
    /// Checks the value of every setting.
    ///
    /// # Errors
    /// The first key out of range, with its value and the valid range.
    pub fn validate(&self) -> Result<()> {
        let dropout = (0.0..1.0).contains(&self.lora_dropout) && (self.lora_dropout as f32) < 1.0;
        let checks = [
            (
                "batch_size",
                self.batch_size as f64,
                self.batch_size > 1,
                "2 or more: a pair alone has no negatives",
            ),
            (
                "validation_ratio",
                self.validation_ratio,
                (0.0..1.0).contains(&self.validation_ratio),
                "0 to below 1",
            ),
            ("lora_rank", self.lora_rank.into(), (1..=1 << 16).contains(&self.lora_rank), "1 to 65536"),
            ("lora_alpha", self.lora_alpha, self.lora_alpha > 0.0 && self.lora_alpha.is_finite(), "above 0"),
            ("lora_dropout", self.lora_dropout, dropout, "0 to below 1"),
            ("image_size", self.image_size.unwrap_or(1).into(), self.image_size != Some(0), "above 0"),
        ];
        for (key, value, holds, range) in checks {
            if !holds {
                return Err(Error::Config(format!("{key} is {value}, expected {range}")));
            }
        }
        if self.target_modules.as_ref().is_some_and(Vec::is_empty) {
            return Err(Error::Config("target_modules is empty, expected names such as q_proj".into()));
        }
        if self.is_frozen(Tower::Vision) && self.is_frozen(Tower::Text) {
            return Err(Error::Config("freeze names both towers, so that nothing is left to train".into()));
        }
        if self.resume && self.overwrite {
            return Err(Error::Config("resume and overwrite exclude each other".into()));
        }
        self.settings().validate()?;
        self.dtype.as_deref().map_or(Ok(()), |name| crate::io::tensors::dtype(name).map(|_| ()))
    }

    /// Whether `tower` is not trained.
    #[must_use]
    pub fn is_frozen(&self, tower: Tower) -> bool {
        self.freeze.iter().flatten().any(|frozen| *frozen == tower)
    }

    /// Returns the settings of new adapters.
    #[must_use]
    pub fn adapter_settings(&self) -> AdapterSettings<'_> {
        AdapterSettings {
            target_modules: self.target_modules.as_deref(),
            num_layers: None,
            rank: self.lora_rank,
            rank_pattern: None,
            alpha: self.lora_alpha,
            scaling: Scaling::Rank,
            dropout: self.lora_dropout as f32,
            init: if self.method == Method::Dora { Init::Dora } else { Init::Lora },
            seed: self.seed,
        }
    }

    /// Returns the settings of the training loop.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings {
            epochs: self.epochs,
            iters: self.iters,
            lr: self.lr,
            batch_size: self.batch_size,
            grad_accumulation: self.grad_accumulation,
            memory_budget_gb: self.memory_budget_gb,
            seed: self.seed,
            optimizer: self.optimizer,
            weight_decay: self.weight_decay,
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            schedule: self.schedule,
            warmup_ratio: self.warmup_ratio,
            lr_min_ratio: self.lr_min_ratio,
            max_grad_norm: self.max_grad_norm,
            early_stopping_patience: self.early_stopping_patience,
            keep_best: self.keep_best,
            grad_checkpoint: self.grad_checkpoint,
            eval_every: self.eval_every,
            eval_batches: self.eval_batches,
            save_every: self.save_every,
            keep_checkpoints: self.keep_checkpoints,
            ..Settings::default()
        }
    }

    /// Returns the settings that affect the loss curve, which a resumed run must match.
    #[must_use]
    pub fn identity(&self) -> serde_json::Value {
        let mut json = serde_json::to_value(self).unwrap_or_default();
        if let Some(fields) = json.as_object_mut() {
            for key in [
                "model_path",
                "data",
                "validation_data",
                "output",
                "memory_budget_gb",
                "adapter_format",
                "epochs",
                "iters",
                "early_stopping_patience",
                "eval_every",
                "eval_batches",
                "save_every",
                "keep_checkpoints",
                "resume",
                "overwrite",
            ] {
                fields.shift_remove(key);
            }
        }
        json
    }
}
