"""
The engine of `efficientai_toolkit`; use the package around it.
"""

from . import adapters as adapters, clip as clip, data as data, device as device, distill as distill, evaluate as evaluate, exports as exports, federated as federated, generate as generate, kernels as kernels, lora as lora, models as models, progress as progress, prune as prune, quantize as quantize, subset as subset

__all__ = ["adapters", "clip", "data", "device", "distill", "evaluate", "exports", "federated", "generate", "kernels", "lora", "models", "progress", "prune", "quantize", "subset"]
