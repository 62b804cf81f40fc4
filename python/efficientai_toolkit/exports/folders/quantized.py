"""Writers of folders with quantized weights."""

from abc import abstractmethod
from collections import Counter
from typing import TYPE_CHECKING, Any

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.exports import blocks
from efficientai_toolkit.exports.folders.awq import AwqLayout
from efficientai_toolkit.exports.folders.compressed_tensors import IntQuantizedLayout, PackQuantizedLayout
from efficientai_toolkit.exports.folders.gptq import GptqLayout
from efficientai_toolkit.exports.folders.grid import Grid, fit, round_rows
from efficientai_toolkit.exports.folders.layout import Layer, Layout
from efficientai_toolkit.exports.folders.plan import Plan, make_plan
from efficientai_toolkit.exports.folders.shards import Shards, StoredTensors
from efficientai_toolkit.exports.folders.writer import FolderWriter, layer_names, take
from efficientai_toolkit.exports.parameters import Parameters
from efficientai_toolkit.exports.writer import Job, Written

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BITS = {"auto": None, "int4": 4, "int8": 8, "w8a8": 8}
_WAY_OUT = "allow it (`requantize`), or choose another format"


class QuantizedWriter(FolderWriter):
    """Writes linear layers in codes; embeddings and the output head stay numbers."""

    _plan: Plan

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.layout = self.choose_layout()
        self._counts: Counter[str] = Counter()

    @abstractmethod
    def choose_layout(self) -> Layout:
        """Return the layout that the settings ask for."""

    def prepare(self, parameters: Parameters) -> str:
        """Plan the layers; return the data type of scales and everything dense."""
        config = self.job.config
        model, _ = self.job.loaded
        self._plan = make_plan(
            model, parameters, self.layout, bits=_BITS[str(config.type)], group_size=config.columns_per_scale
        )
        if not config.requantize:
            for path, layer in self._plan.layers.items():
                mode, bits, _ = parameters.formats.get(path, ("affine", 0, 0))
                if mode != "affine" or bits > layer.bits or (bits and self.layout.by_row):
                    self._refuse(
                        f"{path} is in {bits} bits ({mode}), which {config.format} would round again"
                    )
        return self.layout.dtype or model.dtype

    def add_tensors(self, parameters: Parameters, shards: Shards) -> None:
        """Write codes of planned layers, and everything else as it is."""
        for name in layer_names(parameters):
            path = name.removesuffix(".weight")
            layer = self._plan.layers.get(path) if name != path else None
            if layer is None:
                shards.add(name, take(parameters, name))
                continue
            for part, array in self.layout.pack(self._grid(parameters, path, layer)).items():
                shards.add(f"{path}.{part}", array)

    def read_tensor(self, stored: StoredTensors, name: str) -> "NDArray[np.float32]":
        """Return the parameter called ``name`` as the folder has it."""
        path = name.removesuffix(".weight")
        layer = self._plan.layers.get(path) if name != path else None
        if layer is None:
            return stored.read(name)
        prefix = f"{path}."
        parts = {part.removeprefix(prefix) for part in stored.names if part.startswith(prefix)} - {"bias"}
        return self.layout.unpack({part: stored.read(prefix + part) for part in parts}, layer)

    def quantization_config(self) -> dict[str, Any]:
        """Return what ``config.json`` tells about quantized weights."""
        return self.layout.describe(self._plan.layers, self._plan.dense)

    def describe_written(self, parameters: Parameters) -> Written:
        """Return what was written, and what is not as it was."""
        counts, plan = self._counts, self._plan
        notes: list[str] = []
        if counts["dense"]:
            notes.append(
                f"{counts['dense']} layers were rounded to nearest; quantized-model-benchmarks:quantize "
                "--no-range-search loses less with calibration text, and its codes stay as they are"
            )
        if counts["again"]:
            notes.append(f"{counts['again']} quantized layers were rounded again")
        if counts["moved"]:
            narrow = any(layer.bits < max(self.layout.bits) for layer in plan.layers.values())
            notes.append(
                f"{counts['moved']:,} groups have zero points between two numbers, which were rounded; they "
                "are whole numbers after quantized-model-benchmarks:quantize --no-range-search"
                + (", and type int8 comes closer" if narrow else "")
            )
        if counts["rounded"]:
            notes.append(
                f"{counts['rounded']:,} groups have zero points out of range, and were rounded again"
            )
        if plan.unfit:
            notes.append(f"{plan.unfit} layers stay dense: they do not fill words of 32 bits")
        tables = sum(1 for path in parameters.formats if path not in plan.layers)
        if tables:
            notes.append(f"{tables} quantized layers became dense, as embeddings and output heads are here")
        types = Counter(f"int{layer.bits}" for layer in plan.layers.values())
        dense = len(layer_names(parameters)) - len(plan.layers)
        return Written(notes=notes, types={**types, self.layout.dtype or self.job.loaded[0].dtype: dense})

    def _grid(self, parameters: Parameters, path: str, layer: Layer) -> Grid:
        """Return the layer's weight on its grid."""
        mode, bits, _ = parameters.formats.get(path, ("", 0, 0))
        if mode == "affine" and bits <= layer.bits and not self.layout.by_row:
            parts: Any = parameters.take_parts(path)
            codes, scales, biases = parts
            rows = codes.shape[0]
            plain = blocks.unpack(codes.view("uint8").reshape(rows, -1), bits)
            found = fit(plain, scales, biases, stored_bits=bits, bits=layer.bits)
            self._counts["moved"] += found.moved
            self._counts["rounded"] += found.rounded
            if (found.moved or found.rounded) and not self.job.config.requantize:
                count, top = found.moved + found.rounded, (1 << layer.bits) - 1
                self._refuse(f"{path} has {count} groups whose zero point is no whole number from 0 to {top}")
            return found.grid.split(layer.group_size)
        weight = parameters.take_matrix(path)
        self._counts["again" if mode else "dense"] += 1
        if self.layout.by_row:
            return round_rows(weight)
        codes, scales, biases = blocks.quantize(weight, bits=layer.bits, group_size=layer.group_size)
        plain = blocks.unpack(codes.view("uint8").reshape(len(weight), -1), layer.bits)
        return fit(plain, scales, biases, stored_bits=layer.bits, bits=layer.bits, weight=weight).grid

    def _refuse(self, what: str) -> None:
        message = f"{self.job.loaded[0].path}: {what}: {_WAY_OUT}"
        raise ConfigError(message)


class AwqWriter(QuantizedWriter):
    """Writes AWQ checkpoints."""

    def choose_layout(self) -> Layout:
        """Return AutoAWQ's layout."""
        return AwqLayout()


class GptqWriter(QuantizedWriter):
    """Writes GPTQ checkpoints."""

    def choose_layout(self) -> Layout:
        """Return the version that is asked for."""
        return GptqLayout(self.job.config.checkpoint_format)


class CompressedTensorsWriter(QuantizedWriter):
    """Writes checkpoints of compressed-tensors."""

    def choose_layout(self) -> Layout:
        """Return the layout of integers for 8-bit activations, else the packed one."""
        return IntQuantizedLayout() if self.job.config.type == "w8a8" else PackQuantizedLayout()
