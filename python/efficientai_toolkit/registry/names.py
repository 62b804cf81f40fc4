"""Names of registered models, and references to their versions.

A reference is ``NAME``, ``NAME@ALIAS`` or ``NAME/NUMBER``; a colon would stand before an adapter in requests
to the server.
"""

import re
from dataclasses import dataclass

from efficientai_toolkit.exceptions import ConfigError

PRODUCTION = "production"
"""Alias of the version that a name alone stands for."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_SHOWN = 100


class UnknownVersionError(ConfigError):
    """There is no such model or version."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """What a text names."""

    name: str
    alias: str | None = None
    number: int | None = None


def check_name(name: object, what: str) -> str:
    """Return the name of a model, an alias or a tag.

    Parameters
    ----------
    name
        Name.
    what
        What it names, for the message.

    Raises
    ------
    ConfigError
        If it has other characters than letters, digits, ``.``, ``_`` and ``-``, or too many.
    """
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    message = (
        f"{str(name)[:_SHOWN]!r} is no name of {what}: it has up to 100 letters, digits, dots, hyphens and "
        "underscores, and begins with a letter or digit"
    )
    raise ConfigError(message)


def parse_reference(text: object) -> Reference:
    """Parse ``NAME``, ``NAME@ALIAS`` or ``NAME/NUMBER``.

    Raises
    ------
    UnknownVersionError
        If it is none of them.
    """
    given = text if isinstance(text, str) else ""
    name, at, alias = given.partition("@")
    if at and _NAME.fullmatch(name) and _NAME.fullmatch(alias):
        return Reference(name=name, alias=alias)
    name, slash, number = given.partition("/")
    if slash and _NAME.fullmatch(name) and _NUMBER.fullmatch(number):
        return Reference(name=name, number=int(number))
    if _NAME.fullmatch(given):
        return Reference(name=given)
    message = f"{str(text)[:_SHOWN]!r} names no version: write NAME, NAME@ALIAS or NAME/NUMBER"
    raise UnknownVersionError(message)
