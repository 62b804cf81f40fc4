"""
The engine of `efficientai_toolkit`; use the package around it.
"""

from _typeshed import SupportsGetItem
from numpy import float32
from numpy.typing import ArrayLike, NDArray
from os import PathLike
from pathlib import Path
from typing import Any, SupportsFloat, SupportsIndex, final

__all__ = ["Model", "Tokenizer", "accelerate_mlx", "analyze_lora", "convert", "convert_adapter", "create_model", "defaults", "epoch_batches", "estimate_memory", "fuse_adapter", "generate", "hardware", "load", "measure_convolution", "measure_kernel", "process_group", "report_kernels", "score_rows", "score_tokens", "sgemm_calls", "start", "train_lora", "validate_lora"]

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
        The parsed `config.json`.
        """
    @property
    def dtype(self, /) -> str:
        """
        Number format of activations: float32, float16 or bfloat16.
        """
    def load_adapter(self, /, path: str | PathLike[str], name: str) -> None:
        """
        Reads the adapter in a folder, in either format, and keeps it under `name` without using it yet.
        """
    @property
    def model_type(self, /) -> str:
        """
        Architecture, as `config.json` names it.
        """
    @property
    def num_parameters(self, /) -> int:
        """
        Numbers in the model, adapters included.
        """
    @property
    def path(self, /) -> Path:
        """
        Folder the model came from.
        """
    def set_adapter(self, /, adapters: str | dict[str, SupportsFloat | SupportsIndex] | None) -> None:
        """
        Puts the adapter of this name onto the model, or those of a mapping times their weights, in place of what was
        on it; `None` takes all off.
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
    def apply_chat_template(self, /, messages: str, tools: str | None = None, add_generation_prompt: bool = True) -> str:
        """
        A conversation as the model expects it; `messages` and `tools` are JSON lists.
        """
    def decode(self, /, ids: SupportsGetItem[int, SupportsIndex], skip_special_tokens: bool = True) -> str:
        """
        Text of token ids.
        """
    def encode(self, /, text: str, add_special_tokens: bool = True) -> list[int]:
        """
        Token ids of a text.
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
    def vocab_size(self, /) -> int:
        """
        Number of tokens.
        """

def accelerate_mlx() -> bool:
    """
    Lets MLX multiply float32 matrices on the CPU with the engine's kernel; ``False`` if it has no
    function that could be replaced.
    """

def analyze_lora(model: Model, tokenizer: Tokenizer, config: str, probe: str) -> str:
    """
    Looks at the data of ``config`` and at the gradient of each layer that it adapts, without training; returns
    both as JSON.

    ``config`` is the JSON of a ``TrainingConfig`` with ``data`` filled in, ``probe`` that of ``batches``, whose mean
    gradient is taken, and ``width``, how many singular values are looked for.
    """

def convert(folder_in: str | PathLike[str], folder_out: str | PathLike[str], dtype: str) -> None:
    """
    Writes a copy of a model folder with its weights in another number format.
    """

def convert_adapter(adapter_path: str | PathLike[str], output: str | PathLike[str], format: str | None = None, model_path: str | PathLike[str] | None = None, overwrite: bool = False) -> str:
    """
    Writes a copy of an adapter in another format and returns a JSON report.

    ``format`` is ``mlx`` or ``peft``; ``None`` takes the one that the adapter is not in.
    """

def create_model(config: str, folder: str | PathLike[str], seed: SupportsIndex = 0, dtype: str = "float32") -> None:
    """
    Writes a model folder with random weights (``config.json`` and ``model.safetensors``).

    ``config`` is the text of a ``config.json``; matrices are drawn with its
    ``initializer_range`` as standard deviation.
    """

def defaults(room: str) -> str:
    """
    Default settings of a room (``lora`` or ``generate``) as JSON.
    """

def epoch_batches(lengths: SupportsGetItem[int, SupportsIndex], batch_size: SupportsIndex, seed: SupportsIndex, epoch: SupportsIndex) -> list[list[int]]:
    """
    Rows of each batch in one pass over rows of these lengths, in tokens: what another library has to read to learn from
    the same batches.
    """

def estimate_memory(model: Model, tokenizer: Tokenizer, config: str) -> str:
    """
    What a run with this configuration is expected to take of MLX's memory: JSON of a ``MemoryEstimate``.

    ``config`` is the JSON of a ``TrainingConfig`` with ``data`` filled in.
    """

def fuse_adapter(model_path: str | PathLike[str], adapter_path: str | PathLike[str], output: str | PathLike[str], dequantize: bool = False, overwrite: bool = False) -> str:
    """
    Merges an adapter into its model, writes the result to ``output`` and returns a JSON report.
    """

def generate(model: Model, tokenizer: Tokenizer, prompt: str, config: str, on_text: Any | None = None, add_special_tokens: bool = True) -> str:
    """
    Continues ``prompt`` and returns a JSON report; ``on_text`` receives each piece of text.

    ``config`` is the JSON of a ``GenerateConfig``. ``add_special_tokens`` is for plain text; a
    rendered chat template holds its own.
    """

def hardware() -> str:
    """
    The machine, the device in use and the limits set on MLX's allocator, as JSON.
    """

def load(path: str | PathLike[str], adapter_path: str | PathLike[str] | None = None, dtype: str | None = None, bits: SupportsIndex | None = None, group_size: SupportsIndex = 64) -> tuple[Model, Tokenizer]:
    """
    Loads a model folder in Hugging Face format with its tokenizer, and an adapter onto it.

    ``dtype`` is ``float32``, ``float16`` or ``bfloat16``; ``None`` takes float32 on a CPU and
    the checkpoint's own on a GPU. A checkpoint that MLX quantized stays quantized; with ``bits``
    (2, 3, 4, 5, 6 or 8) any other is quantized now, in groups of ``group_size`` (32, 64 or 128) weights.
    """

def measure_convolution(request: str) -> float:
    """
    Median seconds of one pass of a convolution; ``request`` is the JSON of what to measure.
    """

def measure_kernel(request: str) -> float:
    """
    Median seconds of one call of a kernel; ``request`` is the JSON of what to measure.
    """

def process_group() -> tuple[int, int]:
    """
    This process's rank among those that were started together, and their number; waits for them the first time.
    """

def report_kernels() -> str:
    """
    Every kernel beside what the machine allows, as JSON.
    """

def score_rows(model: Model, tokenizer: Tokenizer, path: str | PathLike[str], rows: SupportsGetItem[int, tuple[SupportsIndex, str]], settings: str) -> str:
    """
    Loss and token accuracy on rows of data, as JSON.

    ``rows`` are lines of ``path``, each with its number and its text, a JSON object as training reads it; ``settings`` is
    the JSON of ``batch_size``, ``max_seq_length`` and ``mask_prompt``.
    """

def score_tokens(model: Model, rows: SupportsGetItem[int, tuple[SupportsGetItem[int, SupportsIndex], SupportsIndex]], batch_size: SupportsIndex = 8) -> list[list[tuple[float, bool]]]:
    """
    For each row of token ids and each of its tokens from ``start`` on: the natural logarithm of its
    probability after the tokens before it, and whether no other token is likelier there.

    ``rows`` are pairs of token ids and ``start``, which is at least 1; ``batch_size`` rows go through the model together.
    """

def sgemm_calls() -> int:
    """
    How often MLX has called the engine for a product of float32 matrices.
    """

def start() -> None:
    """
    Checks the loaded MLX, passes log records to ``logging``, chooses the device and sets the
    allocator's limits. To be called once, before everything else.

    Raises ``DependencyError`` unless the loaded MLX is the one the engine was built for.
    """

def train_lora(model: Model, tokenizer: Tokenizer, config: str, observer: Any) -> str:
    """
    Trains ``model`` in place and returns a JSON report; ``observer`` receives each event as JSON.

    ``config`` is the JSON of a ``TrainingConfig`` with ``data`` and ``output`` filled in.
    """

def validate_lora(model: Model, tokenizer: Tokenizer, config: str) -> str:
    """
    Checks a whole configuration against ``model`` and reads its data, without training; returns
    statistics of each split as JSON.

    ``config`` is the JSON of a ``TrainingConfig`` with ``data`` filled in.
    """
