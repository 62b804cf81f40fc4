"""Image–text pairs."""

import os
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTexts:
    """An image with its texts."""

    image: str
    texts: list[str]


def read_pairs(path: str | os.PathLike[str]) -> list[ImageTexts]:
    """Read image–text pairs as training does.

    Parameters
    ----------
    path
        A .jsonl, .json, .csv, .tsv or .parquet file with the columns ``image`` and ``text``, or a folder of
        images with ``metadata.jsonl``, with a ``.txt`` beside each image, or with a folder per class.

    Raises
    ------
    DatasetError
        If a row has no image or no text; file and position are named.
    """
    from efficientai_toolkit._engine.core import core

    return [
        ImageTexts(image=str(image), texts=texts) for image, texts in core.clip.read_pairs(os.fspath(path))
    ]
