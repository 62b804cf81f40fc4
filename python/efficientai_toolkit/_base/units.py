"""Sizes and durations as text."""

import re

from efficientai_toolkit.exceptions import ConfigError

_MB = 10**6
_GB = 10**9


def format_size(size: float) -> str:
    """Format bytes in MB, or in GB from 10⁹."""
    if size >= _GB:
        return f"{size / _GB:.2f} GB"
    return f"{size / _MB:.0f} MB" if size >= 10 * _MB else f"{size / _MB:.1f} MB"


def format_duration(secs: float) -> str:
    """Format seconds as ``m:ss`` or ``h:mm:ss``."""
    minutes, seconds = divmod(round(secs), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


_UNITS = {"": 1, "k": 10**3, "m": _MB, "g": _GB, "t": 10**12, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


def parse_size(name: str, text: str) -> int:
    """Parse a size such as ``4GB``, ``500 MB`` or ``4GiB`` as bytes.

    Parameters
    ----------
    name
        Setting that has the text, named in the error.
    text
        A positive number with an optional unit.

    Raises
    ------
    ConfigError
        If it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?|[kmg]i)b?", text.strip().lower())
    size = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if size < 1:
        message = f"`{name}` must be a size such as 4GB or 500MB, not {text!r}"
        raise ConfigError(message)
    return size


def parse_percent(name: str, text: str) -> float:
    """Parse a share in percent, such as ``1%`` or ``1``, as a fraction; ``name`` as in :func:`parse_size`.

    Raises
    ------
    ConfigError
        If it is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%?", text.strip())
    if found is None:
        message = f"`{name}` must be a share in percent, such as 1%, not {text!r}"
        raise ConfigError(message)
    return float(found[1]) / 100
