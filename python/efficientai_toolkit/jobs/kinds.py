"""Kinds of jobs: their settings, what runs them, and which of their settings are paths.

A client names a kind of this table, never a function.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from importlib import import_module

from efficientai_toolkit._base.config import Config, Option, list_options
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.study.folder import FOLDER_SETTINGS


class PathSetting(Enum):
    """What a setting that is a path names."""

    MODEL = "model"
    """Name of a model, a folder in the workspace, or a hub id where downloads are allowed."""
    FILE = "file"
    """File or folder in the workspace."""
    MIXED_DATA = "mixed_data"
    """Files and folders, separated by commas, each with an optional weight."""
    QUESTIONS = "questions"
    """File of rows in the workspace; one of settings could name other files."""
    SETTINGS_FILE = "settings_file"
    """File in the workspace of settings, of which none is a path."""
    SETTINGS = "settings"
    """Not a path itself, but settings, of which none is a path."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A kind of job."""

    name: str
    summary: str
    configs: tuple[str, ...]
    """``module:Config`` of its settings; no two share a name."""
    function: str
    """``module:function`` that runs it, for :func:`efficientai_toolkit.study.job.run_job`."""
    paths: Mapping[str, PathSetting] = field(default_factory=dict[str, PathSetting])
    """Settings that are paths."""
    checkpoint: str | None = None
    """Pattern of what an attempt leaves in the output folder for the next one to continue; ``None`` if the
    next one begins anew."""
    is_light: bool = False
    """Whether it hardly needs the device, and so does not wait for the jobs that run on it."""

    def load_configs(self) -> tuple[type[Config], ...]:
        """Import the classes of its settings."""
        return tuple(_load(name) for name in self.configs)

    def list_settings(self) -> dict[str, Option]:
        """Return what may be set, by name; the output folder is the job's own."""
        return {
            option.name: option
            for config in self.load_configs()
            for option in list_options(config)
            if option.name not in FOLDER_SETTINGS
        }


def _load(name: str) -> type[Config]:
    module, _, attribute = name.partition(":")
    config: type[Config] = getattr(import_module(module), attribute)
    return config


_TRAINING = "efficientai_toolkit.lora.config:TrainingConfig"
_TRAINING_PATHS = {
    "model_path": PathSetting.MODEL,
    "data": PathSetting.MIXED_DATA,
    "init_adapter": PathSetting.MODEL,
}
_QUANTIZE_PATHS = {
    "model_path": PathSetting.MODEL,
    "calibration": PathSetting.FILE,
    "sensitivity": PathSetting.FILE,
    "importance": PathSetting.FILE,
}
_CHECKPOINTS = "checkpoints/[!.]*"

KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            name="train",
            summary="fine-tune a model",
            configs=(_TRAINING,),
            function="efficientai_toolkit.jobs.work.training:train",
            paths=_TRAINING_PATHS,
            checkpoint=_CHECKPOINTS,
        ),
        Kind(
            name="optimize",
            summary="search for the best settings of a fine-tuning",
            configs=(_TRAINING, "efficientai_toolkit.lora.optimization.config:OptimizationConfig"),
            function="efficientai_toolkit.jobs.work.training:optimize",
            paths={**_TRAINING_PATHS, "search_space": PathSetting.SETTINGS_FILE},
            checkpoint="study.db",
        ),
        Kind(
            name="compare",
            summary="compare methods of fine-tuning",
            configs=(_TRAINING, "efficientai_toolkit.lora.comparison.config:ComparisonConfig"),
            function="efficientai_toolkit.jobs.work.training:compare",
            paths=_TRAINING_PATHS,
            checkpoint="run.json",
        ),
        Kind(
            name="analyze",
            summary="choose the ranks of a fine-tuning",
            configs=(_TRAINING, "efficientai_toolkit.lora.analysis.config:AnalysisConfig"),
            function="efficientai_toolkit.jobs.work.training:analyze",
            paths=_TRAINING_PATHS,
        ),
        Kind(
            name="validate",
            summary="check settings and data of a fine-tuning, and estimate its memory",
            configs=(_TRAINING,),
            function="efficientai_toolkit.jobs.work.validation:validate",
            paths=_TRAINING_PATHS,
            is_light=True,
        ),
        Kind(
            name="evaluate",
            summary="measure a model on data",
            configs=(
                "efficientai_toolkit.jobs.work.model:ModelConfig",
                "efficientai_toolkit.evaluation.config:EvaluationConfig",
            ),
            function="efficientai_toolkit.jobs.work.evaluation:evaluate",
            paths={
                "model_path": PathSetting.MODEL,
                "adapter_path": PathSetting.MODEL,
                "data": PathSetting.FILE,
            },
        ),
        Kind(
            name="quantize",
            summary="quantize a model",
            configs=("efficientai_toolkit.quantize.config:QuantizeConfig",),
            function="efficientai_toolkit.jobs.work.quantization:quantize",
            paths=_QUANTIZE_PATHS,
            checkpoint=_CHECKPOINTS,
        ),
        Kind(
            name="distill",
            summary="train a student to predict what a teacher predicts",
            configs=(_TRAINING, "efficientai_toolkit.distill.config:DistillConfig"),
            function="efficientai_toolkit.jobs.work.training:distill",
            paths={
                **_TRAINING_PATHS,
                "teacher": PathSetting.MODEL,
                "through": PathSetting.MODEL,
                "teacher_cache": PathSetting.FILE,
            },
            checkpoint=_CHECKPOINTS,
        ),
        Kind(
            name="select",
            summary="choose rows of a data set that stand for all of them",
            configs=("efficientai_toolkit.quantize.subset:SubsetConfig",),
            function="efficientai_toolkit.jobs.work.quantization:select",
            paths={"model_path": PathSetting.MODEL, "data": PathSetting.FILE},
        ),
        Kind(
            name="benchmark",
            summary="measure quantized variants of models",
            configs=("efficientai_toolkit.quantize.suite.config:SuiteConfig",),
            function="efficientai_toolkit.jobs.work.quantization:benchmark",
            paths={
                "models": PathSetting.MODEL,
                "calibration": PathSetting.FILE,
                "data": PathSetting.FILE,
                "tasks": PathSetting.QUESTIONS,
                "variants": PathSetting.SETTINGS,
                "settings": PathSetting.SETTINGS,
            },
            checkpoint="benchmarks.sqlite",
        ),
        Kind(
            name="fuse",
            summary="merge an adapter into its model",
            configs=("efficientai_toolkit.jobs.work.artifacts:FuseConfig",),
            function="efficientai_toolkit.jobs.work.artifacts:fuse",
            paths={"model_path": PathSetting.MODEL, "adapter_path": PathSetting.MODEL},
            is_light=True,
        ),
        Kind(
            name="convert",
            summary="convert an adapter between the formats of mlx-lm and PEFT",
            configs=("efficientai_toolkit.jobs.work.artifacts:ConvertConfig",),
            function="efficientai_toolkit.jobs.work.artifacts:convert",
            paths={"model_path": PathSetting.MODEL, "adapter_path": PathSetting.MODEL},
            is_light=True,
        ),
        Kind(
            name="download",
            summary="download a model or an adapter from the Hugging Face hub",
            configs=("efficientai_toolkit.jobs.work.artifacts:DownloadConfig",),
            function="efficientai_toolkit.jobs.work.artifacts:download",
            paths={"repository": PathSetting.MODEL},
            is_light=True,
        ),
    )
}
"""Kinds by name."""


def find_kind(name: str) -> Kind:
    """Return a kind by its name.

    Raises
    ------
    ConfigError
        If there is none; the message lists them.
    """
    kind = KINDS.get(name)
    if kind is None:
        message = f"`kind` must be one of {', '.join(KINDS)}, not {name[:100]!r}"
        raise ConfigError(message)
    return kind
