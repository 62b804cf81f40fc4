"""Requests to the administration of a running server."""

import os
from pathlib import Path
from typing import Any

from efficientai_toolkit.exceptions import DeploymentError

KEY_VARIABLE = "EAT_API_KEY"
"""Environment variable with the key of an administrator."""

URL = "http://127.0.0.1:8000"

_LOAD_SECS = 600.0
"""Time that loading a model may take."""


def deploy(
    name: str, path: str | os.PathLike[str], *, url: str = URL, api_key: str | None = None
) -> dict[str, Any]:
    """Serve another version of a model; running requests end with the one before.

    Parameters
    ----------
    name
        Name under which a model is served.
    path
        Folder of the new version, as the server sees it; one that exists here is made absolute.
    url
        Address of the server.
    api_key
        Key of an administrator (default: the environment variable ``EAT_API_KEY``).

    Returns
    -------
    dict
        ``name``, ``path``, ``model_type`` and ``num_parameters`` of what is served now.

    Raises
    ------
    DeploymentError
        If the server cannot be reached or refuses; it then serves what it did before.
    """
    folder = Path(path).expanduser()
    text = str(folder.resolve()) if folder.exists() else os.fspath(path)
    return _post(url, "/admin/deploy", {"name": name, "path": text}, api_key)


def rollback(name: str, *, url: str = URL, api_key: str | None = None) -> dict[str, Any]:
    """Serve the version before the last deployment again; else as :func:`deploy`."""
    return _post(url, "/admin/rollback", {"name": name}, api_key)


def _post(url: str, path: str, body: dict[str, Any], api_key: str | None) -> dict[str, Any]:
    import httpx2

    key = api_key or os.environ.get(KEY_VARIABLE)
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    try:
        response = httpx2.post(url.rstrip("/") + path, json=body, headers=headers, timeout=_LOAD_SECS)
        values: dict[str, Any] = response.json()
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        message = f"cannot reach the server at {url}: {error}"
        raise DeploymentError(message) from error
    if not response.is_success:
        reason = values.get("error", {}).get("message", response.status_code)
        message = f"{url}: {reason}"
        raise DeploymentError(message)
    return values
