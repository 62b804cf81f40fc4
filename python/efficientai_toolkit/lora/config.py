"""Configuration of a training run."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from efficientai_toolkit import hub
from efficientai_toolkit._base.assets import DEMO, INSTRUCTIONS, MODEL
from efficientai_toolkit._base.config import Config, setting
from efficientai_toolkit.exceptions import ConfigError, DatasetError
from efficientai_toolkit.study import folder
from efficientai_toolkit.study.folder import RUNS

Method = Literal["lora", "dora", "adalora", "prompt_tuning", "prefix_tuning", "p_tuning", "full"]
"""Fine-tuning methods."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class TrainingConfig(Config):
    """Configuration of a training run."""

    model_path: str | None = setting(
        None, "folder in Hugging Face format, or hub id org/name[@revision] (default: the embedded model)"
    )
    data: str | None = setting(
        None,
        "training data: a .jsonl, .json, .csv, .tsv or .parquet file, or a folder with train.jsonl and "
        "optionally valid.jsonl and test.jsonl; several separated by commas, each with an optional =WEIGHT, "
        "are mixed (default: the bundled instructions)",
    )
    output: str | None = setting(None, "output folder (default: a new numbered one under runs/)")
    method: Method = setting(
        "lora",
        "fine-tuning method: low-rank adapters (lora; dora: with trainable magnitudes; adalora: with "
        "adaptive ranks), virtual tokens (prompt_tuning, p_tuning, prefix_tuning; try an lr of 1e-2), or all "
        "weights (full); with --bits lora becomes QLoRA",
    )
    epochs: float = setting(3.0, "number of epochs")
    iters: int | None = setting(None, "number of optimizer steps; overrides epochs")
    lr: float = setting(2e-4, "peak learning rate")
    batch_size: int = setting(4, "batch size, in rows or preference pairs")
    grad_accumulation: int = setting(1, "gradient accumulation: batches per optimizer step")
    memory_budget_gb: float | None = setting(
        None,
        "memory limit in GB: a batch that needs more is split, with the same result (default: the memory of "
        "the device)",
    )
    max_seq_length: int = setting(2048, "maximum sequence length; longer rows are truncated")
    lora_rank: int = setting(8, "rank of the adapters (adalora: mean final rank)")
    lora_alpha: float = setting(16.0, "scaling of the adapters: alpha / rank")
    rank_pattern: dict[str, int] | None = setting(
        None,
        "ranks by layer name or pattern, as in PEFT: q_proj=4,layers.0.mlp.up_proj=16; the first match "
        "counts, 0 means no adapter (default: lora_rank everywhere)",
        separator=",",
    )
    lora_dropout: float = setting(0.0, "dropout probability of the adapter inputs")
    use_rslora: bool = setting(False, "rsLoRA: scale the adapters by alpha / √rank")
    loraplus_lr_ratio: float | None = setting(
        None, "LoRA+: ratio of the learning rate of the matrices B to lr (default: 1)"
    )
    lora_init: str = setting(
        "default",
        "initialization of the adapters: default, pissa (principal singular vectors of the weights; saved "
        "with twice the rank, for the original model), or pissa_niter_N (fast SVD with N iterations)",
    )
    adalora_init_rank: int | None = setting(None, "initial rank of adalora (default: 1.5 × lora_rank)")
    adalora_tinit: int = setting(0, "adalora: steps before the rank reduction starts")
    adalora_tfinal: int = setting(0, "adalora: final steps with fixed ranks")
    adalora_delta_t: int = setting(1, "adalora: steps between two rank allocations")
    adalora_beta1: float = setting(0.85, "adalora: EMA coefficient of the sensitivity")
    adalora_beta2: float = setting(0.85, "adalora: EMA coefficient of the uncertainty")
    adalora_orth_reg_weight: float = setting(0.5, "adalora: weight of the orthogonal regularization")
    num_virtual_tokens: int = setting(
        20, "number of virtual tokens of prompt_tuning, prefix_tuning and p_tuning"
    )
    prompt_tuning_init: Literal["random", "text", "sample_vocab"] = setting(
        "random",
        "initialization of prompt_tuning: random, the embeddings of a text, or those of random tokens",
    )
    prompt_tuning_init_text: str | None = setting(
        None, "initial text for prompt_tuning_init=text, such as a description of the task"
    )
    prefix_projection: bool = setting(False, "prefix_tuning: reparameterize the prefixes by an MLP")
    encoder_hidden_size: int | None = setting(
        None, "hidden size of the MLP of p_tuning and prefix_projection (default: its input size)"
    )
    target_modules: list[str] | None = setting(
        None,
        "layers that get adapters, such as q_proj,v_proj (default: all linear layers but lm_head)",
        separator=",",
    )
    num_layers: int | None = setting(
        None, "number of blocks with adapters, counted from the last (default: all)"
    )
    init_adapter: str | None = setting(
        None, "folder or hub id of an adapter to start from, of mlx-lm or PEFT (default: a new one)"
    )
    adapter_format: Literal["mlx", "peft"] = setting(
        "mlx", "format of the saved adapter: mlx-lm's or PEFT's (virtual tokens: always PEFT's)"
    )
    mask_prompt: bool = setting(True, "compute the loss on completions only, not on prompts")
    objective: Literal["sft", "dpo", "orpo"] = setting(
        "sft",
        "training objective: supervised fine-tuning (sft), or preference optimization of rows with chosen "
        "and rejected answers (dpo, orpo)",
    )
    dpo_beta: float = setting(0.1, "beta of DPO; higher values stay closer to the reference model")
    dpo_label_smoothing: float = setting(0.0, "label smoothing of DPO: expected share of flipped pairs")
    orpo_lambda: float = setting(0.1, "lambda of ORPO: weight of the odds-ratio loss")
    columns: list[str] | None = setting(
        None,
        "column mapping of the data, such as prompt=question,completion=answer (default: the standard names)",
        separator=",",
    )
    chat_template_kwargs: dict[str, Any] | None = setting(
        None,
        "option of the chat template, such as enable_thinking=false; repeat it for more (default: that of "
        "the template)",
        flag="--template-option",
    )
    packing: bool = setting(
        False,
        "pack short rows into sequences of max_seq_length tokens, without attention between them; batch_size "
        "counts packed sequences",
    )
    streaming: bool = setting(
        False,
        "stream the training rows from disk (.jsonl only), for data larger than memory; the batches are the "
        "same",
    )
    dtype: Literal["float32", "float16", "bfloat16"] | None = setting(
        None, "data type of the weights (default: float32 on a CPU, that of the checkpoint on a GPU)"
    )
    bits: int | None = setting(
        None, "QLoRA: quantize the frozen weights to 2, 3, 4, 5, 6 or 8 bits (default: as in the checkpoint)"
    )
    qat_bits: int | None = setting(
        None,
        "quantization-aware training: round weights to 2, 3, 4, 5, 6 or 8 bits while they are trained, with "
        "method full or lora; the result is a quantized model folder (default: off)",
    )
    qat_group_size: int = setting(
        64, "weights that share a scale and a bias in quantization-aware training: 32, 64 or 128"
    )
    qat_embedding_bits: int = setting(
        8, "bits per weight of the embeddings and the output head in quantization-aware training"
    )
    seed: int = setting(0, "random seed")
    optimizer: Literal["adamw", "adam", "sgd", "adafactor", "lion", "muon"] = setting(
        "adamw",
        "optimizer; compared to adamw, lion needs an lr 3 to 10 times lower, sgd 100 to 1000 times higher",
    )
    momentum: float | None = setting(None, "momentum of sgd and muon (default: 0.9 for sgd, 0.95 for muon)")
    nesterov: bool = setting(False, "use Nesterov momentum in sgd")
    weight_decay: float | None = setting(
        None, "weight decay (default: 0.01 for adamw, lion and muon, 0 for the others)"
    )
    beta1: float = setting(0.9, "beta1 of adam, adamw and lion")
    beta2: float | None = setting(None, "beta2 of adam, adamw and lion (default: 0.999, for lion 0.99)")
    eps: float = setting(1e-8, "epsilon of adam and adamw")
    schedule: Literal[
        "constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "wsd", "table"
    ] = setting(
        "cosine",
        "learning-rate schedule after the warm-up; wsd: warm-up, stable, decay",
    )
    warmup_ratio: float = setting(0.05, "fraction of the steps used for the warm-up")
    lr_min_ratio: float = setting(0.0, "final learning rate as a fraction of lr")
    lr_cycles: int = setting(2, "number of cycles of cosine_with_restarts")
    lr_power: float = setting(2.0, "exponent of the polynomial schedule; 1: linear")
    lr_decay_ratio: float = setting(0.2, "fraction of the steps in which wsd decays")
    lr_table: list[str] | None = setting(
        None,
        "points STEP=FACTOR of the schedule table, interpolated linearly: 0=0.1,50=1 rises from a tenth of "
        "lr to lr in 50 steps; warmup_ratio is ignored",
        separator=",",
    )
    max_grad_norm: float = setting(1.0, "maximum gradient norm for clipping; 0: no clipping")
    early_stopping_patience: int | None = setting(
        None, "stop after this many evaluations without an improvement (default: never)"
    )
    early_stopping_threshold: float = setting(
        0.0, "minimum decrease of the validation loss that counts as an improvement"
    )
    keep_best: bool = setting(True, "save the weights with the lowest validation loss, not the last ones")
    grad_checkpoint: int = setting(
        0, "gradient checkpointing: keep activations of every N-th block only and recompute the rest; 0: off"
    )
    neftune_alpha: float | None = setting(
        None, "NEFTune: noise added to the embeddings, such as 5 (default: none)"
    )
    eval_every: int = setting(100, "steps between evaluations; 0: only before and after training")
    eval_batches: int = setting(25, "batches per evaluation; 0: all")
    save_every: int = setting(100, "steps between checkpoints; 0: only on interruption")
    keep_checkpoints: int = setting(2, "number of checkpoints to keep")
    resume: bool = setting(False, "resume from the last checkpoint in the output folder")
    overwrite: bool = setting(False, "replace the run in the output folder")

    @classmethod
    def demo(cls, **values: Any) -> "TrainingConfig":
        """Return the settings for the bundled model and data, with ``values`` replaced.

        A model that small has to move further than a large one, so its learning rate is higher.
        """
        return cls.from_file(DEMO).with_values(values)

    def check(self) -> None:
        """Let the engine check the values."""
        # The defaults are valid, and loading the engine takes time.
        if any(self._displayed()):
            from efficientai_toolkit._engine.core import core

            core.lora.check(self.to_json())

    def with_defaults_filled(self) -> "TrainingConfig":
        """Return a copy with model, data and output folder filled in.

        Without ``output``, a new folder is created, which reserves its name.

        Raises
        ------
        ConfigError
            If ``resume`` is set without ``output``.
        DatasetError
            If ``data`` does not exist.
        ModelLoadingError
            If ``init_adapter`` cannot be found.
        """
        if self.resume and self.output is None:
            message = "`resume` needs `output`, the folder of the run to resume: give --output too"
            raise ConfigError(message)
        return replace(
            self,
            model_path=self.model_path or str(MODEL),
            init_adapter=None if self.init_adapter is None else str(hub.resolve(self.init_adapter)),
            data=str(INSTRUCTIONS) if self.data is None else _expanded(self.data),
            output=str(new_run(Path(RUNS)) if self.output is None else Path(self.output).expanduser()),
        )

    def data_paths(self) -> list[Path]:
        """Return the files and folders of ``data`` without their weights.

        Raises
        ------
        DatasetError
            If one of them does not exist.
        """
        return [path for path, _ in _parts(self.data or str(INSTRUCTIONS))]


def _expanded(data: str) -> str:
    """Expand ``~`` in each part of ``data``."""
    return ",".join(f"{path}{weight}" for path, weight in _parts(data))


def _parts(data: str) -> list[tuple[Path, str]]:
    """Split ``data`` into existing paths and their weights, such as ``=2``."""
    if (whole := Path(data).expanduser()).exists():
        return [(whole, "")]
    parts: list[tuple[Path, str]] = []
    for part in data.split(","):
        path, equals, weight = part.strip(), "", ""
        if "=" in path and not Path(path).expanduser().exists():
            path, equals, weight = path.rpartition("=")
        if not (expanded := Path(path.strip()).expanduser()).exists():
            message = f"there is no folder or file {path.strip() or data}"
            raise DatasetError(message)
        parts.append((expanded, f"{equals}{weight}"))
    return parts


def new_run(runs: Path, kind: str = "lora") -> Path:
    """Create and return the next unused folder in the sequence ``lora-0001``, ``lora-0002``."""
    return folder.new_run(runs, kind)
