"""Fine-tune, compress and ship models on the machine you have: Metal, CUDA or CPU.

>>> import efficientai_toolkit as eat
>>> model, tokenizer = eat.load()  # doctest: +SKIP
>>> eat.generate(model, tokenizer, "Once upon a time")  # doctest: +SKIP

Importing the package loads MLX and the engine, checks that they fit, chooses the device and
sets the limits that :func:`hardware` reports.
"""

from typing import TYPE_CHECKING

from efficientai_toolkit import exceptions, kernels, lora
from efficientai_toolkit._engine.core import core as _core
from efficientai_toolkit.accelerate import accelerate_mlx
from efficientai_toolkit.device import HardwareReport, hardware
from efficientai_toolkit.models.generation import GenerateConfig, generate
from efficientai_toolkit.models.loading import load

if TYPE_CHECKING:
    __version__: str

__all__ = [
    "GenerateConfig",
    "HardwareReport",
    "__version__",
    "_core",
    "accelerate_mlx",
    "exceptions",
    "generate",
    "hardware",
    "kernels",
    "load",
    "lora",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("efficientai-toolkit")
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
