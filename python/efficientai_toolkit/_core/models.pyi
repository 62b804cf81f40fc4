"""
Language models and their tokenizers.
"""

from _typeshed import SupportsGetItem
from collections.abc import Mapping, Sequence
from mlx.core import array
from numpy import float32
from numpy.typing import ArrayLike, NDArray
from os import PathLike
from pathlib import Path
from typing import Any, SupportsFloat, SupportsIndex, final

__all__ = ["Model", "Tokenizer", "convert", "copy_description", "create", "describe_gguf", "load", "load_tokenizer"]

@final
class Model:
    """
    A language model: `model(ids)` gives logits.
    """
    def __call__(self, /, ids: ArrayLike) -> NDArray[float32]:
        """
        Logits for token ids.

        Parameters
        ----------
        ids
            Integers, ``[batch, time]``.

        Returns
        -------
        numpy.ndarray
            float32, ``[batch, time, vocab]``.
        """
    def __repr__(self, /) -> str: ...
    @property
    def adapters(self, /) -> dict[str, float]:
        """
        Adapters by name, with their weights; 0 for those that are not in use.
        """
    @property
    def config(self, /) -> Any:
        """
        The parsed `config.json`; of a larger model, such as a vision–language model, the language model's part.
        """
    @property
    def dtype(self, /) -> str:
        """
        Number format of activations: float32, float16 or bfloat16.
        """
    def is_batchable(self, /, name: str) -> bool:
        """
        Whether requests with the adapter of this name can be computed together with others: all but those with whole
        modules (``modules_to_save``), which have to be put onto the model.
        """
    def load_adapter(self, /, path: str | PathLike[str], name: str) -> None:
        """
        Reads the adapter in a folder, in either format, and keeps it under `name` without using it yet.
        """
    def mlx_logits(self, /, ids: ArrayLike) -> array:
        """
        Logits for token ids, as an ``mlx.core.array``.

        Parameters
        ----------
        ids
            Integers, ``[batch, time]``.

        Returns
        -------
        mlx.core.array
            float32, ``[batch, time, vocab]``.
        """
    @property
    def model_type(self, /) -> str:
        """
        Architecture, as `config.json` names it.
        """
    @property
    def num_parameters(self, /) -> int:
        """
        Number of parameters, adapters included; packed weights count as what they stand for.
        """
    @property
    def outline(self, /) -> Any | None:
        """
        What the model computes besides its parameters, block by block, as a dictionary; ``None`` for architectures that
        it does not describe.
        """
    def parameter(self, /, name: str) -> NDArray[Any]:
        """
        A copy of one parameter, with adapters merged into it: float32, or the unsigned integers of quantized weights.
        """
    @property
    def parameter_shapes(self, /) -> dict[str, list[int]]:
        """
        Shapes of all parameters by name, with adapters merged into the weights.
        """
    @property
    def path(self, /) -> Path:
        """
        Folder the model came from.
        """
    @property
    def quantized_layers(self, /) -> dict[str, tuple[str, int, int]]:
        """
        Formats of quantized weights by the name of their layer: mode, bits and group size. Weights that adapters are
        merged into are not quantized.
        """
    def set_adapter(self, /, adapters: str | dict[str, SupportsFloat | SupportsIndex] | None) -> None:
        """
        Puts the adapter of this name onto the model, or those of a mapping times their weights, in place of what was
        on it; `None` takes all off.
        """
    @property
    def sparse_layers(self, /) -> dict[str, tuple[float, int, int]]:
        """
        Layers that are held without their zeros, by name: the fraction of zeros, and the bytes of the weight as it is and
        as it would be with them, without scales and biases.
        """
    def unload_adapter(self, /, name: str) -> None:
        """
        Forgets the adapter of this name; others in use stay.
        """

