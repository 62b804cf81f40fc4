"""Running a decoder of the ONNX export, with keys and values in buffers that grow in place."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from efficientai_toolkit._base.extras import require
from efficientai_toolkit.exceptions import ModelLoadingError
from efficientai_toolkit.exports.onnx.trimming import FIRST_POSITION, load_trimmed

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16"}

_PAST = "past_key_values."

_WEIGHTS = "session.model_external_initializers_file_folder_path"
"""Where the file of weights lies, for a graph that is given as bytes."""

_OPTIONS = {
    # Denormal numbers slow products down and change nothing.
    "session.set_denormal_as_zero": "1",
    # Parts of work get smaller towards its end, for machines whose cores are not alike, or not idle.
    "session.dynamic_block_base": "4",
}
"""Entries of the configuration that help on CPUs."""


class Cache:
    """Keys and values of the tokens of some rows."""

    def __init__(self, buffers: "dict[str, Any]", capacity: int) -> None:
        self.buffers = buffers
        """By the name of the input."""
        self.capacity = capacity
        self.length = 0


class Runner:
    """A session of onnxruntime."""

    def __init__(
        self,
        path: Path,
        *,
        providers: Sequence[str],
        threads: int | None,
        entries: Mapping[str, str],
    ) -> None:
        require("onnx", extra="onnx", purpose="running an ONNX export")
        self._onnxruntime = require("onnxruntime", extra="onnx", purpose="running an ONNX export")
        options = self._onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        for name, value in {**_OPTIONS, _WEIGHTS: str(path.parent), **entries}.items():
            options.add_session_config_entry(name, value)
        try:
            graph = load_trimmed(path)
            self._session = self._onnxruntime.InferenceSession(graph, options, providers=list(providers))
        except Exception as error:
            message = f"{path}: onnxruntime cannot load it: {error}"
            raise ModelLoadingError(message) from error
        found = {each.name: each for each in self._session.get_inputs()}
        self._caches = {
            name: (each.shape, _DTYPES.get(each.type))
            for name, each in found.items()
            if name.startswith(_PAST)
        }
        for name, (shape, dtype) in self._caches.items():
            if dtype is None or [type(size) for size in shape] != [str, int, str, int]:
                message = f"{path}: {name} is {found[name].type} {shape}, no cache that the ONNX export wrote"
                raise ModelLoadingError(message)
        self.providers: list[str] = self._session.get_providers()

    def new_cache(self, rows: int, capacity: int) -> Cache:
        """Set memory aside for ``capacity`` tokens in each row."""
        make = self._onnxruntime.OrtValue.ortvalue_from_numpy
        buffers = {
            name: make(np.zeros((rows, shape[1], capacity, shape[3]), dtype))
            for name, (shape, dtype) in self._caches.items()
        }
        return Cache(buffers, capacity)

    def run(
        self,
        ids: "NDArray[np.int64]",
        cache: Cache,
        *,
        mask: "NDArray[np.int64] | None" = None,
        first: int = 0,
    ) -> "NDArray[np.float32]":
        """Read ``ids``, ``[rows, time]``, behind the tokens of ``cache``, and return logits.

        Parameters
        ----------
        ids
            Token ids; shorter rows are filled up at their end.
        cache
            Keys and values, to which those of ``ids`` are added.
        mask
            1 for tokens, also those of the cache, and 0 for what fills rows up, ``[rows, time]``; ``None`` if
            all are tokens.
        first
            First of the positions whose logits are computed; negative ones count from the end.
        """
        length = cache.length + ids.shape[1]
        binding = self._session.io_binding()
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input(
            "attention_mask", np.ones((len(ids), length), np.int64) if mask is None else mask
        )
        binding.bind_cpu_input(FIRST_POSITION, np.array([first], np.int64))
        for name, buffer in cache.buffers.items():
            binding.bind_ortvalue_input(name, buffer)
            binding.bind_ortvalue_output(name.replace(_PAST, "present."), buffer)
        binding.bind_output("logits")
        self._session.run_with_iobinding(binding)
        cache.length = length
        logits: NDArray[np.float32] = binding.get_outputs()[-1].numpy()
        return logits
