"""Configuration of a quantization."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any, Literal

from efficientai_toolkit._base.assets import MODEL
from efficientai_toolkit._base.config import Config, setting
from efficientai_toolkit.exceptions import ConfigError, DatasetError
from efficientai_toolkit.quantize.presets import Preset, fill_preset
from efficientai_toolkit.study.folder import RUNS, new_run

Technique = Literal["rtn", "gptq", "awq", "learned", "mixed"]
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
        "how weights are quantized: rounded to nearest (rtn), so that later weights compensate the errors "
        "(gptq), to nearest after channels with large activations were scaled up (awq), or with scales and "
        "biases trained to predict what the original model does (learned); mixed chooses bits layer by layer "
        "for a given size",
    )
    bits: int = setting(4, "bits per weight: 2, 3, 4, 5, 6 or 8")
    group_size: int = setting(64, "weights that share a scale and a bias: 32, 64 or 128")
    mode: Literal["affine", "mxfp4", "mxfp8", "nvfp4"] = setting(
        "affine",
        "number format: integers with a scale and a bias per group (affine), or floating-point numbers of 4 "
        "or 8 bits, which have their own groups: mxfp4, mxfp8 or nvfp4",
    )
    embedding_bits: int = setting(8, "bits per weight of the embeddings and the output head")
    layers: dict[str, Any] = setting(
        {},
        "format of the layers whose names match a pattern: 'lm_head=8', '*.down_proj=6', "
        "'*.v_proj=4/32' (bits/group size), '*=nvfp4' or '*.o_proj=dense'; repeat it for more, the last "
        "match counts",
        flag="--layer",
    )
    range_search: bool = setting(
        True, "search the range of each group for the least error (off: from the minimum to the maximum)"
    )
    calibration: str | None = setting(
        None,
        "calibration text: a data file or folder, as for training (default: the bundled instructions, "
        "none for rtn)",
    )
    calibration_sequences: int = setting(64, "maximum number of calibration sequences")
    sequence_length: int = setting(512, "tokens per calibration sequence")
    calibration_rows: Literal["random", "auto"] = setting(
        "random",
        "how calibration rows are chosen: at random, or so that they stand for the others by the hidden "
        "states of the model (auto)",
    )
    damping: float = setting(
        0.01, "gptq: share of the mean diagonal of the Hessian that is added to the diagonal"
    )
    act_order: bool = setting(True, "gptq: quantize columns in order of decreasing activation size")
    true_sequential: bool = setting(
        True, "gptq: calibrate each layer on the outputs of the quantized layers before it in its block"
    )
    awq_rounding: Literal["rtn", "gptq"] = setting("rtn", "awq: how weights are rounded after the scaling")
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
    rounding: Literal["rtn", "gptq", "awq"] = setting("gptq", "mixed: how the weights are rounded")
    target_bpw: float | None = setting(
        None, "mixed: stored bits per weight of the whole model, scales and unquantized parameters included"
    )
    target_bytes: int | None = setting(None, "mixed: size of the weights in bytes, in place of --target-bpw")
    sensitivity: str | None = setting(
        None, "mixed: sensitivity.json of an earlier run, which is not measured again then"
    )
    importance: str | None = setting(
        None, "rtn: importance.safetensors of an earlier run, in place of calibration text"
    )
    save_importance: bool = setting(False, "save the activation importance of each layer with the model")
    smooth_alpha: float | None = setting(
        None,
        "SmoothQuant before any technique, for activations that are quantized at run time: share of their "
        "range that is moved into the weights, from 0 to 1, usually 0.5 (default: off)",
    )
    preset: Preset | None = setting(
        None,
        "settings that go together, other options win: q4-best (mixed, 4.5 bits per weight), q4-fast (rtn, "
        "4 bits), q3 (mixed, 3.5 bits per weight) or q8 (rtn, 8 bits)",
    )
    dequantize: bool = setting(
        False, "dequantize weights that are quantized already, and quantize them again"
    )
    seed: int = setting(0, "random seed of the calibration text")
    resume: bool = setting(False, "resume an interrupted run after the last finished block")
    overwrite: bool = setting(False, "replace the run in the output folder")

    def with_values(self, values: Mapping[str, object], *, source: str | None = None) -> "QuantizeConfig":
        """Return a copy with ``values`` replaced; a preset replaces only defaults."""
        if values.get("preset") is not None:
            values = fill_preset({**dict(self._displayed()), **values})
        return Config.with_values(self, values, source=source)  # pyright: ignore[reportReturnType]

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
        needs_text = self.technique != "rtn" or self.save_importance or self.smooth_alpha is not None
        if calibration is None and self.importance is None and needs_text:
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
            sensitivity=_expanded(self.sensitivity),
            importance=_expanded(self.importance),
            output=str(
                new_run(Path(RUNS), "quantize") if self.output is None else Path(self.output).expanduser()
            ),
        )


def _expanded(path: str | None) -> str | None:
    return None if path is None else str(Path(path).expanduser())


_init = QuantizeConfig.__init__


@wraps(_init)
def _init_with_preset(self: QuantizeConfig, **values: Any) -> None:
    # Only here is it known which values were given.
    _init(self, **fill_preset(values))


QuantizeConfig.__init__ = _init_with_preset  # type: ignore[method-assign]
