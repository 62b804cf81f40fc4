"""Images and texts in all the forms that callers have them in."""

import os
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from efficientai_toolkit._base.display import shorten
from efficientai_toolkit.exceptions import ConfigError

Images = Any
"""A path, PIL image or uint8 array ``[height, width, 3]``, or several: a list of these, a uint8 array
``[n, height, width, 3]``, or a float array ``[n, 3, height, width]`` of normalized pixels."""

Texts = str | Sequence[str] | NDArray[np.integer[Any]]
"""A text, several texts, or their token ids ``[n, length]``."""


def split_images(images: Images) -> NDArray[np.float32] | list[Any]:
    """Return normalized pixels ``[n, 3, height, width]``, or a list of paths and uint8 arrays.

    Raises
    ------
    ConfigError
        If ``images`` is none of what :data:`Images` describes.
    """
    if isinstance(images, (str, os.PathLike)) or _is_pil(images):
        return [_load(images)]
    if isinstance(images, np.ndarray):
        return _split_array(cast("NDArray[Any]", images))
    if not isinstance(images, Iterable):
        message = f"images are {shorten(images)}, expected paths, PIL images or arrays"
        raise ConfigError(message)
    return [_load(image) for image in cast("Sequence[Any]", images)]


def _split_array(images: NDArray[Any]) -> NDArray[np.float32] | list[Any]:
    match images.shape:
        case (_, _, _, _) if np.issubdtype(images.dtype, np.floating):
            return np.ascontiguousarray(images, np.float32)
        case (_, _, 3) if images.dtype == np.uint8:
            return [images]
        case (_, _, _, 3) if images.dtype == np.uint8:
            return list(images)
        case shape:
            message = (
                f"an array of images is {images.dtype} of shape {shape}, "
                "expected uint8 [n, height, width, 3] or normalized floats [n, 3, height, width]"
            )
            raise ConfigError(message)


def _is_pil(image: Any) -> bool:
    return hasattr(image, "convert") and hasattr(image, "getbands")


def _load(image: Any) -> Any:
    """Return an image as the engine takes it."""
    if _is_pil(image):
        return np.asarray(image.convert("RGB"))
    if isinstance(image, os.PathLike):
        return os.fspath(cast("os.PathLike[str]", image))
    if isinstance(image, (str, np.ndarray)):
        return cast("Any", image)
    message = (
        f"an image is {shorten(image)}, expected a path, a PIL image or a uint8 array [height, width, 3]"
    )
    raise ConfigError(message)


def split_texts(texts: Texts) -> list[str] | NDArray[np.int64]:
    """Return texts, or token ids ``[n, length]``.

    Raises
    ------
    ConfigError
        If ``texts`` is none of what :data:`Texts` describes.
    """
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, np.ndarray) and np.issubdtype(texts.dtype, np.integer):
        match texts.shape:
            case (_, _):
                return texts.astype(np.int64)
            case shape:
                message = f"token ids have shape {shape}, expected [n, length]"
                raise ConfigError(message)
    listed: list[object] = list(texts)
    wrong = next((text for text in listed if not isinstance(text, str)), None)
    if wrong is not None:
        message = f"a text is {shorten(wrong)}, expected a string; token ids are an integer array [n, length]"
        raise ConfigError(message)
    return cast("list[str]", listed)
