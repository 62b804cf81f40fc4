"""
Image–text models.
"""

from _typeshed import Incomplete, SupportsGetItem
from numpy import float32, uint32
from numpy.typing import ArrayLike, NDArray
from os import PathLike
from pathlib import Path
from typing import Any, SupportsIndex, final

__all__ = ["Model", "Processor", "check", "check_output", "defaults", "load", "read_pairs", "recall", "search", "train", "validate"]

@final
class Model:
    """
    A model of images and texts.
    """
    @property
    def context_length(self, /) -> int:
        """
        Longest text, in tokens.
        """
    @property
    def dim(self, /) -> int:
        """
        Size of features.
        """
    @property
    def dtype(self, /) -> str:
        """
        Number format of activations: float32, float16 or bfloat16.
        """
    def encode_ids(self, /, ids: ArrayLike, normalize: bool, batch_size: SupportsIndex) -> NDArray[float32]:
        """
        Features of token ids, integers ``[texts, length]``: float32 ``[texts, dim]``.
        """
    def encode_images(self, /, images: SupportsGetItem[int, Any], normalize: bool, batch_size: SupportsIndex) -> NDArray[float32]:
        """
        Features of paths and uint8 arrays ``[height, width, 3]``: float32 ``[images, dim]``.
        """
    def encode_pixels(self, /, pixels: Incomplete, normalize: bool, batch_size: SupportsIndex) -> NDArray[float32]:
        """
        Features of normalized images, float32 ``[images, 3, height, width]``: float32 ``[images, dim]``.
        """
    @property
    def image_size(self, /) -> int:
        """
        Side of images in pixels.
        """
    @property
    def logit_bias(self, /) -> float | None:
        """
        Added to logits by `SigLIP`; ``None`` for CLIP.
        """
    @property
    def logit_scale(self, /) -> float:
        """
        Logarithm of what similarities are multiplied by.
        """
    @property
    def model_type(self, /) -> str:
        """
        ``clip`` or ``siglip``.
        """
    @property
    def num_parameters(self, /) -> int:
        """
        Number of parameters; packed weights count as what they stand for.
        """
    @property
    def path(self, /) -> Path:
        """
        Folder the model came from.
        """
    def save(self, /, folder: str | PathLike[str], format: str) -> None:
        """
        Saves the model with its processor to a folder, in the format ``huggingface`` or ``open_clip``.
        """

@final
class Processor:
    """
    Prepares images and texts for a model.
    """
    @property
    def context_length(self, /) -> int:
        """
        Length of rows of token ids.
        """
    @property
    def image_size(self, /) -> int:
        """
        Side of processed images in pixels.
        """
    def process_images(self, /, images: SupportsGetItem[int, Any]) -> NDArray[float32]:
        """
        Normalized images, float32 ``[images, 3, size, size]``, of paths and uint8 arrays ``[height, width, 3]``.
        """
    def process_texts(self, /, texts: SupportsGetItem[int, str], truncate: bool = False) -> NDArray[uint32]:
        """
        Token ids of texts, uint32 ``[texts, context_length]``. With ``truncate``, longer texts lose their last tokens.
        """

def check(config: str) -> None:
    """
    Checks the value of every setting of ``config``, the JSON of a ``ClipConfig``.
    """

def check_output(config: str) -> None:
    """
    Raises ``TrainingError`` where the output folder of a run is taken by another one, or holds none to resume.

    ``config`` is the JSON of a ``ClipConfig`` with ``output`` filled in.
    """

def defaults() -> str:
    """
    The default ``ClipConfig`` as JSON.
    """

def load(path: str | PathLike[str], dtype: str | None = None, image_size: SupportsIndex | None = None, interpolation: str = "huggingface", adapter_path: str | PathLike[str] | None = None) -> tuple[Model, Processor]:
    """
    Loads a folder of CLIP or `SigLIP`, in the format of Hugging Face or `open_clip`, with its processor.

    ``dtype`` is ``float32``, ``float16``, ``bfloat16`` or, for that of the checkpoint, ``auto``; ``None`` takes float32 on a
    CPU and the checkpoint's own on a GPU. Position embeddings are interpolated for images of another ``image_size``, as
    ``huggingface`` or ``open_clip`` does.
    """

def read_pairs(path: str | PathLike[str]) -> list[tuple[Path, list[str]]]:
    """
    Reads image–text pairs from a table or a folder of images: paths, each with its texts.
    """

def recall(images: ArrayLike, texts: ArrayLike, owners: SupportsGetItem[int, SupportsIndex], k: SupportsGetItem[int, SupportsIndex]) -> str:
    """
    Recall at each of ``k`` of ``images`` and ``texts``, float32 ``[rows, dim]`` of unit length, as JSON; ``owners`` tells
    the number of the image that each text belongs to.
    """

def search(queries: ArrayLike, index: ArrayLike, count: SupportsIndex) -> tuple[NDArray[uint32], NDArray[float32]]:
    """
    Finds the ``count`` rows of ``index`` with the largest inner product with each row of ``queries``, both float32
    ``[rows, dim]``; returns their numbers and the products, ``[queries, count]``, the best first.
    """

def train(model: Model, config: str, observer: Any) -> str:
    """
    Trains ``model`` in place and returns a JSON report; ``observer`` receives each event as JSON.

    ``config`` is the JSON of a ``ClipConfig`` with ``data`` and ``output`` filled in.
    """

def validate(model: Model, config: str) -> str:
    """
    Checks a whole configuration against ``model`` and reads its data, without training; returns numbers of the data as
    JSON.

    ``config`` is the JSON of a ``ClipConfig`` with ``data`` filled in.
    """
