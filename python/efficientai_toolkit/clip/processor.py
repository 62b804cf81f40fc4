"""Inputs of image–text models."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from efficientai_toolkit.clip.inputs import Images, split_images, split_texts
from efficientai_toolkit.exceptions import ConfigError

if TYPE_CHECKING:
    from efficientai_toolkit._core.clip import Processor


class ClipProcessor:
    """Makes pixel values and token ids, as Hugging Face's processors do."""

    def __init__(self, engine: "Processor") -> None:
        self._engine = engine

    @property
    def image_size(self) -> int:
        """Side of processed images in pixels."""
        return self._engine.image_size

    @property
    def context_length(self) -> int:
        """Length of rows of token ids."""
        return self._engine.context_length

    def __call__(
        self, images: Images | None = None, text: str | list[str] | None = None, *, truncate: bool = False
    ) -> dict[str, NDArray[Any]]:
        """Prepare images, texts or both.

        Parameters
        ----------
        images
            Paths, PIL images or uint8 arrays ``[height, width, 3]``; one or several. Resized, cropped and
            normalized as the checkpoint says.
        text
            One or several texts.
        truncate
            Whether texts longer than the context lose their last tokens, instead of being refused.

        Returns
        -------
        dict
            ``pixel_values``, float32 ``[n, 3, size, size]``, and ``input_ids``, uint32
            ``[n, context_length]``, of what is given.

        Raises
        ------
        ConfigError
            If neither is given, or something that is no image or text.
        DatasetError
            If an image cannot be decoded, or a text is too long.
        """
        if images is None and text is None:
            message = "neither images nor text are given"
            raise ConfigError(message)
        inputs: dict[str, NDArray[Any]] = {}
        if images is not None:
            sources = split_images(images)
            if isinstance(sources, np.ndarray):
                inputs["pixel_values"] = sources
            else:
                inputs["pixel_values"] = self._engine.process_images(sources)
        if text is not None:
            texts = split_texts(text)
            if isinstance(texts, np.ndarray):
                message = "text is an array of token ids, expected one or several strings"
                raise ConfigError(message)
            inputs["input_ids"] = self._engine.process_texts(texts, truncate)
        return inputs

    def __repr__(self) -> str:
        """Show the sizes."""
        return f"ClipProcessor(image_size={self.image_size}, context_length={self.context_length})"
