"""Settings of jobs: checked by the configurations of their kind, with paths that stay in the workspace."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from efficientai_toolkit._base.aliases import suggest_key
from efficientai_toolkit._base.assets import MODEL
from efficientai_toolkit._base.config import list_options, read_pairs
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.hub import is_hub_id
from efficientai_toolkit.jobs.kinds import KINDS, Kind, PathSetting
from efficientai_toolkit.study.folder import FOLDER_SETTINGS
from efficientai_toolkit.workspace.folder import Workspace

EMBEDDED = "embedded"
"""Name of the bundled model."""

FindModel = Callable[[str], Path | None]
"""Returns the folder of a model with a name, such as a served one; ``None`` if there is none."""

_MAX_BYTES = 64 << 10
"""Largest settings of a job, as JSON."""

_ALL_PATHS = frozenset(name for kind in KINDS.values() for name in kind.paths) | FOLDER_SETTINGS
"""Settings of any kind that are paths."""

_SETTINGS_FILES = frozenset({".yaml", ".yml", ".json", ".toml"})

_SEPARATORS = ",="
"""Characters that separate the parts of ``data`` and their weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PathRules:
    """What paths in settings may name."""

    workspace: Workspace
    find_model: FindModel
    allow_downloads: bool

    def resolve(self, name: str, kind: PathSetting, value: Any) -> Any:
        """Return a path, or a list of them, as the engine reads it.

        Parameters
        ----------
        name
            Setting.
        kind
            What it names.
        value
            Its value, which has the right type: paths are relative to the workspace, or absolute.

        Raises
        ------
        ConfigError
            If a path is not in the workspace, or does not exist.
        """
        if isinstance(value, list):
            return [self.resolve(name, kind, item) for item in cast("list[object]", value)]
        match kind:
            case PathSetting.MODEL:
                path: object = self._model(name, value)
            case PathSetting.FILE:
                path = self._existing(name, value)
            case PathSetting.MIXED_DATA:
                path = self._mixed_data(name, value)
            case PathSetting.QUESTIONS:
                path = self._questions(name, value)
            case PathSetting.SETTINGS_FILE:
                path = self._existing(name, value)
                _refuse_paths(name, read_pairs(path))
            case PathSetting.SETTINGS:
                _refuse_paths(name, value)
                return value
        return str(path)

    def _existing(self, name: str, value: str) -> Path:
        try:
            path = self.workspace.resolve(value)
            exists = path.exists()
            inner = list(path.iterdir()) if path.is_dir() else []
            links = [entry.name for entry in inner if entry.is_symlink() and not self._holds(entry)]
        except ConfigError as error:
            message = f"`{name}`: {error}"
            raise ConfigError(message) from None
        except OSError as error:
            message = f"`{name}`: {value[:200]!r} cannot be read: {error.strerror}"
            raise ConfigError(message) from error
        if path == self.workspace.path:
            message = f"`{name}`: {value[:200]!r} is the workspace itself; name a file or folder in it"
            raise ConfigError(message)
        if not exists:
            message = f"`{name}`: there is no folder or file {value[:200]!r} in the workspace"
            raise ConfigError(message)
        if any(char in str(path) for char in _SEPARATORS):
            message = f"`{name}`: {value[:200]!r} has a comma or an equals sign, which separate data files"
            raise ConfigError(message)
        if links:
            message = f"`{name}`: {links[0]!r} in {value[:200]!r} is a link that leaves the workspace"
            raise ConfigError(message)
        return path

    def _holds(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.workspace.path)

    def _model(self, name: str, value: str) -> str:
        if value == EMBEDDED:
            return str(MODEL)
        if (known := self.find_model(value)) is not None:
            return str(known)
        try:
            path = self._existing(name, value)
        except ConfigError as error:
            if not is_hub_id(value):
                raise
            if self.allow_downloads:
                return value
            message = f"{error}; models of the hub are not downloaded here unless --allow-downloads is given"
            raise ConfigError(message) from None
        if not path.is_dir():
            message = f"`{name}`: {value[:200]!r} is a file; name the folder of the model"
            raise ConfigError(message)
        return str(path)

    def _mixed_data(self, name: str, value: str) -> str:
        parts: list[str] = []
        for part in value.split(","):
            path, equals, weight = part.strip().partition("=")
            parts.append(f"{self._existing(name, path.strip())}{equals}{weight}")
        return ",".join(parts)

    def _questions(self, name: str, value: str) -> Path:
        path = self._existing(name, value)
        if path.suffix.lower() in _SETTINGS_FILES:
            message = f"`{name}`: {value[:200]!r} has settings; a job takes files of rows only"
            raise ConfigError(message)
        return path


def _refuse_paths(name: str, settings: object) -> None:
    """Check that settings within a setting name no path, which would not be checked."""
    if not isinstance(settings, Mapping):
        return
    for key, value in cast("Mapping[object, object]", settings).items():
        if key in _ALL_PATHS:
            message = f"`{name}` has `{key}`, which is set for the whole job only"
            raise ConfigError(message)
        _refuse_paths(name, value)


def check_settings(kind: Kind, settings: Mapping[str, Any], rules: PathRules) -> dict[str, Any]:
    """Check the settings of a new job, and return them as JSON values.

    Raises
    ------
    ConfigError
        If a setting is unknown, has a wrong value, or names a path outside the workspace; the message names
        it.
    """
    try:
        text = json.dumps(settings, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        message = f"`settings` must be values that JSON can express: {error}"
        raise ConfigError(message) from error
    if len(text) > _MAX_BYTES:
        message = f"`settings` have {len(text):,} bytes, more than the {_MAX_BYTES:,} of a job"
        raise ConfigError(message)
    known = kind.list_settings()
    for name in settings:
        if name in FOLDER_SETTINGS:
            message = f"`{name}` is not set: a job has a folder of its own, and is resumed as a whole"
            raise ConfigError(message)
        if name not in known:
            options = {option.flag: option.name for option in known.values()}
            message = f"unknown key `{name[:100]}`{suggest_key(name[:100], options)}"
            raise ConfigError(message)
    values: dict[str, Any] = json.loads(text)
    build_configs(kind, values, rules)
    return values


def build_configs(
    kind: Kind, settings: Mapping[str, Any], rules: PathRules, **folder: Any
) -> list[dict[str, Any]]:
    """Return the values of each configuration of a job, with absolute paths.

    Parameters
    ----------
    kind
        Kind of the job.
    settings
        Its settings.
    rules
        What its paths may name.
    **folder
        Values of ``output``, ``resume`` and ``overwrite``.

    Raises
    ------
    ConfigError
        As :func:`check_settings`.
    """
    built: list[dict[str, Any]] = []
    for config in kind.load_configs():
        options = {option.name: option for option in list_options(config)}
        given = {name: value for name, value in {**settings, **folder}.items() if name in options}
        # Before anything else looks at a path.
        given |= {
            name: rules.resolve(name, kind.paths[name], options[name].convert(value))
            for name, value in given.items()
            if name in kind.paths and value is not None
        }
        config(**given)
        built.append(given)
    return built
