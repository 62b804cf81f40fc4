"""Settings of a training: from the form, as a command, as YAML, and back."""

import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from efficientai_toolkit._base.config import list_options, read_pairs
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.lora.config import TrainingConfig
from efficientai_toolkit.study.folder import FOLDER_SETTINGS

COMMAND = ("efficientai-toolkit", "lora-finetuning-mlx:train")

METHODS: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "QLoRA (4-bit base model)": {"bits": 4},
    "rsLoRA": {"use_rslora": True},
    "DoRA": {"method": "dora"},
    "AdaLoRA": {"method": "adalora"},
    "Prompt tuning": {"method": "prompt_tuning"},
    "Prefix tuning": {"method": "prefix_tuning"},
    "P-tuning": {"method": "p_tuning"},
    "Full fine-tuning": {"method": "full"},
}
"""Settings of each method."""

_OF_METHODS = frozenset({"method", "bits", "use_rslora"})

PRESETS: dict[str, dict[str, Any]] = {
    "Quick try": {"iters": 20, "lora_rank": 8, "lora_alpha": 16.0, "max_seq_length": 512},
    "Balanced": {"epochs": 3.0, "lora_rank": 8, "lora_alpha": 16.0, "max_seq_length": 2048},
    "Thorough": {"epochs": 5.0, "lora_rank": 32, "lora_alpha": 64.0, "max_seq_length": 2048},
}
"""Settings by name; the learning rate depends on the model."""

NUMBERS = ("epochs", "iters", "lr", "batch_size", "lora_rank", "lora_alpha", "max_seq_length")
"""Settings that have a field of their own, as those of model, data and method do."""

_DEFAULTS = {option.name: option for option in list_options(TrainingConfig)}

_MAX_TEXT = 1 << 16


def default_of(name: str) -> Any:
    """Return the default of a setting."""
    return _DEFAULTS[name].default


def suggest_lr(model: str, method: str) -> float:
    """Return a learning rate to begin with."""
    if model == "embedded":
        # A model that small has to move further than a large one.
        return TrainingConfig.demo().lr
    kind = METHODS[method].get("method", "lora")
    if kind in {"prompt_tuning", "prefix_tuning", "p_tuning"}:
        return 1e-2
    rate: float = default_of("lr")
    return rate / 10 if kind == "full" else rate


def build_settings(
    model: str, data: str | None, method: str, numbers: Mapping[str, Any], extra: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the settings of the form that differ from the defaults.

    Parameters
    ----------
    model
        Name of a model.
    data
        Data set, relative to the workspace; by default the bundled one.
    method
        Key of ``METHODS``.
    numbers
        Values of ``NUMBERS``; ``None`` stands for the default.
    extra
        Settings without a field.

    Raises
    ------
    ConfigError
        If a value is wrong.
    """
    if method not in METHODS:
        message = f"`method` is one of {', '.join(METHODS)}"
        raise ConfigError(message)
    given = {name: value for name, value in numbers.items() if value not in (None, "")}
    for name, value in given.items():
        # A browser sends 8 as 8.0.
        is_whole = _DEFAULTS[name].kind is int and isinstance(value, float) and value.is_integer()
        given[name] = _DEFAULTS[name].convert(int(value) if is_whole else value)
    values = {"model_path": model or "embedded", "data": data or None, **extra, **METHODS[method], **given}
    return {
        name: value for name, value in values.items() if name == "model_path" or value != default_of(name)
    }


def split_settings(values: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the method of settings, and those that have no field."""
    chosen = {name: values[name] for name in _OF_METHODS & values.keys() if values[name] != default_of(name)}
    method = next((name for name, needed in METHODS.items() if needed == chosen), None)
    fields = {"model_path", "data", *NUMBERS, *(_OF_METHODS if method else ())}
    if method is None:
        method = next(
            name for name, needed in METHODS.items() if needed.get("method") == chosen.get("method")
        )
        needed = METHODS[method]
        fields |= set(needed)
    return method, {name: value for name, value in values.items() if name not in fields}


def make_absolute(settings: Mapping[str, Any], paths: Mapping[str, Path | None]) -> dict[str, Any]:
    """Return settings that mean the same outside of the page: with the folders behind names."""
    return {name: str(paths.get(name) or value) for name, value in settings.items() if name in paths} | {
        name: value for name, value in settings.items() if name not in paths
    }


def format_command(settings: Mapping[str, Any]) -> str:
    """Return the command line with these settings, an option per line."""
    lines = [shlex.join(COMMAND)]
    for name, value in settings.items():
        option = _DEFAULTS[name]
        if option.kind is bool:
            parts = [option.flag if value else option.flag.replace("--", "--no-", 1)]
        elif option.keyed and option.separator is None:
            parts = [x for key, item in value.items() for x in (option.flag, f"{key}={_as_json(item)}")]
        elif option.keyed:
            parts = [option.flag, ",".join(f"{key}={item}" for key, item in value.items())]
        elif option.repeated:
            parts = [option.flag, ",".join(map(str, value))]
        else:
            parts = [option.flag, str(value)]
        lines.append(f"  {shlex.join(parts)}")
    return " \\\n".join(lines)


def format_yaml(settings: Mapping[str, Any]) -> str:
    """Return the settings as a file for ``--config``."""
    import yaml

    text: str = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
    return text


def parse_yaml(text: str) -> dict[str, Any]:
    """Return the settings of a YAML text that are those of a training.

    Raises
    ------
    ConfigError
        If it is too long, no YAML of ``key: value`` pairs, or a setting is unknown or wrong.
    """
    if len(text) > _MAX_TEXT:
        message = f"the settings have {len(text):,} characters, more than {_MAX_TEXT:,}"
        raise ConfigError(message)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "settings.yaml"
        path.write_text(text, encoding="utf-8")
        try:
            values = read_pairs(path)
        except ConfigError as error:
            # The name of a file that nobody has seen.
            raise ConfigError(str(error).replace(f"{path}: ", "").replace(str(path), "the text")) from None
    converted = TrainingConfig().with_values(values).to_dict()
    return {name: converted[name] for name in values if name not in FOLDER_SETTINGS}


def _as_json(value: object) -> str:
    import json

    return json.dumps(value)
