"""Configuration of a quantization."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from efficientai_toolkit._base.assets import MODEL
from efficientai_toolkit._base.config import Config, setting
from efficientai_toolkit.exceptions import ConfigError, DatasetError
from efficientai_toolkit.study.folder import RUNS, new_run

Technique = Literal["rtn", "gptq", "learned"]
"""Quantization techniques."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class QuantizeConfig(Config):
    """Configuration of a quantization."""

    model_path: str | None = setting(
        None, "folder in Hugging Face format, or hub id org/name[@revision] (default: the embedded model)"
    )
    output: str | None = setting(None, "output folder (default: a new numbered one under runs/)")
    technique: Technique = setting(
        "gptq",
        "how the weights are quantized: rounded to nearest (rtn), so that later weights compensate the "
        "errors (gptq), or with scales and biases trained afterwards to predict what the original model does "
        "(learned)",
    )
    bits: int = setting(4, "bits per weight: 2, 3, 4, 5, 6 or 8")
    group_size: int = setting(64, "weights that share a scale and a bias: 32, 64 or 128")
    mode: Literal["affine", "mxfp4"] = setting(
        "affine", "number format: integers with a scale and a bias per group (affine), or mxfp4"
    )
    embedding_bits: int = setting(8, "bits per weight of the embeddings and the output head")
    layers: dict[str, Any] = setting(
        {},
        "format of the layers whose names match a pattern: 'lm_head=8', '*.down_proj=6', "
        "'*.v_proj=4/32' (bits/group size), '*=mxfp4' or '*.o_proj=dense'; repeat it for more, the last "
        "match counts",
        flag="--layer",
    )
    range_search: bool = setting(
        True, "search the range of each group for the least error (off: from the minimum to the maximum)"
    )
    calibration: str | None = setting(
        None,
        "calibration text: a data file or folder, as for training (default: the bundled instructions, none "
        "for rtn)",
    )
    calibration_sequences: int = setting(64, "maximum number of calibration sequences")
    sequence_length: int = setting(512, "tokens per calibration sequence")
    damping: float = setting(
        0.01, "gptq: share of the mean diagonal of the Hessian that is added to the diagonal"
    )
    act_order: bool = setting(True, "gptq: quantize columns in order of decreasing activation size")
    true_sequential: bool = setting(
        True, "gptq: calibrate each layer on the outputs of the quantized layers before it in its block"
    )
    learned_start: Literal["rtn", "gptq"] = setting(
        "gptq", "learned: technique that rounds the weights first"
    )
    learned_lr: float = setting(
        2e-3, "learned: peak learning rate of scales and biases, relative to the scales"
    )
    learned_epochs: float = setting(2.0, "learned: epochs over the calibration sequences")
    learned_batch_size: int = setting(1, "learned: calibration sequences per step")
    learned_temperature: float = setting(1.0, "learned: temperature of the predictions")
    learned_top_k: int = setting(
        256, "learned: number of most likely tokens whose predictions are stored and learned"
    )
    learned_grad_checkpoint: int = setting(
        0, "learned: blocks per gradient checkpoint, which saves memory and costs time (0: off)"
    )
    dequantize: bool = setting(
        False, "dequantize weights that are quantized already, and quantize them again"
    )
    seed: int = setting(0, "random seed of the calibration text")
    resume: bool = setting(False, "resume an interrupted run after the last finished block")
    overwrite: bool = setting(False, "replace the run in the output folder")

    def check(self) -> None:
        """Let the engine check the values."""
        # The defaults are valid, and loading the engine takes time.
        if any(self._displayed()):
            from efficientai_toolkit._engine.core import core

            core.quantize.check(self.to_json())

    def with_defaults_filled(self) -> "QuantizeConfig":
        """Return a copy with model, calibration text and output folder filled in.

        Without ``output``, a new folder is created, which reserves its name.

        Raises
        ------
        ConfigError
            If ``resume`` is set without ``output``.
        DatasetError
            If ``calibration`` does not exist.
        """
        from efficientai_toolkit._base.assets import INSTRUCTIONS

        if self.resume and self.output is None:
            message = "`resume` needs `output`, the folder of the run to resume: give --output too"
            raise ConfigError(message)
        calibration = self.calibration
        if calibration is None and self.technique != "rtn":
            calibration = str(INSTRUCTIONS)
        elif calibration is not None:
            calibration = str(Path(calibration).expanduser())
            if not Path(calibration).exists():
                message = f"there is no folder or file {calibration}"
                raise DatasetError(message)
        return replace(
            self,
            model_path=self.model_path or str(MODEL),
            calibration=calibration,
            output=str(
                new_run(Path(RUNS), "quantize") if self.output is None else Path(self.output).expanduser()
            ),
        )
