"""Fine-tune, compress and ship models on the machine you have: Metal, CUDA or CPU.

>>> import efficientai_toolkit as eat
>>> model, tokenizer = eat.load()  # doctest: +SKIP
>>> eat.generate(model, tokenizer, "Once upon a time")  # doctest: +SKIP

Importing the package is cheap. The first use of the engine loads MLX, checks that its version matches,
selects the device and sets the memory limits reported by :func:`hardware`.
"""

from typing import TYPE_CHECKING

from efficientai_toolkit._base.lazy import lazy_names

if TYPE_CHECKING:
    from efficientai_toolkit import (
        benchmark,
        callbacks,
        clip,
        compress,
        distill,
        exceptions,
        exports,
        federated,
        jobs,
        kernels,
        lora,
        prune,
        quantize,
        registry,
        server,
        trackers,
        ui,
    )
    from efficientai_toolkit._base.version import __version__
    from efficientai_toolkit._core.models import Model, Tokenizer
    from efficientai_toolkit._engine.core import core as _core
    from efficientai_toolkit.accelerate import accelerate_mlx
    from efficientai_toolkit.device import HardwareReport, hardware
    from efficientai_toolkit.exports.config import ExportConfig
    from efficientai_toolkit.exports.run import export
    from efficientai_toolkit.models.generation import GenerateConfig, generate, stream
    from efficientai_toolkit.models.loading import load

__all__ = [
    "ExportConfig",
    "GenerateConfig",
    "HardwareReport",
    "Model",
    "Tokenizer",
    "__version__",
    "_core",
    "accelerate_mlx",
    "benchmark",
    "callbacks",
    "clip",
    "compress",
    "distill",
    "exceptions",
    "export",
    "exports",
    "federated",
    "generate",
    "hardware",
    "jobs",
    "kernels",
    "load",
    "lora",
    "prune",
    "quantize",
    "registry",
    "server",
    "stream",
    "trackers",
    "ui",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "ExportConfig": "exports.config:ExportConfig",
            "GenerateConfig": "models.generation:GenerateConfig",
            "HardwareReport": "device:HardwareReport",
            "Model": "_engine.core:core.models.Model",
            "Tokenizer": "_engine.core:core.models.Tokenizer",
            "__version__": "_base.version:__version__",
            "_core": "_engine.core:core",
            "accelerate_mlx": "accelerate:accelerate_mlx",
            "benchmark": "benchmark",
            "callbacks": "callbacks",
            "compress": "compress",
            "clip": "clip",
            "distill": "distill",
            "exceptions": "exceptions",
            "export": "exports.run:export",
            "exports": "exports",
            "federated": "federated",
            "generate": "models.generation:generate",
            "stream": "models.generation:stream",
            "hardware": "device:hardware",
            "jobs": "jobs",
            "kernels": "kernels",
            "load": "models.loading:load",
            "lora": "lora",
            "prune": "prune",
            "quantize": "quantize",
            "registry": "registry",
            "server": "server",
            "trackers": "trackers",
            "ui": "ui",
        },
    )
