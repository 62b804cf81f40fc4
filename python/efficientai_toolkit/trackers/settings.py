"""Settings of runs: flat, and those that differ from the defaults."""

import json
from collections.abc import Mapping
from typing import Any

from efficientai_toolkit._base.assets import INSTRUCTIONS, MODEL
from efficientai_toolkit._base.config import Config, list_options
from efficientai_toolkit.callbacks.run import Run
from efficientai_toolkit.lora.analysis.config import AnalysisConfig
from efficientai_toolkit.lora.comparison.config import ComparisonConfig
from efficientai_toolkit.lora.config import TrainingConfig
from efficientai_toolkit.quantize.config import QuantizeConfig
from efficientai_toolkit.quantize.suite.config import SuiteConfig
from efficientai_toolkit.study.folder import FOLDER_SETTINGS
from efficientai_toolkit.trackers.values import as_dict

_SECTIONS: dict[str, type[Config]] = {
    "analysis": AnalysisConfig,
    "comparison": ComparisonConfig,
    "training": TrainingConfig,
}
"""Parts of the configuration of studies."""

_CONFIGS: dict[str, type[Config]] = {
    "lora": TrainingConfig,
    "quantize": QuantizeConfig,
    "quantization": SuiteConfig,
}
"""Configurations by kind of run; those of other kinds have sections."""


_BUNDLED = frozenset({str(MODEL), str(INSTRUCTIONS)})
"""Values that stand for the default."""


def flatten(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings, those of a section as ``training.lr``."""
    flat: dict[str, Any] = {}
    for name, value in configuration.items():
        section = as_dict(value) if name in _SECTIONS else {}
        flat |= {f"{name}.{key}": inner for key, inner in section.items()}
        if not section:
            flat[name] = value
    return flat


def list_changed(run: Run) -> dict[str, Any]:
    """Return the settings of a run that differ from the defaults, without those of the output folder."""
    defaults = _defaults(_CONFIGS[run.kind]) if run.kind in _CONFIGS else {}
    for section, config in _SECTIONS.items():
        defaults |= {f"{section}.{name}": value for name, value in _defaults(config).items()}
    return {
        name: value
        for name, value in flatten(run.configuration).items()
        if name.rpartition(".")[2] not in FOLDER_SETTINGS
        if name not in defaults or value != defaults[name]
        if str(value) not in _BUNDLED
    }


def format_value(value: object) -> str:
    """Return a setting as text: as it is, or as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _defaults(config: type[Config]) -> dict[str, Any]:
    return {option.name: option.default for option in list_options(config)}
