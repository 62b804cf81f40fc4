"""What is made of models and adapters: merged, converted, exported, downloaded."""

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from efficientai_toolkit import adapters, hub
from efficientai_toolkit._base.config import Config, setting
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.exports import run
from efficientai_toolkit.exports.config import ExportConfig
from efficientai_toolkit.exports.formats import FORMATS
from efficientai_toolkit.jobs.work.reporting import report_to
from efficientai_toolkit.study.job import Emit

_PARTS = 100
"""Most reports of a download between two changes of its size."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class FuseConfig(Config):
    """What is merged; see :func:`efficientai_toolkit.adapters.fuse`."""

    adapter_path: str | None = setting(None, "folder or hub id of the adapter")
    model_path: str | None = setting(None, "folder or hub id of its model (default: the embedded model)")
    dequantize: bool = setting(False, "dequantize all weights")

    def check(self) -> None:
        """Check that there is an adapter."""
        _require(self.adapter_path, "adapter_path")


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class ConvertConfig(Config):
    """What is converted; see :func:`efficientai_toolkit.adapters.convert_adapter`."""

    adapter_path: str | None = setting(None, "folder or hub id of the adapter")
    adapter_format: Literal["mlx", "peft"] | None = setting(
        None, "format to convert to (default: the one that it is not in)"
    )
    model_path: str | None = setting(None, "its model, which only mixtures of experts need (default: none)")

    def check(self) -> None:
        """Check that there is an adapter."""
        _require(self.adapter_path, "adapter_path")


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class DownloadConfig(Config):
    """What is downloaded; see :func:`efficientai_toolkit.hub.resolve`."""

    repository: str | None = setting(None, "hub id org/name[@revision]")

    def check(self) -> None:
        """Check that there is a repository."""
        _require(self.repository, "repository")


def _require(value: str | None, name: str) -> None:
    if not value:
        message = f"`{name}` is missing"
        raise ConfigError(message)


def fuse(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Merge an adapter into its model."""
    config = FuseConfig(**request["configs"][0])
    emit({"event": "progress", "stage": "fuse", "done": 0, "total": 1})
    result = adapters.fuse(
        config.model_path,
        str(config.adapter_path),
        _begin_anew(request),
        dequantize=config.dequantize,
        show_progress=False,
    )
    return asdict(result) | {"output": str(result.output)}


def convert(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Convert an adapter."""
    config = ConvertConfig(**request["configs"][0])
    emit({"event": "progress", "stage": "convert", "done": 0, "total": 1})
    result = adapters.convert_adapter(
        str(config.adapter_path),
        _begin_anew(request),
        adapter_format=config.adapter_format,
        model_path=config.model_path,
        show_progress=False,
    )
    return asdict(result) | {"output": str(result.output)}


def export(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Write a model in the format of another program; a file goes into the output folder."""
    config = ExportConfig(**request["configs"][0])
    output = _begin_anew(request)
    if FORMATS[config.format].suffix:
        output.mkdir(parents=True)
        output /= Path(str(replace(config, output=None).with_defaults_filled().output)).name
    result = run.export(replace(config, output=str(output)), callback=report_to(emit), show_progress=False)
    told = {name: value for name, value in asdict(result).items() if name != "path"}
    return told | {"output": request["output"]}


def download(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Download into the cache of the hub, where the next attempt finds what is there already."""
    config = DownloadConfig(**request["configs"][0])
    told = (-1, 0)

    def tell(done: int, total: int) -> None:
        nonlocal told
        # The total grows with each file that is begun.
        now = (_PARTS * done // max(total, 1), total)
        if now != told:
            told = now
            emit({"event": "progress", "stage": "download", "done": done, "total": total})

    folder = hub.resolve(str(config.repository), show_progress=False, on_progress=tell)
    return {"path": str(folder), "repository": config.repository}


def _begin_anew(request: dict[str, Any]) -> Path:
    """Return the output folder, without what an interrupted attempt left in it."""
    output = Path(request["output"])
    shutil.rmtree(output, ignore_errors=True)
    return output
