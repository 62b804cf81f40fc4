"""JSON schemas of the settings of jobs."""

from typing import Any

from efficientai_toolkit._base.config import Option
from efficientai_toolkit.jobs.kinds import Kind

_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


def describe_settings(kind: Kind) -> dict[str, Any]:
    """Return the JSON schema of the settings of a kind.

    A setting that is a path has ``x-path``, which says what it names: see
    :class:`~efficientai_toolkit.jobs.kinds.PathSetting`.
    """
    properties = {name: _describe(option) for name, option in kind.list_settings().items()}
    for name, path in kind.paths.items():
        properties[name]["x-path"] = path.value
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _describe(option: Option) -> dict[str, Any]:
    item: dict[str, Any] = {"type": _TYPES[option.kind]} if option.kind in _TYPES else {}
    if option.choices:
        item["enum"] = list(option.choices)
    schema: dict[str, Any] = item
    if option.repeated:
        schema = {"type": "array", "items": item}
    elif option.keyed:
        schema = {"type": "object", "additionalProperties": item or True}
    if option.optional and "type" in schema:
        schema["type"] = [schema["type"], "null"]
        if option.choices and not option.repeated:
            schema["enum"] = [*schema["enum"], None]
    return {**schema, "default": option.default, "description": option.help}
