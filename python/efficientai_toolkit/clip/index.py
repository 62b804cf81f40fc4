"""An index of images on disk, for search by text or image."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efficientai_toolkit._base.files import replace_folder, write_json
from efficientai_toolkit.clip.model import ClipModel
from efficientai_toolkit.clip.nearest import search
from efficientai_toolkit.exceptions import ConfigError, DatasetError, TrainingError

FEATURES, DESCRIPTION = "features.npy", "index.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """An image found in an index."""

    image: str
    similarity: float


class ImageIndex:
    """Features of images, with the paths of the images.

    Parameters
    ----------
    features
        float32 ``[images, dim]``, of length 1.
    images
        Path of each image.
    """

    def __init__(self, features: NDArray[np.float32], images: Sequence[str]) -> None:
        if features.shape[:-1] != (len(images),):
            message = f"features have shape {features.shape} for {len(images)} images"
            raise ConfigError(message)
        self.features = features
        self.images = list(images)

    @classmethod
    def build(
        cls, model: ClipModel, images: Sequence[str | os.PathLike[str]], *, batch_size: int = 32
    ) -> "ImageIndex":
        """Compute the features of image files."""
        paths = [os.fspath(image) for image in images]
        return cls(model.encode_image(paths, normalize=True, batch_size=batch_size), paths)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "ImageIndex":
        """Read an index that :meth:`save` has written.

        Raises
        ------
        DatasetError
            If a file is missing or damaged.
        """
        path = Path(folder)
        try:
            description: dict[str, Any] = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
            # No pickle: the file may come from anywhere.
            features = np.load(path / FEATURES, allow_pickle=False)
            return cls(np.ascontiguousarray(features, np.float32), description["images"])
        except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
            message = f"{path} is no index of images, or is damaged: {error}"
            raise DatasetError(message) from error

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write ``features.npy`` and ``index.json``.

        Raises
        ------
        TrainingError
            If the folder exists, without ``overwrite``, or is no index.
        """
        path = Path(folder)
        if path.exists() and not overwrite:
            message = f"{path} exists already; choose another folder, or set overwrite"
            raise TrainingError(message)
        if path.exists() and not (path / DESCRIPTION).is_file():
            message = f"{path} is no index of images, and is not replaced; choose another folder"
            raise TrainingError(message)

        def fill(new: Path) -> None:
            np.save(new / FEATURES, self.features)
            write_json(new / DESCRIPTION, {"dim": self.features.shape[1], "images": self.images})

        replace_folder(path, fill)

    def search(self, queries: NDArray[np.float32], count: int = 10) -> list[list[Match]]:
        """Find the images that are most similar to each query.

        Parameters
        ----------
        queries
            Features, ``[n, dim]``, of length 1.
        count
            Images per query.
        """
        indices, similarities = search(queries, self.features, count)
        return [
            [
                Match(image=self.images[int(number)], similarity=float(similarity))
                for number, similarity in zip(row, scores, strict=True)
            ]
            for row, scores in zip(indices, similarities, strict=True)
        ]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)
