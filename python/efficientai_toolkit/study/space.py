"""Search spaces.

A search-space file has one key per field of the configuration::

    lr: {low: 1.0e-5, high: 1.0e-2, log: true}
    lora_rank: {choices: [4, 8, 16]}
    lora_dropout: {low: 0, high: 0.2}
    batch_size: 4                              # fixed in all trials
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

from efficientai_toolkit._base.config import Config, Option, check_keys, list_options, read_pairs
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.study.folder import FOLDER_SETTINGS

C = TypeVar("C", bound=Config)


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """An interval of numbers, including both bounds."""

    low: float
    high: float
    log: bool
    """Whether to sample uniformly on a logarithmic scale."""
    whole: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """A finite set of values."""

    values: tuple[str | int | float | bool | None, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSpace(Generic[C]):
    """Searched and fixed settings of a configuration; subclasses define :attr:`config`."""

    config: ClassVar[type[Config]] = Config
    """Configuration class whose fields are searched."""
    compared: ClassVar[frozenset[str]] = frozenset()
    """Fields that must be fixed, since results would not be comparable otherwise."""

    searched: dict[str, Range | Choices]
    fixed: dict[str, Any]

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Read a search-space file.

        Raises
        ------
        ConfigError
            If the file cannot be read or an entry is invalid; the message names the key.
        """
        return cls.from_mapping(read_pairs(Path(path)), source=str(path))

    @classmethod
    def from_mapping(cls, values: Mapping[str, object], *, source: str = "search space") -> Self:
        """Create a search space from the entries of a file.

        Raises
        ------
        ConfigError
            If an entry is invalid; the message names the key.
        """
        known = {option.name: option for option in list_options(cls.config)}
        searched: dict[str, Range | Choices] = {}
        fixed: dict[str, Any] = {}
        for key, value in values.items():
            try:
                check_keys(cls.config, [key])
                if key in FOLDER_SETTINGS:
                    message = f"`{key}` belongs to the search as a whole; give it as an option"
                    raise ConfigError(message)
                if key in cls.compared and isinstance(value, dict):
                    message = f"`{key}` must be the same in every run, or their losses cannot be compared"
                    raise ConfigError(message)
                if known[key].keyed or not isinstance(value, dict):
                    fixed[key] = known[key].convert(value)
                else:
                    searched[key] = _entry(known[key], cast("dict[str, object]", value))
            except ConfigError as error:
                message = f"{source}: {error}"
                raise ConfigError(message) from None
        if not searched:
            message = (
                f"{source}: nothing is searched; give at least one key as `{{low, high}}` or `{{choices}}`"
            )
            raise ConfigError(message)
        return cls(searched=searched, fixed=fixed)

    def to_dict(self) -> dict[str, Any]:
        """Return the entries of a search-space file."""
        entries: dict[str, Any] = dict(self.fixed)
        for name, entry in self.searched.items():
            if isinstance(entry, Choices):
                entries[name] = {"choices": list(entry.values)}
            else:
                entries[name] = {"low": entry.low, "high": entry.high, "log": entry.log}
        return entries

    def suggest(self, trial: Any) -> dict[str, Any]:
        """Sample a value of each searched setting from an Optuna trial."""
        drawn: dict[str, Any] = {}
        for name, entry in self.searched.items():
            if isinstance(entry, Choices):
                drawn[name] = trial.suggest_categorical(name, entry.values)
            elif entry.whole:
                drawn[name] = trial.suggest_int(name, int(entry.low), int(entry.high), log=entry.log)
            else:
                drawn[name] = trial.suggest_float(name, entry.low, entry.high, log=entry.log)
        return drawn

    def apply(self, base: C, drawn: Mapping[str, object]) -> C:
        """Return the configuration of a trial with the sampled values."""
        return base.with_values({**self.fixed, **drawn})

    def first(self, base: C) -> dict[str, Any] | None:
        """Return the settings of ``base`` as the first trial, if the space contains them."""
        known = {option.name: option for option in list_options(type(base))}
        values: dict[str, Any] = {}
        for name, entry in self.searched.items():
            value = _plain(known[name], getattr(base, name))
            held = (
                value in entry.values
                if isinstance(entry, Choices)
                else value is not None and entry.low <= value <= entry.high
            )
            if not held:
                return None
            values[name] = value
        return values


def _entry(option: Option, entry: dict[str, object]) -> Range | Choices:
    name = option.name
    if set(entry) == {"choices"}:
        choices = entry["choices"]
        if not isinstance(choices, list) or not choices:
            message = f"`{name}`: `choices` must be a list of at least one value, not {choices!r}"
            raise ConfigError(message)
        values = [option.convert(value) for value in cast("list[object]", choices)]
        return Choices(values=tuple(_plain(option, value) for value in values))
    if not {"low", "high"} <= set(entry) <= {"low", "high", "log"}:
        message = (
            f"`{name}` has the keys {', '.join(map(str, entry)) or '(none)'}; "
            "expected `low`, `high` and perhaps `log`, or `choices`"
        )
        raise ConfigError(message)
    if option.kind not in {int, float} or option.repeated:
        message = f"`{name}` is not a number; give its values as `choices`"
        raise ConfigError(message)
    low, high, log = option.convert(entry["low"]), option.convert(entry["high"]), entry.get("log", False)
    if low is None or high is None or not low < high:
        message = f"`{name}`: `low` must be below `high`, not {entry['low']!r} and {entry['high']!r}"
        raise ConfigError(message)
    if not isinstance(log, bool):
        message = f"`{name}`: `log` must be true or false, not {log!r}"
        raise ConfigError(message)
    if log and low <= 0:
        message = f"`{name}`: `low` must be above 0 where `log` is true, not {low}"
        raise ConfigError(message)
    return Range(low=low, high=high, log=log, whole=option.kind is int)


def _plain(option: Option, value: Any) -> Any:
    """Convert lists to strings, as Optuna's storage requires."""
    return (option.separator or ",").join(cast("list[str]", value)) if isinstance(value, list) else value
