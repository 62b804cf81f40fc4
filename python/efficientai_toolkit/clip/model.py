"""Image–text models."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from efficientai_toolkit.clip.inputs import Images, Texts, split_images, split_texts

if TYPE_CHECKING:
    from efficientai_toolkit._core.clip import Model, Processor


class ClipModel:
    """A CLIP or SigLIP model: features of images and texts in one space."""

    def __init__(self, engine: "Model", processor: "Processor") -> None:
        self._engine = engine
        self._processor = processor

    @property
    def path(self) -> Path:
        """Folder the model came from."""
        return Path(self._engine.path)

    @property
    def model_type(self) -> str:
        """``clip`` or ``siglip``."""
        return self._engine.model_type

    @property
    def dtype(self) -> str:
        """Number format of activations: float32, float16 or bfloat16."""
        return self._engine.dtype

    @property
    def num_parameters(self) -> int:
        """Number of parameters; packed weights count as what they stand for."""
        return self._engine.num_parameters

    @property
    def dim(self) -> int:
        """Size of features."""
        return self._engine.dim

    @property
    def image_size(self) -> int:
        """Side of images in pixels."""
        return self._engine.image_size

    @property
    def context_length(self) -> int:
        """Longest text, in tokens."""
        return self._engine.context_length

    @property
    def logit_scale(self) -> float:
        """Logarithm of what similarities are multiplied by."""
        return self._engine.logit_scale

    @property
    def logit_bias(self) -> float | None:
        """What SigLIP adds to logits; ``None`` for CLIP."""
        return self._engine.logit_bias

    def encode_image(
        self, images: Images, *, normalize: bool = False, batch_size: int = 32
    ) -> NDArray[np.float32]:
        """Compute features of images.

        Parameters
        ----------
        images
            A path, PIL image or uint8 array ``[height, width, 3]``, or several of them in a list; a uint8
            array ``[n, height, width, 3]``; or normalized pixels, floats ``[n, 3, height, width]``.
        normalize
            Whether features have length 1.
        batch_size
            Images that are computed at once.

        Returns
        -------
        numpy.ndarray
            float32, ``[n, dim]``.

        Raises
        ------
        ConfigError
            If something is no image, or normalized pixels have another size than the model's.
        DatasetError
            If an image cannot be decoded; it is named.
        """
        sources = split_images(images)
        if isinstance(sources, np.ndarray):
            return self._engine.encode_pixels(sources, normalize, batch_size)
        return self._engine.encode_images(sources, normalize, batch_size)

    def encode_text(
        self, texts: Texts, *, normalize: bool = False, truncate: bool = False, batch_size: int = 256
    ) -> NDArray[np.float32]:
        """Compute features of texts.

        Parameters
        ----------
        texts
            A text, several texts, or their token ids, an integer array ``[n, length]``.
        normalize
            Whether features have length 1.
        truncate
            Whether texts longer than the context lose their last tokens, instead of being refused.
        batch_size
            Texts that are computed at once.

        Returns
        -------
        numpy.ndarray
            float32, ``[n, dim]``.

        Raises
        ------
        ConfigError
            If something is no text, or ids are not the model's.
        DatasetError
            If a text is longer than the context.
        """
        split = split_texts(texts)
        ids = split if isinstance(split, np.ndarray) else self._processor.process_texts(split, truncate)
        return self._engine.encode_ids(ids, normalize, batch_size)

    def __call__(self, images: Images, texts: Texts) -> NDArray[np.float32]:
        """Compute logits of each image and each text, float32 ``[images, texts]``.

        They are similarities times ``exp(logit_scale)``, plus the ``logit_bias`` of SigLIP. Probabilities are
        the softmax over texts for CLIP, and the sigmoid for SigLIP.
        """
        image_features = self.encode_image(images, normalize=True)
        text_features = self.encode_text(texts, normalize=True)
        return self.logits(image_features, text_features)

    def logits(
        self, image_features: NDArray[np.float32], text_features: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Compute logits of features of length 1, ``[images, dim]`` and ``[texts, dim]``."""
        similarity = image_features @ text_features.T
        logits = similarity * np.float32(np.exp(self.logit_scale)) + np.float32(self.logit_bias or 0.0)
        return logits.astype(np.float32)

    def save(
        self,
        folder: str | os.PathLike[str],
        *,
        format: Literal["huggingface", "open_clip"] = "huggingface",  # noqa: A002
    ) -> None:
        """Save model, tokenizer and preprocessing as a folder.

        Parameters
        ----------
        folder
            Where to.
        format
            ``huggingface``, or ``open_clip`` for CLIP.

        Raises
        ------
        ConfigError
            If open_clip has no settings for the model.
        """
        self._engine.save(os.fspath(folder), format)

    def __repr__(self) -> str:
        """Show type and folder."""
        return f"ClipModel({self.model_type}, {self.path})"
