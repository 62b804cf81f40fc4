"""Evaluation of image–text models."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efficientai_toolkit._base.display import Displayed
from efficientai_toolkit.clip.inputs import Images
from efficientai_toolkit.clip.model import ClipModel
from efficientai_toolkit.clip.zero_shot import DEFAULT_TEMPLATES, classify
from efficientai_toolkit.exceptions import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class ZeroShotResult(Displayed):
    """Accuracy of zero-shot classification."""

    accuracy: float
    """Share of images whose label is the most probable one."""
    top5_accuracy: float
    """Share of images whose label is among the five most probable ones."""
    class_accuracy: dict[str, float]
    """Accuracy of the images of each label that has any."""
    images: int


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class RetrievalResult(Displayed):
    """Recall of retrieval in both directions."""

    image_to_text: dict[int, float]
    """Share of images with one of their texts among the k most similar, by k."""
    text_to_image: dict[int, float]
    """Share of texts whose image is among the k most similar, by k."""
    image_to_text_median_rank: float
    text_to_image_median_rank: float


def evaluate_zero_shot(
    model: ClipModel,
    images: Images,
    targets: Sequence[int],
    labels: Sequence[str],
    *,
    templates: Sequence[str] = DEFAULT_TEMPLATES,
    batch_size: int = 32,
) -> ZeroShotResult:
    """Measure zero-shot classification.

    Parameters
    ----------
    model, images, labels, templates, batch_size
        As for :func:`~efficientai_toolkit.clip.classify`.
    targets
        The number of the label of each image.

    Raises
    ------
    ConfigError
        If there are other numbers of images and targets, or a target without label.
    """
    expected = np.asarray(targets)
    probabilities = classify(model, images, labels, templates=templates, batch_size=batch_size)
    if expected.shape != probabilities.shape[:1] or expected.size == 0:
        message = f"there are {expected.size} targets for {len(probabilities)} images"
        raise ConfigError(message)
    if expected.min() < 0 or expected.max() >= len(labels):
        message = f"targets are {expected.min()} to {expected.max()}, expected 0 to {len(labels) - 1}"
        raise ConfigError(message)
    order = np.argsort(-probabilities, axis=1, kind="stable")
    is_right = order[:, 0] == expected
    of_class = {
        label: float(is_right[expected == i].mean())
        for i, label in enumerate(labels)
        if (expected == i).any()
    }
    return ZeroShotResult(
        accuracy=float(is_right.mean()),
        top5_accuracy=float((order[:, :5] == expected[:, None]).any(axis=1).mean()),
        class_accuracy=of_class,
        images=len(expected),
    )


def evaluate_retrieval(
    image_features: NDArray[np.float32],
    text_features: NDArray[np.float32],
    owners: Sequence[int] | None = None,
    *,
    k: Sequence[int] = (1, 5, 10),
) -> RetrievalResult:
    """Measure how often images find their texts, and texts their images.

    Of equal similarities a match counts as the last: features that are all the same find nothing.

    Parameters
    ----------
    image_features, text_features
        float32 ``[n, dim]``, of length 1.
    owners
        The number of the image that each text belongs to; by default text and image of the same number are a
        pair.
    k
        Numbers of most similar rows.

    Raises
    ------
    ConfigError
        If features have different sizes, a text belongs to no image, or an image has no text.
    """
    from efficientai_toolkit._engine.core import core

    numbers = range(len(text_features)) if owners is None else owners
    report: dict[str, Any] = json.loads(
        core.clip.recall(image_features, text_features, [int(number) for number in numbers], list(k))
    )
    return RetrievalResult(
        image_to_text=dict(zip(report["k"], report["image_to_text"], strict=True)),
        text_to_image=dict(zip(report["k"], report["text_to_image"], strict=True)),
        image_to_text_median_rank=report["image_to_text_median_rank"],
        text_to_image_median_rank=report["text_to_image_median_rank"],
    )
