//! Everything a user may set for fine-tuning, with its default.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::init::{LoraInit, PromptInit};
use super::method::Method;
use crate::adapters::Format;
use crate::train::optimizer;
use crate::train::schedule::ScheduleKind;
use crate::train::settings::Settings;
use crate::train::text::objective;

/// Settings of one run. This is the one truth for defaults; the Python dataclass and the
/// command line are held equal to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own, named by the user")]
pub struct TrainingConfig {
    /// Folder or hub id; `None` for the embedded model.
    pub model_path: Option<String>,
    /// Folder with train/valid/test.jsonl (or .json, .csv, .tsv, .parquet), or one file, or several of both separated by
    /// commas, each perhaps with `=weight`; `None` for the bundled instructions.
    pub data: Option<String>,
    /// Folder of the result; `None` for a new numbered one under `runs/`.
    pub output: Option<String>,
    /// What is trained.
    pub method: Method,
    /// Passes over the data.
    pub epochs: f64,
    /// Optimizer steps; overrides `epochs`.
    pub iters: Option<u64>,
    /// Peak learning rate.
    pub lr: f64,
    /// Rows, or pairs of them, per batch.
    pub batch_size: usize,
    /// Batches per optimizer step.
    pub grad_accumulation: u64,
    /// 10⁹ bytes of MLX's memory to stay below: where a whole batch would take more, it goes through the model in
    /// parts, with the same step. `None` for what the device has.
    pub memory_budget_gb: Option<f64>,
    /// Tokens per row beyond which a row is cut.
    pub max_seq_length: usize,
    /// Inner dimension of the adapters; for `AdaLoRA` the mean of all of them at the end.
    pub lora_rank: u32,
    /// The adapters are scaled by `lora_alpha / lora_rank`, or as `use_rslora` says.
    pub lora_alpha: f64,
    /// Ranks of some layers by name or pattern, as [PEFT](https://github.com/huggingface/peft) reads them: of several
    /// that fit, the first counts. 0 leaves a layer without an adapter.
    pub rank_pattern: Option<IndexMap<String, u32>>,
    /// Share of an adapter's inputs zeroed in training.
    pub lora_dropout: f64,
    /// Scale the adapters by `lora_alpha / √lora_rank`.
    pub use_rslora: bool,
    /// Learning rate of `B` and of magnitudes as a multiple of that of `A`; `None` for 1.
    pub loraplus_lr_ratio: Option<f64>,
    /// What the adapters start from.
    pub lora_init: LoraInit,
    /// Rank from which `AdaLoRA` starts; `None` for one and a half times `lora_rank`.
    pub adalora_init_rank: Option<u32>,
    /// Steps of `AdaLoRA` before ranks fall.
    pub adalora_tinit: u64,
    /// Steps of `AdaLoRA` after the last change of ranks.
    pub adalora_tfinal: u64,
    /// Steps of `AdaLoRA` between two changes of ranks.
    pub adalora_delta_t: u64,
    /// `AdaLoRA`'s decay of the mean sensitivity.
    pub adalora_beta1: f64,
    /// `AdaLoRA`'s decay of the mean deviation from it.
    pub adalora_beta2: f64,
    /// Weight of `AdaLoRA`'s penalty on matrices that are not orthogonal.
    pub adalora_orth_reg_weight: f64,
    /// Virtual tokens before every text ([`prompt`](crate::lora::prompt)).
    pub num_virtual_tokens: u32,
    /// What the virtual tokens of prompt tuning start from.
    pub prompt_tuning_init: PromptInit,
    /// Text that `prompt_tuning_init` `text` starts from.
    pub prompt_tuning_init_text: Option<String>,
    /// Learn prefixes through a small network.
    pub prefix_projection: bool,
    /// Numbers between the layers of the network over virtual tokens; `None` for as many as it takes.
    pub encoder_hidden_size: Option<u32>,
    /// Layers that get an adapter, such as `q_proj`; `None` for every linear layer of the blocks.
    pub target_modules: Option<Vec<String>>,
    /// The last this many blocks get adapters; `None` for all.
    pub num_layers: Option<u32>,
    /// Folder of an adapter to start from.
    pub init_adapter: Option<String>,
    /// How the adapter is written; virtual tokens always as PEFT does.
    pub adapter_format: Format,
    /// Learn answers only, not prompts.
    pub mask_prompt: bool,
    /// What the rows are to teach; all but `sft` need pairs of answers.
    pub objective: objective::ObjectiveKind,
    /// How close DPO stays to where the model began; more is closer.
    pub dpo_beta: f64,
    /// Share of pairs that DPO takes to be the wrong way round.
    pub dpo_label_smoothing: f64,
    /// Weight of ORPO's preference beside the likelihood of chosen answers.
    pub orpo_lambda: f64,
    /// Entries such as `prompt=question`: which columns of the data are read as what; `None` for their own names.
    pub columns: Option<Vec<String>>,
    /// Pack short rows side by side into rows of `max_seq_length` tokens; they do not see each other. `batch_size`
    /// counts packed rows.
    pub packing: bool,
    /// Leave the rows to learn, which must be jsonl, on disk and read them as they are needed.
    pub streaming: bool,
    /// `float32`, `float16` or `bfloat16`; `None` for float32 on a CPU and the checkpoint's own on a GPU.
    pub dtype: Option<String>,
    /// Bits per weight to which the frozen matrices are quantized when the model is loaded
    /// ([QLoRA](https://arxiv.org/abs/2305.14314)); `None` for as they are.
    pub bits: Option<u32>,
    /// Seed of everything random.
    pub seed: u64,
    /// What turns gradients into steps.
    pub optimizer: optimizer::OptimizerKind,
    /// Decay of the momentum of SGD (`None`: 0.9) and Muon (`None`: 0.95).
    pub momentum: Option<f64>,
    /// Whether SGD looks ahead.
    pub nesterov: bool,
    /// Pull of parameters to 0; `None` for 0.01 with `AdamW`, Lion and Muon, 0 with the others.
    pub weight_decay: Option<f64>,
    /// Decay of the first moment of Adam and `AdamW`; of the interpolation of Lion.
    pub beta1: f64,
    /// Decay of the second moment of Adam and `AdamW` (`None`: 0.999); of the momentum of Lion (`None`: 0.99).
    pub beta2: Option<f64>,
    /// Guard of Adam and `AdamW` against division by zero.
    pub eps: f64,
    /// Learning-rate schedule after the warm-up.
    pub schedule: ScheduleKind,
    /// Share of all steps in which the learning rate rises to `lr`.
    pub warmup_ratio: f64,
    /// Share of `lr` that is left at the end of the schedule.
    pub lr_min_ratio: f64,
    /// Cosines of the schedule `cosine_with_restarts`.
    pub lr_cycles: u32,
    /// Exponent of the schedule `polynomial`.
    pub lr_power: f64,
    /// Share of all steps in which the schedule `wsd` decays.
    pub lr_decay_ratio: f64,
    /// Points `step=factor` of the schedule `table`.
    pub lr_table: Option<Vec<String>>,
    /// Gradient norm above which gradients are scaled down; 0 for never.
    pub max_grad_norm: f64,
    /// Evaluations without a lower validation loss after which the run ends; `None` for never.
    pub early_stopping_patience: Option<u64>,
    /// By how much the validation loss must fall, in nats, to count as lower.
    pub early_stopping_threshold: f64,
    /// The result has the weights of the lowest validation loss, or else those of the last step.
    pub keep_best: bool,
    /// Blocks between two states that are kept for the gradient, the rest being computed again
    /// ([checkpointing](https://arxiv.org/abs/1604.06174)); 0 to keep everything.
    pub grad_checkpoint: usize,
    /// Strength of noise on embeddings in training ([NEFTune](https://arxiv.org/abs/2310.05914)).
    pub neftune_alpha: Option<f64>,
    /// Steps between evaluations; 0 for before and after only.
    pub eval_every: u64,
    /// Validation batches scored; 0 for all.
    pub eval_batches: usize,
    /// Steps between checkpoints; 0 for none but on interruption.
    pub save_every: u64,
    /// Newest checkpoints that stay on disk.
    pub keep_checkpoints: usize,
    /// Go on with the unfinished run in `output`.
    pub resume: bool,
    /// Replace the run in `output`.
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
            packing: false,
            streaming: false,
            dtype: None,
            bits: None,
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
    /// Those of the training loop.
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

    /// The keys that decide the loss curve, for recognising a run.
    #[must_use]
    pub fn identity(&self) -> serde_json::Value {
        let mut json = serde_json::to_value(self).unwrap_or_default();
        if let Some(fields) = json.as_object_mut() {
            for key in [
                "model_path",
                "data",
                "columns",
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
