"""``lora-finetuning-mlx:validate``: check whether ``train`` would start."""

import json
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from efficientai_toolkit._engine import link
from efficientai_toolkit.callbacks.progress_bar import describe_memory
from efficientai_toolkit.cli.options import add_config
from efficientai_toolkit.cli.output import Output, table
from efficientai_toolkit.cli.shared import data_report
from efficientai_toolkit.cli.shared.training import training_config
from efficientai_toolkit.device import hardware
from efficientai_toolkit.exceptions import ToolkitError, TrainingError
from efficientai_toolkit.lora import MLXTrainer, TrainingConfig
from efficientai_toolkit.models.loading import load

if TYPE_CHECKING:
    from efficientai_toolkit._core import Model, Tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One line of the table."""

    name: str
    status: Literal["ok", "FAIL", "skipped"]
    detail: str
    numbers: dict[str, dict[str, Any]] | None = None
    """Of the data: what each split holds."""


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options of ``train``."""
    add_config(parser, TrainingConfig, title="the run to check")


def run(args: Namespace, out: Output) -> int:
    """Print a line per check and what the data hold; 2 when a check fails."""
    config = training_config(args)
    checks = inspect(config, show_progress=not out.quiet)
    passed = all(check.status == "ok" for check in checks)
    out.line(table([(f"{check.status:<8}{check.name}", check.detail) for check in checks]))
    for data in filter(None, (check.numbers for check in checks)):
        out.line(f"\n{data_report.details(data)}")
    out.line("\nready to train" if passed else "\nnot ready to train")
    out.result({"ok": passed, "checks": [asdict(check) for check in checks]})
    return 0 if passed else 2


def inspect(config: TrainingConfig, *, show_progress: bool = True) -> list[Check]:
    """Run every check that can run; one that needs a failed one is skipped."""
    checks: list[Check] = []

    def check(name: str, work: Callable[[], Any], describe: Callable[[Any], str]) -> Any:
        try:
            value = work()
        except (ToolkitError, OSError) as error:
            checks.append(Check(name=name, status="FAIL", detail=" ".join(str(error).split())))
            return None
        detail = describe(value)
        checks.append(Check(name=name, status="ok", detail=detail, numbers=_numbers(value)))
        return value

    engine = check("environment", _environment, str)
    filled = check("settings", config.with_defaults_filled, lambda _: "types and paths fit")
    if engine is None or filled is None:
        names = ("hardware", "model", "data", "memory", "output")
        return checks + [
            Check(name=name, status="skipped", detail="an earlier check failed") for name in names
        ]
    check("hardware", hardware, lambda h: f"{h.backend}, {h.chip}, {h.memory_bytes / 1e9:.1f} GB memory")
    loaded: tuple[Model, Tokenizer] | None = check(
        "model",
        lambda: load(filled.model_path, dtype=filled.dtype, bits=filled.bits, show_progress=show_progress),
        lambda pair: _describe_model(*pair),
    )
    if loaded is None:
        checks.append(Check(name="data", status="skipped", detail="needs the model's tokenizer"))
        checks.append(Check(name="memory", status="skipped", detail="needs the model"))
    elif check("data", lambda: _data(*loaded, filled), data_report.summary) is None:
        checks.append(Check(name="memory", status="skipped", detail="needs the data"))
    else:
        check(
            "memory",
            MLXTrainer(filled, model=loaded[0], tokenizer=loaded[1]).estimate_memory,
            describe_memory,
        )
    check("output", lambda: _output(filled), str)
    return checks


def _environment() -> str:
    link.check_backends(link.installed_backends())
    return f"Python {sys.version.split()[0]}, mlx {link.MLX_VERSION}, and the engine fits to it"


def _numbers(value: object) -> dict[str, dict[str, Any]] | None:
    return cast("dict[str, dict[str, Any]]", value) if isinstance(value, dict) else None


def _describe_model(model: "Model", tokenizer: "Tokenizer") -> str:
    template = "with" if tokenizer.has_chat_template else "without"
    return (
        f"{model.path}: {model.model_type}, {model.num_parameters:,} parameters, {model.dtype}, "
        f"vocabulary {tokenizer.vocab_size:,}, {template} chat template"
    )


def _data(model: "Model", tokenizer: "Tokenizer", config: TrainingConfig) -> dict[str, dict[str, Any]]:
    """What the engine says of the settings and the data, with the settings of the run."""
    from efficientai_toolkit._engine.core import core

    report: dict[str, dict[str, Any]] = json.loads(core.validate_lora(model, tokenizer, config.to_json()))
    return report


def _output(config: TrainingConfig) -> str:
    """The nearest existing parent must be a folder one may write to."""
    output = Path(str(config.output)).absolute()
    parent = next(path for path in (output, *output.parents) if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        message = f"cannot write to {output}: {parent} is not a writable folder"
        raise TrainingError(message)
    taken = any((output / name).exists() for name in ("training.json", "checkpoints"))
    if taken and not (config.overwrite or config.resume):
        message = f"{output} holds a run; choose another --output, or give --resume or --overwrite"
        raise TrainingError(message)
    return str(config.output)
