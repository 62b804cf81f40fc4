"""Checkpoints in files of limited size."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from efficientai_toolkit._base.files import write_json
from efficientai_toolkit.exceptions import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

LIMIT = 2 << 30
"""Most bytes of a file, unless one tensor has more."""

_INDEX = "model.safetensors.index.json"


class Shards:
    """Writes tensors to a folder; at most one file's are in memory. Floats become ``dtype``."""

    def __init__(self, folder: Path, dtype: str, *, limit: int = LIMIT) -> None:
        self._folder = folder
        self._dtype = dtype
        self._limit = limit
        self._pending: dict[str, Any] = {}
        self._pending_bytes = 0
        self._files: list[list[str]] = []
        self._bytes = 0

    def add(self, name: str, array: "NDArray[Any]") -> None:
        """Write a tensor.

        Raises
        ------
        ConfigError
            If a number is too large for the data type.
        """
        import mlx.core as mx

        tensor = mx.array(array)
        if array.dtype == np.float32:
            tensor = tensor.astype(getattr(mx, self._dtype))
            if not bool(mx.isfinite(tensor).all()) and bool(np.isfinite(array).all()):
                message = (
                    f"numbers of {name} are too large for {self._dtype}: choose compressed-tensors or f32"
                )
                raise ConfigError(message)
        if self._pending and self._pending_bytes + tensor.nbytes > self._limit:
            self._flush()
        self._pending[name] = tensor
        self._pending_bytes += tensor.nbytes

    def finish(self) -> None:
        """Write what is left and give the files their names."""
        self._flush()
        count = len(self._files)
        if count == 1:
            self._path(0).replace(self._folder / "model.safetensors")
            return
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self._files):
            name = f"model-{number + 1:05}-of-{count:05}.safetensors"
            self._path(number).replace(self._folder / name)
            weight_map |= dict.fromkeys(names, name)
        index = {"metadata": {"total_size": self._bytes}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(self._folder / _INDEX, index)

    def _path(self, number: int) -> Path:
        return self._folder / f"part-{number}.safetensors"

    def _flush(self) -> None:
        import mlx.core as mx

        # transformers refuses files without a format.
        mx.save_safetensors(  # pyright: ignore[reportUnknownMemberType]
            str(self._path(len(self._files))), self._pending, metadata={"format": "pt"}
        )
        self._files.append(list(self._pending))
        self._bytes += self._pending_bytes
        self._pending, self._pending_bytes = {}, 0


class StoredTensors:
    """Tensors of a checkpoint, read one at a time; floats become float32."""

    def __init__(self, folder: Path) -> None:
        import mlx.core as mx

        index = folder / _INDEX
        files = (
            sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            if index.is_file()
            else ["model.safetensors"]
        )
        self._tensors: dict[str, Any] = {}
        for file in files:
            found: Any = mx.load(str(folder / file))
            self._tensors |= found

    @property
    def names(self) -> set[str]:
        """Names of tensors that were not read yet."""
        return set(self._tensors)

    def read(self, name: str) -> "NDArray[Any]":
        """Return a tensor, once."""
        import mlx.core as mx

        tensor = self._tensors.pop(name)
        is_float = mx.issubdtype(tensor.dtype, mx.floating)
        return np.array(tensor.astype(mx.float32) if is_float else tensor)