@final
class Tokenizer:
    """
    Turns text into token ids and back.
    """
    def __call__(self, /, text: str | SupportsGetItem[int, str], add_special_tokens: bool = True) -> dict[str, Any]:
        """
        Token ids of a text, as ``input_ids`` of a dictionary, with an ``attention_mask`` of ones; of several texts a list
        of each, without padding.
        """
    def __len__(self, /) -> int: ...
    def __repr__(self, /) -> str: ...
    def apply_chat_template(self, /, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None, add_generation_prompt: bool = True, *, tokenize: bool = False, **chat_template_kwargs: "object") -> str:
        """
        A conversation as the model expects it.

        ``messages`` are such as ``[{"role": "user", "content": "…"}]``, ``tools`` the JSON schemas of functions that the
        model may call. With ``add_generation_prompt`` the text ends with the beginning of an answer. ``tokenize`` is
        ``False``: pass the text to ``encode`` with ``add_special_tokens=False``. Further arguments are options of the
        chat template, such as ``enable_thinking=False``.
        """
    @property
    def bos_token_id(self, /) -> int | None:
        """
        The token that begins a text.
        """
    def decode(self, /, ids: SupportsGetItem[int, SupportsIndex], skip_special_tokens: bool = True) -> str:
        """
        Text of token ids; ids that no token has are skipped.
        """
    def encode(self, /, text: str, add_special_tokens: bool = True) -> list[int]:
        """
        Token ids of a text.
        """
    @property
    def eos_token_id(self, /) -> int | None:
        """
        The first of the tokens that end a text.
        """
    @property
    def eos_token_ids(self, /) -> list[int]:
        """
        Tokens that end a text.
        """
    @property
    def has_chat_template(self, /) -> bool:
        """
        Whether `apply_chat_template` works.
        """
    @property
    def pad_token_id(self, /) -> int | None:
        """
        The token that fills up short rows.
        """
    @property
    def vocab_size(self, /) -> int:
        """
        Number of tokens.
        """

def convert(folder_in: str | PathLike[str], folder_out: str | PathLike[str], dtype: str) -> None:
    """
    Writes a copy of a model folder with its weights in another number format.
    """

def copy_description(path: str | PathLike[str], folder: str | PathLike[str]) -> None:
    """
    Copies everything but weights from a model folder or GGUF file to ``folder``: tokenizer, chat templates and, of a
    folder, configurations.
    """

def create(config: str, folder: str | PathLike[str], seed: SupportsIndex = 0, dtype: str = "float32") -> None:
    """
    Writes a model folder with random weights (``config.json`` and ``model.safetensors``).

    ``config`` is the text of a ``config.json``; matrices are drawn with its
    ``initializer_range`` as standard deviation.
    """

def describe_gguf(path: str | PathLike[str]) -> str:
    """
    Describes a GGUF file without its weights, as JSON: ``config`` and ``tokenizer_config`` as a model folder has them, the
    ``packed_bytes`` of matrices that stay packed in memory, and the count of other ``numbers``.
    """

def load(path: str | PathLike[str], adapter_path: str | PathLike[str] | None = None, dtype: str | None = None, bits: SupportsIndex | None = None, group_size: SupportsIndex = ..., chat_template_kwargs: Mapping[str, Any] | None = None, sparse: str = "auto") -> tuple[Model, Tokenizer]:
    """
    Loads a model folder in Hugging Face format or a GGUF file with its tokenizer, and an adapter onto it.

    ``dtype`` is ``float32``, ``float16``, ``bfloat16`` or, for that of the checkpoint, ``auto``; ``None`` takes float32
    on a CPU and the checkpoint's own on a GPU. A checkpoint that MLX quantized stays quantized; with ``bits``
    (2, 3, 4, 5, 6 or 8) any other is quantized now, in groups of ``group_size`` (32, 64 or 128) weights.
    With ``sparse`` ``auto``, layers with enough zeros are packed on a CPU, with ``never`` they stay dense.
    ``chat_template_kwargs`` are options of the chat template.
    """

def load_tokenizer(path: str | PathLike[str], chat_template_kwargs: Mapping[str, Any] | None = None) -> Tokenizer:
    """
    Loads the tokenizer of a folder alone; ``chat_template_kwargs`` are options of its chat template.
    """
