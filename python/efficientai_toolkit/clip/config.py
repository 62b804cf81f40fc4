"""Configuration of contrastive fine-tuning."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from efficientai_toolkit._base.config import Config, setting
from efficientai_toolkit.exceptions import ConfigError, DatasetError
from efficientai_toolkit.study.folder import RUNS, new_run


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class ClipConfig(Config):
    """Configuration of contrastive fine-tuning."""

    model_path: str | None = setting(
        None,
        "CLIP or SigLIP: folder (Hugging Face's or open_clip's format) or hub id org/name[@revision]",
    )
    data: str | None = setting(
        None,
        "image–text pairs: a .jsonl, .json, .csv, .tsv or .parquet file with the columns image and text, or "
        "a folder of images with metadata.jsonl, with a .txt beside each image, or with a folder per class",
    )
    validation_data: str | None = setting(
        None, "image–text pairs for validation (default: validation_ratio of data is set aside)"
    )
    validation_ratio: float = setting(0.1, "fraction of the images that is set aside for validation")
    output: str | None = setting(None, "output folder (default: a new numbered one under runs/)")
    method: Literal["lora", "dora", "full"] = setting(
        "lora", "what is trained: low-rank adapters (lora; dora: with magnitudes), or all weights (full)"
    )
    loss: Literal["info_nce", "siglip"] | None = setting(
        None, "contrastive loss: info_nce or siglip (default: that of the model)"
    )
    freeze: list[Literal["vision", "text"]] | None = setting(
        None, "towers that are not trained: vision, text (default: none)", separator=","
    )
    image_size: int | None = setting(
        None, "side of images in pixels; position embeddings are interpolated (default: that of the model)"
    )
    epochs: float = setting(3.0, "number of epochs")
    iters: int | None = setting(None, "number of optimizer steps; overrides epochs")
    lr: float = setting(1e-4, "peak learning rate; for method full try 1e-5")
    batch_size: int = setting(32, "pairs per batch; all others in it are negatives")
    grad_accumulation: int = setting(
        1, "batches per optimizer step; pairs of different batches are no negatives of each other"
    )
    memory_budget_gb: float | None = setting(None, "memory limit in GB (default: the memory of the device)")
    lora_rank: int = setting(8, "rank of the adapters")
    lora_alpha: float = setting(16.0, "scaling of the adapters: alpha / rank")
    lora_dropout: float = setting(0.0, "dropout probability of the adapter inputs")
    target_modules: list[str] | None = setting(
        None,
        "layers that get adapters, such as q_proj,v_proj (default: all linear layers)",
        separator=",",
    )
    adapter_format: Literal["mlx", "peft"] = setting(
        "peft", "format of the saved adapter: mlx-lm's or PEFT's"
    )
    dtype: Literal["float32", "float16", "bfloat16"] | None = setting(
        None, "data type (default: float32 on a CPU, that of the checkpoint on a GPU)"
    )
    seed: int = setting(0, "random seed")
    optimizer: Literal["adamw", "adam", "sgd", "adafactor", "lion", "muon"] = setting("adamw", "optimizer")
    weight_decay: float | None = setting(
        None, "weight decay (default: 0.01 for adamw, lion and muon, 0 for the others)"
    )
    beta1: float = setting(0.9, "beta1 of adam, adamw and lion")
    beta2: float | None = setting(0.98, "beta2 of adam, adamw and lion")
    eps: float = setting(1e-6, "epsilon of adam and adamw")
    schedule: Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "wsd"] = setting(
        "cosine", "learning-rate schedule after the warm-up"
    )
    warmup_ratio: float = setting(0.1, "fraction of the steps used for the warm-up")
    lr_min_ratio: float = setting(0.0, "final learning rate as a fraction of lr")
    max_grad_norm: float = setting(1.0, "maximum gradient norm for clipping; 0: no clipping")
    early_stopping_patience: int | None = setting(
        None, "stop after this many evaluations without an improvement (default: never)"
    )
    keep_best: bool = setting(True, "save the weights with the lowest validation loss, not the last ones")
    grad_checkpoint: int = setting(
        0, "gradient checkpointing: keep activations of every N-th block only and recompute the rest; 0: off"
    )
    eval_every: int = setting(100, "steps between evaluations; 0: only before and after training")
    eval_batches: int = setting(25, "batches per evaluation; 0: all")
    save_every: int = setting(100, "steps between checkpoints; 0: only on interruption")
    keep_checkpoints: int = setting(2, "number of checkpoints to keep")
    resume: bool = setting(False, "resume from the last checkpoint in the output folder")
    overwrite: bool = setting(False, "replace the run in the output folder")

    def check(self) -> None:
        """Let the engine check the values."""
        # The defaults are valid, and loading the engine takes time.
        if any(self._displayed()):
            from efficientai_toolkit._engine.core import core

            core.clip.check(self.to_json())

    def with_defaults_filled(self) -> "ClipConfig":
        """Return a copy with the output folder filled in, and paths expanded.

        Without ``output``, a new folder is created, which reserves its name.

        Raises
        ------
        ConfigError
            If ``model_path`` or ``data`` is missing, or ``resume`` is set without ``output``.
        DatasetError
            If the data do not exist.
        """
        if self.model_path is None or self.data is None:
            missing = "model_path" if self.model_path is None else "data"
            message = f"`{missing}` is missing: there is no embedded image–text model yet, so both are needed"
            raise ConfigError(message)
        if self.resume and self.output is None:
            message = "`resume` needs `output`, the folder of the run to resume: give --output too"
            raise ConfigError(message)
        data = str(_existing(self.data))
        validation = None if self.validation_data is None else str(_existing(self.validation_data))
        output = new_run(Path(RUNS), "clip") if self.output is None else Path(self.output).expanduser()
        return replace(self, data=data, validation_data=validation, output=str(output))

    def data_paths(self) -> list[Path]:
        """Return the files and folders of the data."""
        return [_existing(path) for path in (self.data, self.validation_data) if path is not None]


def _existing(path: str) -> Path:
    expanded = Path(path).expanduser()
    if not expanded.exists():
        message = f"there is no folder or file {path}"
        raise DatasetError(message)
    return expanded
