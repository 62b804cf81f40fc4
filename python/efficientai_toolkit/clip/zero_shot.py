"""Zero-shot classification (`CLIP <https://arxiv.org/abs/2103.00020>`_, section 3.1)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from efficientai_toolkit.clip.inputs import Images
from efficientai_toolkit.clip.model import ClipModel
from efficientai_toolkit.exceptions import ConfigError

DEFAULT_TEMPLATES = ("a photo of a {}.",)
"""Sentences around a label."""


def build_classifier(
    model: ClipModel, labels: Sequence[str], templates: Sequence[str] = DEFAULT_TEMPLATES
) -> NDArray[np.float32]:
    """Compute the features of classes: the mean over all templates, of length 1.

    Parameters
    ----------
    model
        From :func:`efficientai_toolkit.clip.load`.
    labels
        At least two different names of classes.
    templates
        Sentences with ``{}`` in place of the label.

    Returns
    -------
    numpy.ndarray
        float32, ``[labels, dim]``.

    Raises
    ------
    ConfigError
        If there are fewer than two labels, one comes twice, or a template has no ``{}``.
    """
    if isinstance(labels, str) or len(labels) <= 1:
        message = (
            f"labels are {labels!r}, expected a list of at least two: with one there is nothing to choose"
        )
        raise ConfigError(message)
    twice = next((label for label in labels if list(labels).count(label) > 1), None)
    if twice is not None:
        message = f"the label {twice!r} comes twice"
        raise ConfigError(message)
    if isinstance(templates, str) or not templates:
        message = f"templates are {templates!r}, expected a list of sentences with {{}}"
        raise ConfigError(message)
    without = next((template for template in templates if "{}" not in template), None)
    if without is not None:
        message = f"the template {without!r} has no {{}} in place of the label"
        raise ConfigError(message)
    texts = [template.replace("{}", label) for label in labels for template in templates]
    features = model.encode_text(texts, normalize=True)
    mean = features.reshape(len(labels), len(templates), -1).mean(axis=1)
    lengths = np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)
    return np.asarray(mean / lengths, np.float32)


def classify(
    model: ClipModel,
    images: Images,
    labels: Sequence[str],
    *,
    templates: Sequence[str] = DEFAULT_TEMPLATES,
    batch_size: int = 32,
) -> NDArray[np.float32]:
    """Compute the probability of each label for each image.

    >>> classify(model, ["cat.jpg"], ["cat", "dog"]).round(2)  # doctest: +SKIP
    array([[0.99, 0.01]], dtype=float32)

    Parameters
    ----------
    model
        From :func:`efficientai_toolkit.clip.load`.
    images
        As for :meth:`ClipModel.encode_image`.
    labels, templates
        As for :func:`build_classifier`.
    batch_size
        Images that are computed at once.

    Returns
    -------
    numpy.ndarray
        float32, ``[images, labels]``; each row sums to 1.
    """
    classifier = build_classifier(model, labels, templates)
    logits = model.logits(model.encode_image(images, normalize=True, batch_size=batch_size), classifier)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)
