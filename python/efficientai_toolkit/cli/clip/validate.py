"""``multimodal-clip-finetuning:validate``: check whether training could start."""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from efficientai_toolkit import hub
from efficientai_toolkit.cli.clip.groups import ESSENTIAL, GROUPS
from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.cli.shared.validate import Checks, check_environment, describe_hardware, report
from efficientai_toolkit.clip import ClipConfig
from efficientai_toolkit.device import hardware
from efficientai_toolkit.study.folder import release
from efficientai_toolkit.study.output import check_output

__all__ = ["ESSENTIAL", "add_arguments", "run"]


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of :class:`ClipConfig`."""
    add_config(parser, ClipConfig, title="run", groups=GROUPS)


def run(args: Namespace, out: Output) -> int:
    """Print the checks; return 2 if one fails."""
    checks = inspect(build_config(args, ClipConfig), show_progress=not out.quiet)
    return report(checks, out, purpose="train")


def inspect(config: ClipConfig, *, show_progress: bool = True) -> Checks:
    """Run all checks; skip those that depend on a failed one."""
    checks = Checks()
    engine = checks.check("environment", check_environment, str)
    filled = checks.check("settings", config.with_defaults_filled, lambda _: "valid")
    if engine is None or filled is None:
        checks.skip("hardware", "model", "data", "output", reason="an earlier check failed")
        return checks
    checks.check("hardware", hardware, describe_hardware)
    model = checks.check("model", lambda: _load(filled, show_progress=show_progress), _describe_model)
    if model is None:
        checks.skip("data", reason="needs the model's tokenizer")
    else:
        checks.check("data", lambda: _data(model, filled), _describe_data, settings="settings")
    checks.check("output", lambda: check_output(filled, "clip"), str)
    # Nothing is written into it.
    release(Path(str(filled.output)))
    return checks


def _load(config: ClipConfig, *, show_progress: bool) -> Any:
    from efficientai_toolkit._engine.core import core

    folder = hub.resolve(str(config.model_path), kind=hub.IMAGE_TEXT_MODEL, show_progress=show_progress)
    return core.clip.load(str(folder), config.dtype, config.image_size)[0]


def _describe_model(model: Any) -> str:
    return (
        f"{model.path}: {model.model_type}, {model.num_parameters:,} parameters, {model.dtype}, images of "
        f"{model.image_size} pixels, texts of {model.context_length} tokens"
    )


def _data(model: Any, config: ClipConfig) -> tuple[tuple[str, int], ...]:
    """Return the engine's numbers of the data."""
    from efficientai_toolkit._engine.core import core

    return tuple(json.loads(core.clip.validate(model, config.to_json())).items())


def _describe_data(numbers: tuple[tuple[str, int], ...]) -> str:
    found = dict(numbers)
    text = (
        f"train {found['train_images']:,} images, {found['train_texts']:,} texts; validation "
        f"{found['valid_images']:,} images, {found['valid_texts']:,} texts"
    )
    if found["truncated_texts"]:
        text += f"; {found['truncated_texts']:,} texts are longer than the context and lose tokens"
    if found["repeated_texts"]:
        text += f"; {found['repeated_texts']:,} texts repeat, and count as negatives of each other"
    return text
