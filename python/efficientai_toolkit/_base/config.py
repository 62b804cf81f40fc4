"""Base class of all configurations: frozen dataclasses that are read from files and define options.

Default values and valid ranges are owned by the engine, which :meth:`Config.check` asks. This module only
validates types, so that an error can name the file and the key.
"""

import json
import math
import os
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, Union, cast, get_args, get_origin, get_type_hints

from efficientai_toolkit._base.aliases import suggest_key, suggest_value
from efficientai_toolkit._base.display import Displayed, shorten
from efficientai_toolkit._base.parsing import parse_file
from efficientai_toolkit.exceptions import ConfigError

_INTEGERS = range(-(2**63), 2**64)
"""Whole numbers that the engine can take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """A configuration field, as seen by files and the command line."""

    name: str
    kind: type
    """``str``, ``int``, ``float``, ``bool``, or ``object`` for any JSON; the type of the items if
    ``repeated`` or ``keyed``."""
    choices: tuple[str, ...]
    optional: bool
    repeated: bool
    keyed: bool
    """Whether the value is a mapping, as in ``q_proj=4,v_proj=8``."""
    flag: str
    """Name on the command line, such as ``--lora-rank``."""
    default: Any
    help: str
    separator: str | None
    """Separates items within one string, if ``repeated`` or ``keyed``."""

    def convert(self, value: object) -> Any:
        """Convert ``value`` to the type of this option.

        Raises
        ------
        ConfigError
            If the value has the wrong type or is not one of ``choices``.
        """
        if value is None and self.optional:
            return None
        if self.keyed:
            return self._mapping(value)
        if not self.repeated:
            return self._scalar(value)
        if isinstance(value, str) and self.separator is not None:
            parts = [item.strip() for item in value.split(self.separator)]
            value = [_number(part) for part in parts] if self.kind is int else parts
        if not isinstance(value, list | tuple):
            message = f"`{self.name}` must be a list, not {shorten(value)}"
            raise ConfigError(message)
        return [self._scalar(item) for item in cast("Sequence[object]", value)]

    def _mapping(self, value: object) -> dict[str, Any]:
        if isinstance(value, str) and self.separator is None and "=" in value:
            key, _, content = value.partition("=")
            value = {key.strip(): _json(content)}
        elif isinstance(value, str) and self.separator is not None:
            # Names may hold an equals sign, numbers do not.
            items = [item.rpartition("=") for item in value.split(self.separator)]
            value = {name.strip(): _number(text) for name, _, text in items}
        if not isinstance(value, Mapping):
            message = f"`{self.name}` must be pairs of a name and a value, not {shorten(value)}"
            raise ConfigError(message)
        pairs = cast("Mapping[object, object]", value)
        for name in pairs:
            if not isinstance(name, str) or not name:
                message = f"`{self.name}` must have names before its values, not {name!r}"
                raise ConfigError(message)
        return {str(name): self._scalar(item) for name, item in pairs.items()}

    def _scalar(self, value: object) -> Any:
        if getattr(value, "shape", None) == () and hasattr(value, "item"):
            # A scalar of numpy or of another array library.
            value = cast("Any", value).item()
        if self.kind is object:
            return self._any_json(value)
        if self.kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
            # YAML 1.1 reads `1e-5` as text.
            try:
                number = float(value)
            except (ValueError, OverflowError):
                number = math.nan
            if math.isfinite(number):
                return number
        if self.kind is str and isinstance(value, os.PathLike):
            value = os.fspath(cast("os.PathLike[str]", value))
        if (
            type(value) is self.kind
            and self.kind is not float
            and (self.kind is not int or value in _INTEGERS)
        ):
            if self.choices and value not in self.choices:
                expected = f"one of {', '.join(self.choices)}"
                hint = suggest_value(self.flag, value)
                message = f"`{self.name}` must be {expected}, not {shorten(value)}{hint}"
                raise ConfigError(message)
            return value
        nouns = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
        message = f"`{self.name}` must be {nouns[self.kind]}, not {shorten(value)}"
        raise ConfigError(message)

    def _any_json(self, value: object) -> object:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            message = f"`{self.name}` must have values that JSON can express, not {shorten(value)}"
            raise ConfigError(message) from error
        return value


def _json(text: str) -> object:
    """Parse JSON; other text is a string."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _number(text: str) -> object:
    """Parse an integer; return other text unchanged, so that the conversion reports it."""
    try:
        return int(text)
    except ValueError:
        return text


def setting(
    default: Any,
    help: str,  # noqa: A002
    *,
    separator: str | None = None,
    flag: str | None = None,
) -> Any:
    """Define a field of a :class:`Config` with the help text of its command-line option.

    The option has the name of the field, unless ``flag`` is given.
    """
    extra = {"help": help, "separator": separator, "flag": flag}
    if isinstance(default, list | dict):
        return field(default_factory=cast("Callable[[], Any]", default.copy), metadata=extra)
    return field(default=default, metadata=extra)


