"""``NAMESPACE:validate``: run checks and print them as a table."""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from efficientai_toolkit._engine import link
from efficientai_toolkit.cli.output import Output, format_pairs
from efficientai_toolkit.cli.shared import data_report
from efficientai_toolkit.exceptions import ConfigError, ToolkitError

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model, Tokenizer
    from efficientai_toolkit.device import HardwareReport

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """Result of a check."""

    name: str
    status: Literal["ok", "FAIL", "skipped"]
    detail: str
    numbers: dict[str, dict[str, Any]] | None = None
    """Data statistics of each split, if the check read data."""


class Checks:
    """A sequence of checks."""

    def __init__(self) -> None:
        self.done: list[Check] = []

    def check(
        self, name: str, work: Callable[[], T], describe: Callable[[T], str], *, settings: str | None = None
    ) -> T | None:
        """Run a check; return ``None`` if it fails.

        ``settings`` names the earlier check that a setting at fault belongs to, which shows only here.
        """
        try:
            value = work()
        except (ToolkitError, OSError) as error:
            failed = Check(name=name, status="FAIL", detail=" ".join(str(error).split()))
            if settings is not None and isinstance(error, ConfigError):
                self.done = [check for check in self.done if check.name != settings]
                self.done.append(replace(failed, name=settings))
                self.skip(name, reason="a setting is wrong")
            else:
                self.done.append(failed)
            return None
        self.done.append(Check(name=name, status="ok", detail=describe(value), numbers=_numbers(value)))
        return value

    def skip(self, *names: str, reason: str) -> None:
        """Record skipped checks."""
        self.done += [Check(name=name, status="skipped", detail=reason) for name in names]


def _numbers(value: object) -> dict[str, dict[str, Any]] | None:
    return cast("dict[str, dict[str, Any]]", value) if isinstance(value, dict) else None


def check_environment() -> str:
    """Check that the engine can be loaded, and return the versions."""
    link.check_backends(link.list_backends())
    # Whether it can be loaded, and fits.
    import_module("efficientai_toolkit._engine.core")
    return f"Python {sys.version.split()[0]}, mlx {link.MLX_VERSION}, engine compatible"


def describe_model(model: "Model", tokenizer: "Tokenizer") -> str:
    """Return one line about a loaded model."""
    template = "with" if tokenizer.has_chat_template else "without"
    return (
        f"{model.path}: {model.model_type}, {model.num_parameters:,} parameters, {model.dtype}, "
        f"vocabulary {tokenizer.vocab_size:,}, {template} chat template"
    )


def describe_hardware(found: "HardwareReport") -> str:
    """Return one line about the machine."""
    return f"{found.backend}, {found.chip}, {found.memory_bytes / 1e9:.1f} GB memory"


def report(checks: Checks, out: Output, *, purpose: str) -> int:
    """Print the checks and data statistics; return 2 if a check failed.

    ``purpose`` completes the sentence "ready to …".
    """
    passed = all(check.status == "ok" for check in checks.done)
    out.line(format_pairs([(f"{check.status:<8}{check.name}", check.detail) for check in checks.done]))
    for data in filter(None, (check.numbers for check in checks.done)):
        out.line(f"\n{data_report.format_details(data)}")
    out.line(f"\nready to {purpose}" if passed else f"\nnot ready to {purpose}")
    out.result({"ok": passed, "checks": [asdict(check) for check in checks.done]})
    return 0 if passed else 2
