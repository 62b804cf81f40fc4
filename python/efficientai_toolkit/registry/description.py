"""What people write about a version."""

from collections.abc import Mapping
from typing import cast

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.registry.names import check_name
from efficientai_toolkit.registry.record import list_numbers

_MAX_TAGS = 100
_MAX_TEXT = 10_000


def check_text(text: object, what: str) -> str:
    """Return a text that is short enough.

    Raises
    ------
    ConfigError
        If it is too long, or none.
    """
    if isinstance(text, str) and len(text) <= _MAX_TEXT:
        try:
            text.encode()
        except UnicodeEncodeError:
            pass
        else:
            return text
    message = f"{what} must be text of up to {_MAX_TEXT:,} characters"
    raise ConfigError(message)


def check_tags(tags: Mapping[str, object]) -> dict[str, str]:
    """Return tags.

    Raises
    ------
    ConfigError
        If there are too many, or a name or value is none.
    """
    if len(tags) > _MAX_TAGS:
        message = f"`tags` has {len(tags)} tags, more than {_MAX_TAGS}"
        raise ConfigError(message)
    return {check_name(name, "a tag"): check_text(value, f"the tag {name}") for name, value in tags.items()}


def check_metrics(metrics: Mapping[str, object]) -> dict[str, float]:
    """Return metrics.

    Raises
    ------
    ConfigError
        If a name is none, or a value no finite number.
    """
    found = list_numbers(cast("Mapping[str, float]", metrics), "`metrics`")
    for name, value in metrics.items():
        check_name(name, "a metric")
        if name not in found:
            message = f"the metric {name} must be a finite number, not {value!r}"
            raise ConfigError(message)
    return found
