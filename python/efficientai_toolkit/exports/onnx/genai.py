"""What onnxruntime-genai needs beside a graph: its configuration, and the files of the tokenizer."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from efficientai_toolkit._base.files import write_json
from efficientai_toolkit._base.parsing import parse_file
from efficientai_toolkit.exceptions import ModelLoadingError
from efficientai_toolkit.exports.description import write_description
from efficientai_toolkit.exports.outline import Outline

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model, Tokenizer

MODEL_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"
CONFIG_FILE = "genai_config.json"

_CACHE_LENGTH = 4096
"""Longest text that memory is set aside for, unless a program asks for more."""

_MAX_BYTES = 1 << 20
"""Largest configuration that is read."""

_SEARCH = ("do_sample", "temperature", "top_k", "top_p", "repetition_penalty")
"""Settings that a checkpoint may recommend."""


def write_companions(folder: Path, model: "Model", tokenizer: "Tokenizer", outline: Outline) -> None:
    """Write everything that lies beside the graph into ``folder``."""
    write_description(folder, model)
    write_json(folder / CONFIG_FILE, _configuration(model, tokenizer, outline, _recommended(folder)))


def _configuration(
    model: "Model", tokenizer: "Tokenizer", outline: Outline, recommended: dict[str, Any]
) -> dict[str, Any]:
    first = outline.blocks[0]
    ends = tokenizer.eos_token_ids
    names = ("key", "value")
    inputs = {"input_ids": "input_ids", "attention_mask": "attention_mask"}
    return {
        "model": {
            "type": model.model_type,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": ends if len(ends) > 1 else tokenizer.eos_token_id,
            "pad_token_id": _padding(tokenizer),
            "vocab_size": outline.vocab_size,
            "context_length": outline.context_length,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": MODEL_FILE,
                "head_size": first.head_dim,
                "hidden_size": outline.hidden_size,
                "num_attention_heads": first.heads,
                "num_hidden_layers": len(outline.blocks),
                "num_key_value_heads": first.kv_heads,
                "inputs": inputs | {f"past_{name}_names": f"past_key_values.%d.{name}" for name in names},
                "outputs": {"logits": "logits"}
                | {f"present_{name}_names": f"present.%d.{name}" for name in names},
            },
        },
        "search": {
            "max_length": min(outline.context_length, _CACHE_LENGTH),
            "past_present_share_buffer": True,
            **recommended,
        },
    }


def _padding(tokenizer: "Tokenizer") -> int:
    """Return a token for positions that nothing reads."""
    found = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((token for token in found if token is not None), 0)


def _recommended(folder: Path) -> dict[str, Any]:
    """Return the settings of sampling that a checkpoint recommends."""
    path = folder / "generation_config.json"
    found = parse_file(path) if path.is_file() else None
    values = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    return {name: values[name] for name in _SEARCH if values.get(name) is not None}


def read_sizes(folder: Path) -> tuple[str, int, int]:
    """Return the name of the graph, the longest sequence and the size of the vocabulary.

    Raises
    ------
    ModelLoadingError
        If the configuration is missing or says something else.
    """
    path = folder / CONFIG_FILE
    try:
        with path.open("rb") as file:
            model = json.loads(file.read(_MAX_BYTES))["model"]
        name, length, size = model["decoder"]["filename"], model["context_length"], model["vocab_size"]
        fits = Path(name).name == name and min(int(length), int(size)) > 0
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        message = f"{path}: not of a folder that the ONNX export wrote ({type(error).__name__}: {error})"
        raise ModelLoadingError(message) from error
    if not fits:
        message = f"{path}: filename {name!r}, context_length {length} and vocab_size {size} are not possible"
        raise ModelLoadingError(message)
    return name, int(length), int(size)
