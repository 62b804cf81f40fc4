"""
Adapters on disk.
"""

from os import PathLike

__all__ = ["convert", "fuse"]

def convert(adapter_path: str | PathLike[str], output: str | PathLike[str], format: str | None = None, model_path: str | PathLike[str] | None = None, overwrite: bool = False) -> str:
    """
    Writes a copy of an adapter in another format and returns a JSON report.

    ``format`` is ``mlx`` or ``peft``; ``None`` takes the one that the adapter is not in.
    """

def fuse(model_path: str | PathLike[str], adapter_path: str | PathLike[str], output: str | PathLike[str], dequantize: bool = False, overwrite: bool = False) -> str:
    """
    Merges an adapter into its model, writes the result to ``output`` and returns a JSON report.
    """