def list_options(config: type["Config"]) -> tuple[Option, ...]:
    """Return the options of a configuration class in field order."""
    hints = get_type_hints(config)
    return tuple(_option(f.name, hints[f.name], f) for f in fields(config))


def _option(name: str, hint: Any, f: Any) -> Option:
    optional = False
    if get_origin(hint) in {types.UnionType, Union}:
        hint = next(arm for arm in get_args(hint) if arm is not types.NoneType)
        optional = True
    repeated = get_origin(hint) is list
    if repeated:
        (hint,) = get_args(hint)
    keyed = get_origin(hint) is dict
    if keyed:
        _, hint = get_args(hint)
    choices = tuple(get_args(hint)) if get_origin(hint) is Literal else ()
    return Option(
        name=name,
        kind=str if choices else object if hint is Any else hint,
        choices=choices,
        optional=optional,
        repeated=repeated,
        keyed=keyed,
        default=f.default if f.default_factory is MISSING else f.default_factory(),
        help=f.metadata["help"],
        separator=f.metadata["separator"],
        flag=f.metadata["flag"] or "--" + name.replace("_", "-"),
    )


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Config(Displayed):
    """Base class of configurations.

    Subclasses declare their fields with :func:`setting`, and ``repr=False``.
    """

    def __init_subclass__(cls) -> None:
        """Add the fields to the docstring of a subclass."""
        # ``slots=True`` creates the class a second time, with its fields.
        if "__dataclass_fields__" in vars(cls):
            cls.__doc__ = f"{cls.__doc__ or cls.__name__}\n\n{describe_fields(cls)}"

    def __new__(cls, *_args: Any, **values: Any) -> Self:
        """Refuse unknown fields with a suggestion, which a ``TypeError`` would lack."""
        check_keys(cls, values)
        return object.__new__(cls)

    def __post_init__(self) -> None:
        """Convert every value to its declared type, so that ``lr=1`` equals ``lr=1.0``, and check it."""
        for option in list_options(type(self)):
            object.__setattr__(self, option.name, option.convert(getattr(self, option.name)))
        self.check()

    def check(self) -> None:
        """Validate the values, which have the right types.

        Raises
        ------
        ConfigError
            If a value is out of range, or contradicts another one.
        """

    def _displayed(self) -> Iterable[tuple[str, object]]:
        """Return the values that differ from the defaults."""
        values = [(option, getattr(self, option.name)) for option in list_options(type(self))]
        return [(option.name, value) for option, value in values if value != option.default]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dictionary of plain values."""
        return asdict(self)

    def to_json(self) -> str:
        """Return the configuration as JSON for the engine."""
        return json.dumps(asdict(self), allow_nan=False)

    def with_values(self, values: Mapping[str, object], *, source: str | None = None) -> Self:
        """Return a copy with ``values`` replaced.

        Parameters
        ----------
        values
            New values by field name.
        source
            File the values come from, used in error messages.

        Raises
        ------
        ConfigError
            If a key is unknown (the message suggests the closest one) or a value has the wrong type.
        """
        where = f"{source}: " if source else ""
        try:
            check_keys(type(self), values)
            return type(self)(**{**asdict(self), **values})
        except ConfigError as error:
            message = f"{where}{error}"
            raise ConfigError(message) from None

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Read a ``.yaml``, ``.yml``, ``.json`` or ``.toml`` file of ``key: value`` pairs.

        Missing keys keep their default values.

        Raises
        ------
        ConfigError
            If the file cannot be read, a key is unknown or a value has the wrong type.
        """
        return cls().with_values(read_pairs(Path(path)), source=str(path))


def check_keys(config: type[Config], values: Iterable[object]) -> None:
    """Check that all keys are fields of a configuration.

    Raises
    ------
    ConfigError
        If one is not; the message suggests the field that is meant.
    """
    known = {f.name for f in fields(config)}
    for key in values:
        if key not in known:
            options = {option.flag: option.name for option in list_options(config)}
            message = f"unknown key `{key}`{suggest_key(str(key), options)}"
            raise ConfigError(message)


def describe_fields(config: type[Config]) -> str:
    """Return the fields of a configuration with their types, defaults and help texts, for its docstring."""
    lines = ["Parameters", "----------"]
    for option, declared in zip(list_options(config), fields(config), strict=True):
        kind = declared.type.__name__ if isinstance(declared.type, type) else str(declared.type)
        lines.append(f"{option.name} : {kind.replace('typing.', '')}, default {option.default!r}")
        lines.append(f"    {option.help[:1].upper()}{option.help[1:]}.")
    return "\n".join(lines)


def read_pairs(path: Path) -> dict[str, object]:
    """Read a ``.yaml``, ``.yml``, ``.json`` or ``.toml`` file of ``key: value`` pairs.

    Raises
    ------
    ConfigError
        If the file cannot be read or has other content.
    """
    values = parse_file(path)
    if not isinstance(values, dict):
        message = f"{path}: expected `key: value` pairs, found {type(values).__name__}"
        raise ConfigError(message)
    return cast("dict[str, object]", values)
