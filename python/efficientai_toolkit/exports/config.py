"""Configuration of an export."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from efficientai_toolkit._base.assets import MODEL
from efficientai_toolkit._base.config import Config, setting
from efficientai_toolkit.exceptions import ConfigError, DatasetError
from efficientai_toolkit.exports.formats import FORMATS, Format


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class ExportConfig(Config):
    """Configuration of an export."""

    model_path: str | None = setting(
        None, "folder in Hugging Face format, or hub id org/name[@revision] (default: the embedded model)"
    )
    adapter_path: str | None = setting(
        None, "folder or hub id of a LoRA adapter, which is merged into the exported weights"
    )
    format: Literal[
        "gguf", "onnx", "coreml", "tflite", "awq", "gptq", "compressed-tensors", "safetensors"
    ] = setting(
        "gguf",
        "format to write: gguf for llama.cpp, Ollama and LM Studio, onnx for onnxruntime and "
        "onnxruntime-genai, coreml for Apple's devices, tflite for LiteRT, awq, gptq or compressed-tensors "
        "for vLLM and transformers, or safetensors, numbers in Hugging Face format",
    )
    type: str | None = setting(
        None,
        "number format of the weights; gguf: f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, q4_k, q5_k, q6_k, "
        "the mixtures q4_k_m and q5_k_m, or auto, the closest to the model's own; onnx: f32, f16, int4, "
        "int8, qdq (8 bits in standard operators), or auto; coreml: f16, int8, int4, palette4 (16 numbers "
        "for 32 rows), or auto; tflite: f32, f16, int8, int4, or auto; "
        "awq: int4, or auto; gptq: int4, int8, or auto, "
        "the model's own; compressed-tensors: these and w8a8 (8 bits, activations too); safetensors: f32, "
        "f16, bf16, or auto, the model's own",
    )
    output: str | None = setting(
        None, "file or folder to write (default: named after model and type, in the current folder)"
    )
    merge_adapter: bool = setting(
        True, "merge the adapter into the weights; off: export it alone, for use beside an exported model"
    )
    group_size: int | None = setting(
        None,
        "columns that share a scale where dense weights become int4 or int8: 32, 64 or 128 (default: 64; "
        "coreml: 32; tflite, int4 only: the whole row)",
    )
    accuracy_level: int = setting(
        4,
        "precision of products with int4 and int8 weights (onnx, tflite): 0, that of the runtime, 1 float32, "
        "2 float16 (onnx), 3 bfloat16 (onnx), or 4, the fastest, with activations rounded to 8 bits",
    )
    minimum_deployment_target: Literal["iOS16", "iOS17", "iOS18"] = setting(
        "iOS18",
        "oldest system that runs the program (coreml), and the macOS of the same year; before iOS18 there is "
        "no cache of keys and values, and no int4",
    )
    context_length: int | None = setting(
        None,
        "tokens that a program has room for: in its cache (coreml; default: those of the model, at most "
        "2048), or at all (tflite, which always computes as many; at most 128)",
    )
    swift: bool = setting(False, "make the output a Swift package that loads the program (coreml)")
    checkpoint_format: Literal["gptq", "gptq_v2"] = setting(
        "gptq",
        "version of gptq: gptq, which everything reads, or gptq_v2, which stores zero points as they are",
    )
    requantize: bool = setting(
        True,
        "round quantized weights again where awq, gptq or compressed-tensors cannot hold them as they are; "
        "off: refuse",
    )
    calibration: str | None = setting(
        None,
        "calibration text, a data file or folder as for training: errors of weights count by the size of the "
        "inputs that they are multiplied by (default: all weights count alike)",
    )
    calibration_sequences: int = setting(64, "maximum number of calibration sequences")
    sequence_length: int = setting(512, "tokens per calibration sequence")
    seed: int = setting(0, "random seed of the calibration text")
    verify: Literal["on", "off"] = setting(
        "on", "read the result back and compare it with the model; off: skip that"
    )
    overwrite: bool = setting(False, "replace an existing output")

    def check(self) -> None:
        """Check the values of settings, and which of them go together."""
        FORMATS[self.format].find_type(self.type)
        if not self.merge_adapter and self.adapter_path is None:
            message = "`merge_adapter` is off, but there is no `adapter_path`: name the adapter to export"
            raise ConfigError(message)
        if self.checkpoint_format != "gptq" and self.format != "gptq":
            message = (
                f"`checkpoint_format` is a version of gptq, which {self.format} does not have: leave it out"
            )
            raise ConfigError(message)
        for name, values in (("group_size", (None, 32, 64, 128)), ("accuracy_level", (0, 1, 2, 3, 4))):
            if getattr(self, name) not in values:
                allowed = ", ".join(str(value) for value in values if value is not None)
                message = f"`{name}` must be one of {allowed}, not {getattr(self, name)}"
                raise ConfigError(message)
        for name in ("calibration_sequences", "sequence_length"):
            if getattr(self, name) < 1:
                message = f"`{name}` must be at least 1, not {getattr(self, name)}"
                raise ConfigError(message)
        if self.context_length is not None and self.context_length < 1:
            message = f"`context_length` must be at least 1, not {self.context_length}"
            raise ConfigError(message)
        if self.swift and self.format != "coreml":
            message = f"`swift` goes with `format` coreml, not {self.format}"
            raise ConfigError(message)

    @property
    def columns_per_scale(self) -> int:
        """Return ``group_size``, that of the format by default."""
        return self.group_size or FORMATS[self.format].group_size

    def with_defaults_filled(self) -> "ExportConfig":
        """Return a copy with model, type and output filled in.

        Raises
        ------
        DatasetError
            If ``calibration`` does not exist.
        """
        calibration = self.calibration
        if calibration is not None:
            calibration = str(Path(calibration).expanduser())
            if not Path(calibration).exists():
                message = f"there is no folder or file {calibration}"
                raise DatasetError(message)
        chosen = FORMATS[self.format]
        kind = chosen.find_type(self.type)
        return replace(
            self,
            model_path=self.model_path or str(MODEL),
            type=kind,
            calibration=calibration,
            output=str(
                Path(self.output).expanduser()
                if self.output is not None
                else Path(f"{self._name()}-{self._kind(kind, chosen)}{chosen.suffix}")
            ),
        )

    def _kind(self, kind: str, chosen: Format) -> str:
        """Return the second part of the name; folders have no ending that tells their format."""
        if not self.merge_adapter:
            return "adapter"
        if chosen.suffix:
            return kind
        return self.format if kind == "auto" else f"{self.format}-{kind}"

    def _name(self) -> str:
        """Return the last part of the path or id of what is exported."""
        path = self.adapter_path if not self.merge_adapter else self.model_path
        return Path((path or "model").partition("@")[0]).stem or "model"
