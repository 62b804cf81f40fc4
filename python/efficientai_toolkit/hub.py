"""Local folders and models on the Hugging Face hub.

Existing folders take precedence. Otherwise ``org/name`` or ``org/name@revision`` is looked up in the
Hugging Face cache and downloaded if necessary. ``HF_ENDPOINT``, ``HF_HOME``, ``HF_HUB_CACHE``,
``HF_HUB_OFFLINE`` and ``HF_TOKEN`` are respected.
"""

import os
import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from efficientai_toolkit.exceptions import ModelLoadingError

OnProgress = Callable[[int, int], object]
"""Told the bytes so far, and those known to be needed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """Glob patterns of the files to download for a kind of model.

    Pickled weights (``.bin``, ``.pt``) can execute code and are never read.
    """

    allowed: tuple[str, ...]
    ignored: tuple[str, ...] = ()


LANGUAGE_MODEL = Kind(
    allowed=(
        "config.json",
        "generation_config.json",
        "*.safetensors",
        "*.safetensors.index.json",
        "adapter_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.json",
        "*.jinja",
    ),
    # Sub-folders and the second copy of the weights that some repositories carry.
    ignored=("*/*", "consolidated*.safetensors"),
)
"""Language models and adapters, which are flat folders."""

IMAGE_TEXT_MODEL = Kind(
    allowed=(
        *LANGUAGE_MODEL.allowed,
        "open_clip_config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "vocab.json",
        "merges.txt",
    ),
    ignored=("*/*",),
)
"""Models of images and texts, in the formats of Hugging Face and open_clip."""

_HUB_ID = re.compile(r"(?P<id>[\w][\w.-]*/[\w][\w.-]*)(@(?P<revision>[\w][\w./-]*))?")


def is_hub_id(text: str) -> bool:
    """Return whether a text has the form ``org/name`` or ``org/name@revision``."""
    return _HUB_ID.fullmatch(text) is not None


def resolve(
    path_or_id: str | os.PathLike[str],
    *,
    kind: Kind = LANGUAGE_MODEL,
    show_progress: bool = True,
    on_progress: OnProgress | None = None,
) -> Path:
    """Return the folder or GGUF file of a model or adapter, downloading it if necessary.

    An interrupted download is resumed by the next call.

    Parameters
    ----------
    path_or_id
        An existing folder or GGUF file, or ``org/name``, or ``org/name@revision`` (branch, tag, commit).
    kind
        Kind of model, which determines the files to download.
    show_progress
        Show a progress bar if standard error is a terminal.
    on_progress
        Called during a download with the bytes so far and those known to be needed.

    Returns
    -------
    Path
        The folder or file, or the snapshot in the cache for a hub id.

    Raises
    ------
    ModelLoadingError
        If there is no such folder and the download fails.
    """
    text = os.fspath(path_or_id)
    folder = Path(text).expanduser()
    if text and folder.is_dir():
        return folder
    if text and folder.exists():
        if folder.suffix.lower() == ".gguf":
            return folder
        message = f"{text} is a file; expected the folder that contains it, or a GGUF file"
        raise ModelLoadingError(message)
    match = _HUB_ID.fullmatch(text)
    if match is None:
        message = (
            f"there is no folder {text!r}, and it is not a hub id of the form org/name or org/name@revision"
        )
        raise ModelLoadingError(message)
    folder = _download(
        match["id"], match["revision"], text, kind, show_progress=show_progress, on_progress=on_progress
    )
    if not any(folder.rglob("*.safetensors")):
        message = f"{text} has no .safetensors file on the hub; pickled weights (.bin, .pt) are not read"
        raise ModelLoadingError(message)
    return folder


def find_cached(text: str) -> Path | None:
    """Return the folder of a hub id in the Hugging Face cache, without a request; ``None`` if it has none."""
    match = _HUB_ID.fullmatch(text)
    if match is None:
        return None
    from huggingface_hub import (
        snapshot_download,  # pyright: ignore[reportUnknownVariableType]
    )

    try:
        return Path(snapshot_download(match["id"], revision=match["revision"], local_files_only=True))
    except (OSError, ValueError):
        return None


def _download(
    repository: str,
    revision: str | None,
    text: str,
    kind: Kind,
    *,
    show_progress: bool,
    on_progress: OnProgress | None,
) -> Path:
    # Read once, when huggingface_hub is imported first.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from httpx2 import HTTPError
    from huggingface_hub import (
        constants,
        snapshot_download,  # pyright: ignore[reportUnknownVariableType]
    )
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils.tqdm import disable_progress_bars

    with (
        nullcontext()
        if show_progress and sys.stderr is not None and sys.stderr.isatty()
        else disable_progress_bars()
    ):
        try:
            snapshot = snapshot_download(
                repository,
                revision=revision,
                allow_patterns=list(kind.allowed),
                ignore_patterns=list(kind.ignored),
                library_name="efficientai-toolkit",
                tqdm_class=None if on_progress is None else _report_to(on_progress),
            )
        except HFValidationError as error:
            message = f"{text} is not a valid hub id: {error}"
            raise ModelLoadingError(message) from error
        # ValueError: a file name or header that would leave the cache. The last three: an answer without
        # the expected keys or types.
        except (HTTPError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            message = _explain(error, text, constants.ENDPOINT, offline=constants.is_offline_mode)
            raise ModelLoadingError(message) from error
    return Path(snapshot)


def _report_to(on_progress: OnProgress) -> Any:
    """Return a progress bar that is not drawn, but reports the bytes of a download."""
    bar: Any = import_module("tqdm").tqdm

    class Reporter(bar):  # type: ignore[misc]
        """The bar of all bytes, or that of the files."""

        def __init__(self, *args: Any, **options: Any) -> None:
            self._counts_bytes = options.get("unit") == "B"
            self._done = 0
            options.pop("name", None)
            super().__init__(*args, **{**options, "disable": True})  # pyright: ignore[reportUnknownMemberType]
            self.total: Any = options.get("total") or 0

        def update(self, n: float | None = 1) -> bool | None:
            self._done += int(n or 0)
            if self._counts_bytes:
                on_progress(self._done, max(int(self.total or 0), self._done))
            return None

    return Reporter


def _explain(  # noqa: PLR0911
    error: Exception, text: str, endpoint: str, *, offline: Callable[[], bool]
) -> str:
    """Describe an error of huggingface_hub or the network in one line."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(
        error.__cause__, errors.HfHubHTTPError
    ):
        # The hub answered; that nothing is cached either only hides how.
        error = error.__cause__
    reason = " ".join(str(error).split())
    login = "ask for access on its page, then set HF_TOKEN or run `hf auth login`"
    match error:
        case errors.GatedRepoError():
            return f"{text} on {endpoint} is gated: {login}"
        case errors.RevisionNotFoundError():
            return f"{text} on {endpoint} has no such revision (404)"
        case errors.RepositoryNotFoundError() if error.response.status_code == 404:  # noqa: PLR2004
            return f"{text} is neither a folder here nor a repository on {endpoint} (404)"
        case errors.RepositoryNotFoundError():
            # The hub answers 401 for a private repository and for one that does not exist.
            return f"{text} does not exist on {endpoint}, or is private (401): check the name, else {login}"
        case errors.HfHubHTTPError() if error.response.status_code in {401, 403}:
            return f"{endpoint} refuses {text} ({error.response.status_code}): {login}"
        case errors.HfHubHTTPError() if error.response.is_server_error:
            status = error.response.status_code
            return f"{endpoint} is unavailable ({status}) and {text} is not cached; try later"
        case errors.LocalEntryNotFoundError() if offline():
            return (
                f"{text} is neither a folder here nor complete in the Hugging Face cache, and "
                "HF_HUB_OFFLINE forbids a download: unset it, or name a folder"
            )
        case errors.LocalEntryNotFoundError():
            cause = " ".join(str(error.__cause__ or error).split())
            return f"cannot reach {endpoint} for {text}, which is not in the Hugging Face cache: {cause}"
        case _:
            return f"the download of {text} from {endpoint} failed ({reason}); run again to fetch the rest"
