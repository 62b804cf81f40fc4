"""API keys: random, shown once, kept as hashes.

A file has a line per key, ``NAME sha256:HEX`` with ``admin`` at the end where it may deploy. A key has 256
random bits, so that a plain hash is as good as a slow one.
"""

import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from efficientai_toolkit.exceptions import ConfigError

_LINE = re.compile(r"(?P<name>\S+)\s+sha256:(?P<digest>[0-9a-f]{64})(?P<admin>\s+admin)?")
_PREFIX = "eat-"
_BYTES = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """A key by its hash."""

    name: str
    digest: str
    is_admin: bool


def read_keys(path: Path) -> list[Key]:
    """Read a file of keys.

    Raises
    ------
    ConfigError
        If it cannot be read, has a line of another form, or no key.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        message = f"cannot read the API keys in {path}: {error}"
        raise ConfigError(message) from error
    keys: list[Key] = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None:
            message = f"{path}, line {number} is not NAME sha256:HEX [admin], as serve:key writes it"
            raise ConfigError(message)
        keys.append(Key(name=found["name"], digest=found["digest"], is_admin=found["admin"] is not None))
    if not keys:
        message = f"{path} has no API key; make one with serve:key"
        raise ConfigError(message)
    return keys


def find_key(keys: list[Key], presented: str) -> Key | None:
    """Return the key that was presented; the time does not tell how close another one was."""
    digest = _hash(presented)
    found = None
    for key in keys:
        if hmac.compare_digest(digest, key.digest):
            found = key
    return found


def create_key(path: Path, name: str, *, is_admin: bool) -> str:
    """Add a key to a file, which only its owner can read, and return it: it is stored nowhere else.

    Raises
    ------
    ConfigError
        If the name has spaces or is taken, or the file has other content.
    """
    if not name or not name.isprintable() or any(char.isspace() for char in name) or name.startswith("#"):
        message = f"the name of a key cannot be {name!r}: it has no spaces"
        raise ConfigError(message)
    if (
        path.exists()
        and path.read_text(encoding="utf-8").strip()
        and name in {key.name for key in read_keys(path)}
    ):
        message = f"{path} has a key named {name} already"
        raise ConfigError(message)
    text = _PREFIX + secrets.token_urlsafe(_BYTES)
    line = f"{name} sha256:{_hash(text)}{' admin' if is_admin else ''}\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "a", encoding="utf-8") as file:
        file.write(line)
    return text


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
