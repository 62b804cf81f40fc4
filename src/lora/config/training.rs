//! The configuration of fine-tuning, with its defaults.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::init::{LoraInit, PromptInit};
use super::method::Method;
use crate::adapters::Format;
use crate::train::optimizer;
use crate::train::schedule::ScheduleKind;
use crate::train::settings::Settings;
use crate::train::text::objective;

/// Configuration of a fine-tuning run. Its defaults are authoritative: tests hold the Python dataclass and the
/// command line equal to them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own, named by the user")]
pub struct TrainingConfig {
    /// Model folder or hub id; `None` for the embedded model.
    pub model_path: Option<String>,
    /// Folder with train/valid/test.jsonl (or .json, .csv, .tsv, .parquet), a file, or several of them separated
    /// by commas, each with an optional `=weight`; `None` for the bundled instructions.
    pub data: Option<String>,
    /// Output folder; `None` for a new numbered one under `runs/`.
    pub output: Option<String>,
    /// Fine-tuning method.
    pub method: Method,
    /// Number of epochs.
    pub epochs: f64,
    /// Number of optimizer steps; overrides `epochs`.
    pub iters: Option<u64>,
    /// Peak learning rate.
    pub lr: f64,
    /// Rows, or preference pairs, per batch.
    pub batch_size: usize,
    /// Number of batches per optimizer step.
    pub grad_accumulation: u64,
    /// Memory limit in units of 10⁹ bytes; batches that need more are split, with the same result. `None` for the
    /// limit of the device.
    pub memory_budget_gb: Option<f64>,
    /// Maximum length in tokens; longer rows are truncated.
    pub max_seq_length: usize,
    /// Rank of the adapters; for `AdaLoRA` the mean rank at the end.
    pub lora_rank: u32,
    /// Numerator of the scaling factor `lora_alpha / lora_rank`, unless `use_rslora`.
    pub lora_alpha: f64,
    /// Ranks of layers by name or pattern, as in [PEFT](https://github.com/huggingface/peft): the first match
    /// counts. 0 disables the adapter of a layer.
    pub rank_pattern: Option<IndexMap<String, u32>>,
    /// Dropout probability of the adapter inputs.
    pub lora_dropout: f64,
    /// Whether to scale adapters by `lora_alpha / √lora_rank`.
    pub use_rslora: bool,
    /// Ratio of the learning rate of `B` and magnitudes to that of `A`; `None` for 1.
    pub loraplus_lr_ratio: Option<f64>,
    /// Initialization of the adapters.
    pub lora_init: LoraInit,
    /// Initial rank of `AdaLoRA`; `None` for one and a half times `lora_rank`.
    pub adalora_init_rank: Option<u32>,
    /// Number of steps of `AdaLoRA` before ranks decrease.
    pub adalora_tinit: u64,
    /// Number of steps of `AdaLoRA` after the last allocation.
    pub adalora_tfinal: u64,
    /// Number of steps of `AdaLoRA` between two allocations.
    pub adalora_delta_t: u64,
    /// Decay of the smoothed sensitivity of `AdaLoRA`.
    pub adalora_beta1: f64,
    /// Decay of the smoothed uncertainty of `AdaLoRA`.
    pub adalora_beta2: f64,
    /// Weight of the orthogonality penalty of `AdaLoRA`.
    pub adalora_orth_reg_weight: f64,
    /// Number of virtual tokens ([`prompt`](crate::lora::prompt)).
    pub num_virtual_tokens: u32,
    /// Initialization of the virtual tokens of prompt tuning.
    pub prompt_tuning_init: PromptInit,
    /// Initial text of `prompt_tuning_init` `text`.
    pub prompt_tuning_init_text: Option<String>,
    /// Whether prefixes are computed by a small network.
    pub prefix_projection: bool,
    /// Hidden size of the network over virtual tokens; `None` for its input size.
    pub encoder_hidden_size: Option<u32>,
    /// Layers with an adapter, such as `q_proj`; `None` for all linear layers of the blocks. `lm_head` is the output
    /// head.
    pub target_modules: Option<Vec<String>>,
    /// Number of blocks with adapters, counted from the last; `None` for all.
    pub num_layers: Option<u32>,
    /// Adapter folder to start from.
    pub init_adapter: Option<String>,
    /// Format of the adapter; virtual tokens are always written in that of PEFT.
    pub adapter_format: Format,
    /// Whether to train on answers only, not on prompts.
    pub mask_prompt: bool,
    /// Training objective; all but `sft` need preference pairs.
    pub objective: objective::ObjectiveKind,
    /// Strength of the implicit KL penalty of DPO; larger values keep the model closer to the reference.
    pub dpo_beta: f64,
    /// Label smoothing of DPO.
    pub dpo_label_smoothing: f64,
    /// Weight of the odds-ratio loss of ORPO.
    pub orpo_lambda: f64,
    /// Column mapping of the data, such as `prompt=question`; `None` for the default names.
    pub columns: Option<Vec<String>>,
    /// Options of the chat template, such as `enable_thinking`; those of a row take precedence.
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// Whether to pack short rows into rows of `max_seq_length` tokens, without attention between them.
    /// `batch_size` counts packed rows.
    pub packing: bool,
    /// Whether to leave training rows, which must be jsonl, on disk and read them when needed.
    pub streaming: bool,
    /// Data type `float32`, `float16` or `bfloat16`; `None` for float32 on a CPU and that of the model on a GPU.
    pub dtype: Option<String>,
    /// Bits per weight to which frozen matrices are quantized on loading
    /// ([QLoRA](https://arxiv.org/abs/2305.14314)); `None` to leave them unchanged.
    pub bits: Option<u32>,
    /// Bits per weight to which weights are rounded while they are trained
    /// ([quantization-aware training](https://arxiv.org/abs/1712.05877)); the result is a quantized model folder.
    /// `None` to train unrounded weights.
    pub qat_bits: Option<u32>,
    /// Consecutive weights that share a scale and a bias in quantization-aware training.
    pub qat_group_size: u32,
    /// Bits per weight of embeddings and output head in quantization-aware training.
    pub qat_embedding_bits: u32,
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
    /// Decay of the first moment of Adam and `AdamW`; interpolation factor of Lion.
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
    /// Minimum decrease of the validation loss that counts as an improvement, in nats.
    pub early_stopping_threshold: f64,
    /// Whether to keep the parameters of the lowest validation loss instead of the last ones.
    pub keep_best: bool,
    /// Number of blocks per gradient checkpoint ([gradient checkpointing](https://arxiv.org/abs/1604.06174)),
    /// between which activations are recomputed; 0 keeps all activations.
    pub grad_checkpoint: usize,
    /// Magnitude of embedding noise ([NEFTune](https://arxiv.org/abs/2310.05914)).
    pub neftune_alpha: Option<f64>,
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

impl Default for TrainingConfig {
    fn default() -> Self {
        let settings = Settings::default();
        Self {
            model_path: None,
            data: None,
            output: None,
            method: Method::Lora,
            epochs: settings.epochs,
            iters: settings.iters,
            lr: settings.lr,
            batch_size: settings.batch_size,
            grad_accumulation: settings.grad_accumulation,
            memory_budget_gb: settings.memory_budget_gb,
            max_seq_length: 2048,
            lora_rank: 8,
            lora_alpha: 16.0,
            rank_pattern: None,
            lora_dropout: 0.0,
            use_rslora: false,
            loraplus_lr_ratio: None,
            lora_init: LoraInit::Default,
            adalora_init_rank: None,
            adalora_tinit: 0,
            adalora_tfinal: 0,
            adalora_delta_t: 1,
            adalora_beta1: 0.85,
            adalora_beta2: 0.85,
            adalora_orth_reg_weight: 0.5,
            num_virtual_tokens: 20,
            prompt_tuning_init: PromptInit::Random,
            prompt_tuning_init_text: None,
            prefix_projection: false,
            encoder_hidden_size: None,
            target_modules: None,
            num_layers: None,
            init_adapter: None,
            adapter_format: Format::Mlx,
            mask_prompt: true,
            objective: objective::ObjectiveKind::Sft,
            dpo_beta: 0.1,
            dpo_label_smoothing: 0.0,
            orpo_lambda: 0.1,
            columns: None,
            chat_template_kwargs: None,
            packing: false,
            streaming: false,
            dtype: None,
            bits: None,
            qat_bits: None,
            qat_group_size: 64,
            qat_embedding_bits: 8,
            seed: settings.seed,
            optimizer: settings.optimizer,
            momentum: settings.momentum,
            nesterov: settings.nesterov,
            weight_decay: settings.weight_decay,
            beta1: settings.beta1,
            beta2: settings.beta2,
            eps: settings.eps,
            schedule: settings.schedule,
            warmup_ratio: settings.warmup_ratio,
            lr_min_ratio: settings.lr_min_ratio,
            lr_cycles: settings.lr_cycles,
            lr_power: settings.lr_power,
            lr_decay_ratio: settings.lr_decay_ratio,
            lr_table: settings.lr_table,
            max_grad_norm: settings.max_grad_norm,
            early_stopping_patience: settings.early_stopping_patience,
            early_stopping_threshold: settings.early_stopping_threshold,
            keep_best: settings.keep_best,
            grad_checkpoint: settings.grad_checkpoint,
            neftune_alpha: None,
            eval_every: settings.eval_every,
            eval_batches: settings.eval_batches,
            save_every: settings.save_every,
            keep_checkpoints: settings.keep_checkpoints,
            resume: false,
            overwrite: false,
        }
    }
}

impl TrainingConfig {
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
            momentum: self.momentum,
            nesterov: self.nesterov,
            weight_decay: self.weight_decay,
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            schedule: self.schedule,
            warmup_ratio: self.warmup_ratio,
            lr_min_ratio: self.lr_min_ratio,
            lr_cycles: self.lr_cycles,
            lr_power: self.lr_power,
            lr_decay_ratio: self.lr_decay_ratio,
            lr_table: self.lr_table.clone(),
            max_grad_norm: self.max_grad_norm,
            early_stopping_patience: self.early_stopping_patience,
            early_stopping_threshold: self.early_stopping_threshold,
            keep_best: self.keep_best,
            grad_checkpoint: self.grad_checkpoint,
            eval_every: self.eval_every,
            eval_batches: self.eval_batches,
            save_every: self.save_every,
            keep_checkpoints: self.keep_checkpoints,
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
                "columns",
                "chat_template_kwargs",
                "output",
                "memory_budget_gb",
                "adapter_format",
                "epochs",
                "iters",
                "early_stopping_patience",
                "early_stopping_threshold",
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
