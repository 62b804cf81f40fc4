"""The formats that models are exported to."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from efficientai_toolkit.exceptions import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """A format."""

    summary: str
    """What it is for."""
    module: str
    """Its :class:`~efficientai_toolkit.exports.writer.Writer`, as ``module:name`` of this folder."""
    types: tuple[str, ...]
    """Number formats of weights; the first is the default."""
    suffix: str
    """Ending of the file; empty if the result is a folder."""
    group_size: int = 64
    """Columns that share a scale where dense weights become int4 or int8."""

    def find_type(self, name: str | None) -> str:
        """Return the type called ``name``, in any case; the default if it is ``None``.

        Raises
        ------
        ConfigError
            If there is none; the message suggests the closest one.
        """
        if name is None:
            return self.types[0]
        if name.lower() in self.types:
            return name.lower()
        closest = get_close_matches(name.lower(), self.types, n=1)
        hint = f"; did you mean {closest[0]}?" if closest else ""
        message = f"`type` must be one of {', '.join(self.types)} for this format, not {name!r}{hint}"
        raise ConfigError(message)


FORMATS: Mapping[str, Format] = {
    "gguf": Format(
        summary="llama.cpp, Ollama and LM Studio",
        module="gguf:GgufWriter",
        types=(
            "auto", "f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k",
            "q4_k_m", "q5_k_m",
        ),
        suffix=".gguf",
    ),
    "onnx": Format(
        summary="onnxruntime and onnxruntime-genai",
        module="onnx.writer:OnnxWriter",
        types=("auto", "f32", "f16", "int4", "int8", "qdq"),
        suffix="",
    ),
    "coreml": Format(
        summary="Core ML on Apple's devices",
        module="coreml.writer:CoreMLWriter",
        types=("auto", "f16", "int8", "int4", "palette4"),
        suffix="",
        group_size=32,
    ),
    "tflite": Format(
        summary="LiteRT (TensorFlow Lite)",
        module="tflite.writer:TfliteWriter",
        types=("auto", "f32", "f16", "int8", "int4"),
        suffix="",
    ),
    "awq": Format(
        summary="vLLM and transformers, 4 bits",
        module="folders.quantized:AwqWriter",
        types=("auto", "int4"),
        suffix="",
    ),
    "gptq": Format(
        summary="vLLM and transformers, 4 and 8 bits",
        module="folders.quantized:GptqWriter",
        types=("auto", "int4", "int8"),
        suffix="",
    ),
    "compressed-tensors": Format(
        summary="vLLM and transformers, 4 and 8 bits, activations too",
        module="folders.quantized:CompressedTensorsWriter",
        types=("auto", "int4", "int8", "w8a8"),
        suffix="",
    ),
    "safetensors": Format(
        summary="everything that reads Hugging Face format",
        module="folders.writer:SafetensorsWriter",
        types=("auto", "f32", "f16", "bf16"),
        suffix="",
    ),
}  # fmt: skip
"""Formats by name."""
