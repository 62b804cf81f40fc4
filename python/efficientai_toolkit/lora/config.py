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
        "folder with train.jsonl, valid.jsonl (or validation.jsonl, dev.jsonl), test.jsonl (or .json, .csv, "
        ".tsv, .parquet), or one file, or several separated by commas, each perhaps with =WEIGHT, how often "
        "its rows come (default: the bundled instructions)",
    )
    output: str | None = setting(None, "folder of the result (default: a new numbered one under runs/)")
    method: Method = setting(
        "lora",
        "train low-rank adapters (dora: with a magnitude per row; adalora: with ranks that move to where"
        " they matter), virtual tokens before every text, which want an lr of 1e-2 or so (prompt_tuning:"
        " embeddings; p_tuning: embeddings through a small network; prefix_tuning: keys and values), or"
        " every number of the model",
    )
    epochs: float = setting(3.0, "passes over the training data")
    iters: int | None = setting(None, "optimizer steps; overrides epochs")
    lr: float = setting(2e-4, "peak learning rate")
    batch_size: int = setting(4, "rows, or pairs of answers, per batch")
    grad_accumulation: int = setting(1, "batches per optimizer step")
    memory_budget_gb: float | None = setting(
        None,
        "stay below so many 10⁹ bytes: a batch that would take more goes through the model in parts, "
        "with the same result (default: what the device has)",
    )
    max_seq_length: int = setting(2048, "rows are cut to this many tokens")
    lora_rank: int = setting(8, "rank of the adapters (adalora: their mean at the end)")
    lora_alpha: float = setting(16.0, "strength of the adapters: their output is scaled by alpha / rank")
    rank_pattern: dict[str, int] | None = setting(
        None,
        "ranks of some layers by name or pattern, as in PEFT: q_proj=4,layers.0.mlp.up_proj=16; the first "
        "that fits counts, 0 means no adapter (default: the same rank everywhere)",
        separator=",",
    )
    lora_dropout: float = setting(0.0, "share of adapter inputs dropped while training")
    use_rslora: bool = setting(False, "scale the adapters by alpha / √rank instead: rsLoRA")
    loraplus_lr_ratio: float | None = setting(
        None, "learning rate of the matrices B as a multiple of lr: LoRA+ (default: the same)"
    )
    lora_init: str = setting(
        "default",
        "what the adapters start from: default, pissa (principal parts of the weights; saved with twice"
        " the rank, for the untouched model), or pissa_niter_N (the same by N iterations, faster)",
    )
    adalora_init_rank: int | None = setting(
        None, "rank that adalora starts with (default: one and a half times the rank)"
    )
    adalora_tinit: int = setting(0, "steps of adalora before ranks fall")
    adalora_tfinal: int = setting(0, "steps of adalora after the last change of ranks")
    adalora_delta_t: int = setting(1, "steps of adalora between changes of ranks")
    adalora_beta1: float = setting(0.85, "decay of adalora's mean of sensitivities")
    adalora_beta2: float = setting(0.85, "decay of adalora's mean of their deviations")
    adalora_orth_reg_weight: float = setting(
        0.5, "weight of adalora's penalty on matrices that are not orthogonal"
    )
    num_virtual_tokens: int = setting(
        20, "virtual tokens before every text, of prompt_tuning, prefix_tuning and p_tuning"
    )
    prompt_tuning_init: Literal["random", "text", "sample_vocab"] = setting(
        "random", "what prompt_tuning starts from: noise, the embeddings of a text, or those of random tokens"
    )
    prompt_tuning_init_text: str | None = setting(
        None, "text of prompt_tuning_init=text, such as a description of the task"
    )
    prefix_projection: bool = setting(False, "learn the prefixes of prefix_tuning through a small network")
    encoder_hidden_size: int | None = setting(
        None, "width of the network of p_tuning and prefix_projection (default: that of what it learns)"
    )
    target_modules: list[str] | None = setting(
        None,
        "layers that get adapters, such as q_proj,v_proj or lm_head (default: every linear layer but lm_head)",
        separator=",",
    )
    num_layers: int | None = setting(None, "adapt only the last so many blocks (default: all)")
    init_adapter: str | None = setting(
        None, "folder or hub id of adapters to start from, in either format (default: fresh ones)"
    )
    adapter_format: Literal["mlx", "peft"] = setting(
        "mlx", "write adapters as mlx-lm reads them, or as Hugging Face PEFT does (virtual tokens: always)"
    )
    mask_prompt: bool = setting(True, "learn answers only, not the prompts before them")
    objective: Literal["sft", "dpo", "orpo"] = setting(
        "sft",
        "what the rows are to teach: sft to say what they say; dpo and orpo to prefer one of two answers,"
        " which they hold as chosen and rejected",
    )
    dpo_beta: float = setting(0.1, "how close dpo stays to where the model began; more is closer")
    dpo_label_smoothing: float = setting(0.0, "share of pairs that dpo takes to be the wrong way round")
    orpo_lambda: float = setting(
        0.1, "weight of the preference in orpo, beside the likelihood of chosen answers"
    )
    columns: list[str] | None = setting(
        None,
        "which columns of the data are read as what, such as prompt=question,completion=answer "
        "(default: their own names)",
        separator=",",
    )
    chat_template_kwargs: dict[str, Any] | None = setting(
        None,
        "option of the chat template, such as enable_thinking=false; give it again for more (default: the "
        "template's own)",
        flag="--template-option",
    )
    packing: bool = setting(
        False,
        "pack short rows side by side into rows of max-seq-length tokens, which do not see each other; "
        "batch-size counts packed rows",
    )
    streaming: bool = setting(
        False,
        "leave the training rows, which must be jsonl, on disk and read them as they are needed, for data "
        "larger than memory; batches are the same",
    )
    dtype: Literal["float32", "float16", "bfloat16"] | None = setting(
        None, "number format of the model (default: float32 on a CPU, the checkpoint's own on a GPU)"
    )
    bits: int | None = setting(
        None, "quantize the frozen weights to 2, 3, 4, 5, 6 or 8 bits: QLoRA (default: as they are on disk)"
    )
    seed: int = setting(0, "seed of everything random in the run")
    optimizer: Literal["adamw", "adam", "sgd", "adafactor", "lion", "muon"] = setting(
        "adamw",
        "what turns gradients into steps; adam, adafactor and muon want an lr like adamw, lion a tenth to a "
        "third of it, sgd 100 to 1000 times as much",
    )
    momentum: float | None = setting(None, "momentum of sgd and muon (default: 0.9 for sgd, 0.95 for muon)")
    nesterov: bool = setting(False, "let sgd look ahead along its momentum")
    weight_decay: float | None = setting(
        None, "pull of weights to 0, times lr (default: 0.01 for adamw, lion and muon, 0 for the others)"
    )
    beta1: float = setting(0.9, "decay of the mean of gradients in adam, adamw and lion")
    beta2: float | None = setting(
        None, "decay of the mean of squared gradients in adam and adamw (0.999), of lion's momentum (0.99)"
    )
    eps: float = setting(1e-8, "keeps adam and adamw from dividing by zero")
    schedule: Literal[
        "constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "wsd", "table"
    ] = setting(
        "cosine",
        "course of the learning rate after the warm-up; wsd: constant with a decay at the end",
    )
    warmup_ratio: float = setting(0.05, "share of the steps in which the learning rate rises")
    lr_min_ratio: float = setting(0.0, "share of lr that is left at the end of the schedule")
    lr_cycles: int = setting(2, "cosines of the schedule cosine_with_restarts")
    lr_power: float = setting(2.0, "exponent of the schedule polynomial; 1: a straight line")
    lr_decay_ratio: float = setting(0.2, "share of the steps in which the schedule wsd decays")
    lr_table: list[str] | None = setting(
        None,
        "points of the schedule table, which has no other warm-up: 0=0.1,50=1 means a tenth of lr at first, "
        "all of it after 50 steps, and a straight line between",
        separator=",",
    )
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this norm; 0: never")
    early_stopping_patience: int | None = setting(
        None, "stop after so many validations without a lower loss (default: never)"
    )
    early_stopping_threshold: float = setting(0.0, "how much lower a validation loss must be to count")
    keep_best: bool = setting(
        True, "the result has the weights of the lowest validation loss, not of the last step"
    )
    grad_checkpoint: int = setting(
        0, "save memory: keep activations of every so many blocks only, compute the rest again; 0: keep all"
    )
    neftune_alpha: float | None = setting(
        None, "strength of noise on the embeddings while training, such as 5 (default: none)"
    )
    eval_every: int = setting(100, "steps between validations; 0: only before and after")
    eval_batches: int = setting(25, "validation batches; 0: all")
    save_every: int = setting(100, "steps between checkpoints; 0: only when interrupted")
    keep_checkpoints: int = setting(2, "how many of the newest checkpoints stay on disk")
    resume: bool = setting(False, "continue from the last checkpoint in the output folder")
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
            message = "`resume` needs `output`, the folder of the run to continue"
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
    """Return the next unused folder in the sequence ``lora-0001``, ``lora-0002``."""
    return folder.new_run(runs, kind)
