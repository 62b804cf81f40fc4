"""Configuration of a benchmark of quantized models."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, cast

from efficientai_toolkit._base.assets import MODEL
from efficientai_toolkit._base.config import Config, check_keys, list_options, setting
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.models.generation import GenerateConfig
from efficientai_toolkit.quantize.config import QuantizeConfig
from efficientai_toolkit.study.folder import FOLDER_SETTINGS

ORIGINAL = "original"
"""Name of the unquantized model, which every variant is compared with."""

_DEFAULT_TECHNIQUES = ("rtn", "gptq")
_OWN = ("model_path", "output", "resume", "overwrite")
"""Settings of a quantization that the benchmark chooses."""

_ACCURACY = next(option for option in list_options(GenerateConfig) if option.name == "accuracy")
"""Setting of a variant that is no setting of its quantization: how it is computed with."""


def available_techniques() -> tuple[str, ...]:
    """Return the values of ``QuantizeConfig.technique``."""
    return next(option.choices for option in list_options(QuantizeConfig) if option.name == "technique")


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class SuiteConfig(Config):
    """Configuration of :func:`efficientai_toolkit.quantize.benchmark`."""

    models: list[str] = setting(
        [], "folders in Hugging Face format or hub ids (default: the embedded model)", separator=","
    )
    techniques: list[str] = setting(
        [],
        f"techniques to combine with bits and group sizes, among {', '.join(available_techniques())} "
        f"(default: {','.join(_DEFAULT_TECHNIQUES)}, unless there are variants)",
        separator=",",
    )
    bits: list[int] = setting([4], "bits per weight to combine", separator=",")
    group_sizes: list[int] = setting([64], "group sizes to combine", separator=",")
    variants: dict[str, Any] = setting(
        {},
        "further settings under a name, such as "
        '\'small={"technique": "gptq", "bits": 3}\', and accuracy (f32, bf16 or int8) to compute with; '
        "repeat it for more",
        flag="--variant",
    )
    settings: dict[str, Any] = setting(
        {},
        "setting of `:quantize` for every variant that does not have its own, such as embedding_bits=6; "
        "repeat it for more",
        flag="--set",
    )
    calibration: str | None = setting(
        None,
        "calibration text of all techniques but rtn: a data file or folder, as for training (default: the "
        "bundled instructions)",
    )
    data: str | None = setting(
        None,
        "held-out text: a jsonl file, or a folder with test.jsonl or valid.jsonl (default: the bundled "
        "instructions)",
    )
    sequences: int = setting(64, "maximum number of sequences of held-out text")
    length: int = setting(512, "tokens per sequence of held-out text")
    tasks: list[str] = setting(
        [],
        "files of questions: jsonl rows with prompt and completion, of which the exact matches are counted, "
        "or the YAML, JSON or TOML file of an evaluation",
        separator=",",
    )
    prompt_tokens: int = setting(128, "tokens of the prompt when speed is measured")
    generated_tokens: int = setting(64, "maximum number of generated tokens when speed is measured")
    repeats: int = setting(3, "generations per process, of which the median counts")
    processes: int = setting(
        1, "processes per variant in which speed and memory are measured; 5 give verdicts in :compare"
    )
    timeout: float = setting(14400.0, "seconds after which a process is ended")
    keep_models: bool = setting(True, "keep the quantized models in the output folder")
    plots: bool = setting(True, "draw plots; needs matplotlib")
    output: str | None = setting(None, "output folder (default: a new numbered one under runs/)")
    resume: bool = setting(False, "continue an interrupted benchmark")
    overwrite: bool = setting(False, "replace the benchmark in the output folder")

    def check(self) -> None:
        """Validate the configuration.

        Raises
        ------
        ConfigError
            If a technique is unknown, a name is used twice, or a number is out of range.
        """
        known = available_techniques()
        for name in self.techniques:
            if name not in known:
                message = f"`techniques` names the unknown `{name}`; there are {', '.join(known)}"
                raise ConfigError(message)
        for name in ("sequences", "prompt_tokens", "generated_tokens", "repeats", "processes"):
            if getattr(self, name) < 1:
                message = f"`{name}` must be at least 1, not {getattr(self, name)}"
                raise ConfigError(message)
        for name, least in (("length", 2), ("timeout", 1)):
            if getattr(self, name) < least:
                message = f"`{name}` must be at least {least}, not {getattr(self, name)}"
                raise ConfigError(message)
        for name in ("models", "techniques", "bits", "group_sizes", "tasks"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                message = f"`{name}` must name each value once, not {values}"
                raise ConfigError(message)
        self.list_variants()

    def list_variants(self) -> dict[str, dict[str, Any]]:
        """Return the settings of each variant by name, without the original.

        Raises
        ------
        ConfigError
            If there are none, a name is used twice, or a setting does not exist.
        """
        techniques = self.techniques or ([] if self.variants else _DEFAULT_TECHNIQUES)
        grid = {
            f"{technique}-{bits}bit-g{group}": {"technique": technique, "bits": bits, "group_size": group}
            for technique, bits, group in product(techniques, self.bits, self.group_sizes)
        }
        named = {name: _check_variant(name, values) for name, values in self.variants.items()}
        twice = grid.keys() & named.keys()
        if twice:
            message = f"`variants` uses the name {min(twice)}, which the combination of settings has"
            raise ConfigError(message)
        _check_settings("settings", self.settings)
        found = {name: {**self.settings, **values} for name, values in (grid | named).items()}
        if not found:
            message = (
                "there is nothing to measure: name `techniques` with `bits` and `group_sizes`, or `variants`"
            )
            raise ConfigError(message)
        return found

    def label_models(self) -> dict[str, str]:
        """Return the models by a short label: the last part of the path if that is unique."""
        paths = self.models or [str(MODEL)]
        short = ["embedded" if path == str(MODEL) else Path(path).name or path for path in paths]
        return {
            label if short.count(label) == 1 else path: path for label, path in zip(short, paths, strict=True)
        }

    def plan_quantization(self, settings: Mapping[str, Any], model: str, output: Path) -> QuantizeConfig:
        """Return the configuration of a variant's quantization.

        Raises
        ------
        ConfigError
            If the settings contradict each other.
        """
        common: dict[str, Any] = {"model_path": model, "output": str(output), "overwrite": True}
        # Rounding to nearest is the baseline: a variant that weights ranges by activations says so itself.
        if self.calibration is not None and settings.get("technique") != "rtn":
            common["calibration"] = self.calibration
        own = {name: value for name, value in settings.items() if name != _ACCURACY.name}
        return QuantizeConfig(**(common | own))

    def find_accuracy(self, variant: str) -> Any:
        """Return the precision of the products with quantized weights of a variant; ``None`` by default."""
        return None if variant == ORIGINAL else self.list_variants()[variant].get(_ACCURACY.name)

    def measured(self) -> dict[str, Any]:
        """Return the settings that results depend on."""
        skipped = FOLDER_SETTINGS | {"plots", "keep_models"}
        return {name: value for name, value in self.to_dict().items() if name not in skipped}


def _check_variant(name: str, values: object) -> dict[str, Any]:
    if name == ORIGINAL or not name or any(mark in name for mark in "/\\:[]=,") or name.startswith("."):
        message = (
            f"`variants` has the name {name!r}; a name is that of a folder, without / \\ : [ ] = or a comma, "
            f"and not `{ORIGINAL}`"
        )
        raise ConfigError(message)
    if not isinstance(values, Mapping):
        message = (
            f"`variants` must have settings under the name {name}, such as "
            f'{{"technique": "gptq", "bits": 3}}, not {values!r}'
        )
        raise ConfigError(message)
    settings = dict(cast("Mapping[str, Any]", values))
    _check_settings(f"variants: {name}", settings)
    return settings


def _check_settings(where: str, settings: Mapping[str, Any]) -> None:
    known = available_techniques()
    for own in _OWN:
        if own in settings:
            message = f"`{where}` sets `{own}`, which the benchmark chooses"
            raise ConfigError(message)
    if settings.get("technique", known[0]) not in known:
        message = (
            f"`{where}` names the unknown technique `{settings['technique']}`; there are {', '.join(known)}"
        )
        raise ConfigError(message)
    try:
        _ACCURACY.convert(settings.get(_ACCURACY.name))
        check_keys(
            QuantizeConfig, {name: value for name, value in settings.items() if name != _ACCURACY.name}
        )
    except ConfigError as error:
        message = f"`{where}`: {error}"
        raise ConfigError(message) from error
