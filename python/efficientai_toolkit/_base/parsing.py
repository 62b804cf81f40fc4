"""Reading of small YAML, JSON and TOML files that may be damaged or hostile."""

import json
import re
from pathlib import Path
from typing import Any, cast

from efficientai_toolkit.exceptions import ConfigError

_MAX_BYTES = 1 << 20
"""Largest file that is read."""

_MAX_NODES = 1 << 20
"""Most values of a YAML file, those that aliases repeat counted each time; without aliases it has fewer."""

_LONG_KEY = re.compile(r"""(?<![\w"'-])(?:[\w"'-]+[ \t]*\.[ \t]*){64}""")
"""A TOML key of more tables than anybody needs; ``tomllib`` takes the square of their number."""


def parse_file(path: Path) -> object:
    """Parse a ``.yaml``, ``.yml``, ``.json`` or ``.toml`` file; an empty YAML file is an empty mapping.

    Raises
    ------
    ConfigError
        If the file cannot be read, is too large or nested too deeply, or is not valid.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        message = f"cannot read the configuration {path}: {getattr(error, 'strerror', None) or error}"
        raise ConfigError(message) from error
    if len(content) > _MAX_BYTES:
        message = f"{path}: larger than {_MAX_BYTES >> 20} MiB, the limit for a configuration"
        raise ConfigError(message)
    try:
        return parse_text(content.decode("utf-8"), path.suffix.lower())
    except UnicodeDecodeError as error:
        message = f"{path}: not UTF-8 text (byte {error.start})"
        raise ConfigError(message) from error
    except RecursionError as error:
        message = f"{path}: nested too deeply"
        raise ConfigError(message) from error
    except ValueError as error:
        reason = " ".join(str(error).split())
        message = f"{path}: {reason}"
        raise ConfigError(message) from error


def parse_text(text: str, suffix: str) -> object:
    """Parse text according to a file suffix; errors of all parsers become ``ValueError``."""
    if suffix == ".json":
        return json.loads(text)
    if suffix == ".toml":
        import tomllib

        if match := _LONG_KEY.search(text):
            message = f"a key has too many parts: {match[0][:40]}…"
            raise ValueError(message)
        return tomllib.loads(text)
    if suffix in {".yaml", ".yml"}:
        return _parse_yaml(text)
    message = f"a configuration is a .yaml, .json or .toml file, not {suffix or 'a name without ending'}"
    raise ValueError(message)


def _parse_yaml(text: str) -> object:
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None and _count_nodes(root, {}) > _MAX_NODES:
            message = f"aliases repeat more than {_MAX_NODES:,} values"
            raise ValueError(message)
        # An empty file is a file that changes nothing.
        return yaml.safe_load(text) or {}
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(error) from error
    except (LookupError, AttributeError, TypeError, ArithmeticError) as error:
        # Raised where a tag such as !!bool does not fit its value.
        message = f"a value does not fit its tag ({type(error).__name__}: {error})"
        raise ValueError(message) from error


def _count_nodes(node: Any, known: dict[int, int | None]) -> int:
    """Count the values of a YAML node with its aliases written out; ``known`` holds those of nodes seen."""
    if id(node) not in known:
        # Until its end is known: a node that contains itself.
        known[id(node)] = None
        children: list[Any] = [] if isinstance(node.value, str) else node.value
        flat: list[Any] = []
        for child in children:
            # Pairs of a mapping.
            flat.extend(cast("tuple[Any, Any]", child) if isinstance(child, tuple) else (child,))
        known[id(node)] = 1 + sum(_count_nodes(part, known) for part in flat)
    count = known[id(node)]
    if count is None:
        message = "an alias refers to a value that contains it"
        raise ValueError(message)
    return count
