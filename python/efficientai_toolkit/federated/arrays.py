"""Updates as the engine reads them: flat arrays of known dtypes, in one order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from efficientai_toolkit.exceptions import ConfigError

DTYPES = ("float64", "float32", "float16", "bfloat16")
"""Dtypes of the engine."""

Update = Mapping[str, Any]
"""Arrays by name."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Names, shapes and dtypes that every update of a round has."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, np.dtype[Any]]

    @classmethod
    def of(cls, update: Update, client: str) -> "Layout":
        """Return the layout of the update of ``client``."""
        if not isinstance(cast("object", update), Mapping):
            message = f"{client}: the update is a {type(update).__name__}, expected a dictionary of arrays"
            raise ConfigError(message)
        if not update:
            message = f"{client}: the update has no arrays"
            raise ConfigError(message)
        arrays = {name: as_numpy(array, name, client) for name, array in update.items()}
        return cls(
            {name: array.shape for name, array in arrays.items()},
            {name: array.dtype for name, array in arrays.items()},
        )

    @property
    def names(self) -> list[str]:
        """Names of the tensors."""
        return list(self.shapes)

    @property
    def engine_dtypes(self) -> list[str]:
        """Dtype of each tensor in the engine."""
        return ["float64" if dtype.kind in "iu" else dtype.name for dtype in self.dtypes.values()]

    @property
    def lengths(self) -> list[int]:
        """Number of elements of each tensor."""
        return [int(np.prod(shape, dtype=np.int64)) for shape in self.shapes.values()]

    def read(self, update: Update, client: str) -> list[Any]:
        """Return the arrays of ``update`` for the engine, without a copy where it is in C order.

        Raises
        ------
        ConfigError
            If a tensor is missing, is one too many, or has another shape or dtype.
        """
        if not isinstance(cast("object", update), Mapping):
            message = f"{client}: the update is a {type(update).__name__}, expected a dictionary of arrays"
            raise ConfigError(message)
        if missing := [name for name in self.shapes if name not in update]:
            message = f"{client}: {missing[0]} is missing, which other updates have"
            raise ConfigError(message)
        if unknown := [name for name in update if name not in self.shapes]:
            message = f"{client}: {unknown[0]} is not in other updates"
            raise ConfigError(message)
        return [self._read(name, update[name], client) for name in self.shapes]

    def _read(self, name: str, value: Any, client: str) -> Any:
        array = as_numpy(value, name, client)
        for what, found, expected in (
            ("shape", array.shape, self.shapes[name]),
            ("dtype", array.dtype, self.dtypes[name]),
        ):
            if found != expected:
                message = f"{client}: {name} has {what} {found}, expected {expected} as in other updates"
                raise ConfigError(message)
        if array.dtype.kind in "iu":
            array = array.astype(np.float64)
        array = np.ascontiguousarray(array)
        return array.view(np.uint16) if array.dtype.itemsize == np.uint16().itemsize else array

    def write(self, arrays: Sequence[Any]) -> dict[str, np.ndarray[Any, Any]]:
        """Return flat arrays of the engine by name, in the dtypes and shapes of the updates."""
        return {
            name: _restore(array, dtype).reshape(shape)
            for (name, shape), dtype, array in zip(
                self.shapes.items(), self.dtypes.values(), arrays, strict=True
            )
        }


def _restore(array: Any, dtype: np.dtype[Any]) -> Any:
    if dtype.kind in "iu":
        # Counters are averaged too, as whole numbers.
        return np.rint(array).astype(dtype)
    return array.view(dtype) if array.dtype != dtype else array


def as_numpy(value: Any, name: str, client: str) -> Any:
    """Return a tensor as a numpy array, without a copy where its library allows.

    Raises
    ------
    ConfigError
        If it is no array of numbers of a supported dtype.
    """
    if type(value).__module__.partition(".")[0] == "mlx":
        value = _from_mlx(value)
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        message = f"{client}: {name} is no array ({error})"
        raise ConfigError(message) from error
    if array.dtype.kind in "iu" or array.dtype.name in DTYPES:
        # The engine reads numbers in the byte order of the machine.
        return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    message = f"{client}: {name} has dtype {array.dtype}, expected {', '.join(DTYPES)} or integers"
    raise ConfigError(message)


def _from_mlx(array: Any) -> Any:
    """Return an ``mlx.core.array`` as numpy's; bfloat16 needs ``ml_dtypes``."""
    import mlx.core as mx

    if array.dtype != mx.bfloat16:
        return np.asarray(array)
    import ml_dtypes

    return np.asarray(array.view(mx.uint16)).view(ml_dtypes.bfloat16)
