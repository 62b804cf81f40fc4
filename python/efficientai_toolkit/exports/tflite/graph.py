"""Graphs under construction, in the objects of LiteRT's schema."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from efficientai_toolkit._base.extras import require
from efficientai_toolkit._base.version import __version__

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIGNATURE = "serving_default"
"""Name under which runtimes find inputs and outputs by their names."""

_TYPES = {"float32": "FLOAT32", "float16": "FLOAT16", "int32": "INT32"}
_CODES = {4: "INT4", 8: "INT8"}
"""Types of codes by their bits."""

_ALIGNMENT = 16
"""Bytes; what runtimes expect of weights that they map."""

_BEYOND = 1 << 16
"""Bytes of a file beside weights, operators and tensors."""

_EACH = 1 << 10
"""Most bytes of the description of an operator, or of a tensor without scales."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value of the graph."""

    index: int
    shape: tuple[int, ...]


class Graph:
    """A graph under construction. Methods return the tensor that they add."""

    def __init__(self) -> None:
        self._schema: Any = require(
            "ai_edge_litert.schema_py_generated", extra="tflite", purpose="the LiteRT export"
        )
        # What has no numbers shares the first one, which is empty.
        self._buffers: list[Any] = [self._schema.BufferT()]
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._kinds: list[tuple[int, int]] = []
        self._inputs: dict[str, Tensor] = {}
        self._outputs: dict[str, Tensor] = {}

    def input(self, name: str, shape: tuple[int, ...], dtype: str) -> Tensor:
        """Add an input."""
        self._inputs[name] = self._tensor(name, shape, _TYPES[dtype])
        return self._inputs[name]

    def output(self, name: str, tensor: Tensor) -> None:
        """Declare an output."""
        self._outputs[name] = tensor

    def constant(self, name: str, array: "NDArray[Any]") -> Tensor:
        """Add numbers."""
        return self._tensor(name, array.shape, _TYPES[str(array.dtype)], self._buffer(array))

    def coded(
        self, name: str, codes: "NDArray[np.uint8]", shape: tuple[int, int], scales: "NDArray[Any]", bits: int
    ) -> Tensor:
        """Add packed codes with a scale for each row, or ``[rows, blocks]`` for each block of columns."""
        schema = self._schema
        if scales.ndim == 1:
            details = schema.QuantizationParametersT(scale=scales, zeroPoint=np.zeros(len(scales), np.int64))
        else:
            details = schema.QuantizationParametersT(
                detailsType=schema.QuantizationDetails.BlockwiseQuantization,
                details=schema.BlockwiseQuantizationT(
                    scales=self.constant(f"{name}.scales", scales).index,
                    # Zero is the middle of all codes.
                    zeroPoints=-1,
                    blockSize=shape[1] // scales.shape[1],
                ),
            )
        return self._tensor(name, shape, _CODES[bits], self._buffer(codes), details)

    def op(
        self,
        kind: str,
        *inputs: Tensor | None,
        shape: tuple[int, ...],
        dtype: str = "float32",
        version: int = 1,
        options: str | None = None,
        **values: Any,
    ) -> Tensor:
        """Add an operator of the schema; ``options`` is the name of what holds ``values``."""
        schema = self._schema
        key = (getattr(schema.BuiltinOperator, kind), version)
        if key not in self._kinds:
            self._kinds.append(key)
        output = self._tensor(f"{kind.lower()}_{len(self._operators)}", shape, _TYPES[dtype])
        self._operators.append(
            schema.OperatorT(
                opcodeIndex=self._kinds.index(key),
                # -1 stands for an input that is left out.
                inputs=[-1 if each is None else each.index for each in inputs],
                outputs=[output.index],
                builtinOptionsType=getattr(schema.BuiltinOptions, options or "NONE"),
                builtinOptions=None if options is None else getattr(schema, f"{options}T")(**values),
            )
        )
        return output

    def save(self, file: BinaryIO) -> None:
        """Write the file. Weights are given up on the way, so that they are in memory once."""
        weights = sum(each.data.nbytes for each in self._buffers if each.data is not None)
        details = [each.quantization for each in self._tensors if each.quantization]
        scales = sum(12 * len(each.scale) for each in details if each.scale is not None)
        parts = _EACH * (len(self._tensors) + len(self._operators))
        flatbuffers = require("flatbuffers", extra="tflite", purpose="the LiteRT export")
        builder: Any = flatbuffers.Builder(weights + scales + parts + _BEYOND)
        builder.Finish(self._model().Pack(builder), b"TFL3")
        file.write(memoryview(builder.Bytes)[builder.Head() :])

    def _model(self) -> Any:
        schema = self._schema
        graph = schema.SubGraphT(
            name="main",
            tensors=self._tensors,
            operators=self._operators,
            inputs=[each.index for each in self._inputs.values()],
            outputs=[each.index for each in self._outputs.values()],
        )
        signature = schema.SignatureDefT(
            signatureKey=SIGNATURE,
            inputs=self._names(self._inputs),
            outputs=self._names(self._outputs),
        )
        return schema.ModelT(
            version=3,
            description=f"efficientai-toolkit {__version__}",
            operatorCodes=[
                # Runtimes of former times read one byte.
                schema.OperatorCodeT(deprecatedBuiltinCode=min(kind, 127), builtinCode=kind, version=version)
                for kind, version in self._kinds
            ],
            subgraphs=[graph],
            buffers=self._buffers,
            signatureDefs=[signature],
        )

    def _names(self, tensors: dict[str, Tensor]) -> list[Any]:
        return [
            self._schema.TensorMapT(name=name, tensorIndex=tensor.index) for name, tensor in tensors.items()
        ]

    def _tensor(
        self, name: str, shape: tuple[int, ...], kind: str, buffer: int = 0, quantization: Any = None
    ) -> Tensor:
        self._tensors.append(
            self._schema.TensorT(
                name=name,
                shape=list(shape),
                type=getattr(self._schema.TensorType, kind),
                buffer=buffer,
                quantization=quantization,
            )
        )
        return Tensor(len(self._tensors) - 1, shape)

    def _buffer(self, array: "NDArray[Any]") -> int:
        self._buffers.append(_aligned(self._schema, array))
        return len(self._buffers) - 1


def _aligned(schema: Any, array: "NDArray[Any]") -> Any:
    """Return a buffer whose bytes begin where runtimes expect them, unlike those of the schema."""

    class Buffer(schema.BufferT):  # type: ignore[misc]
        def Pack(self, builder: Any) -> int:  # noqa: N802
            data = cast("NDArray[np.uint8]", self.data)
            builder.StartVector(1, len(data), _ALIGNMENT)
            head = builder.Head() - len(data)
            builder.head = head
            builder.Bytes[head : head + len(data)] = data.data
            self.data: object = None
            vector = builder.EndVector()
            schema.BufferStart(builder)
            schema.BufferAddData(builder, vector)
            found: int = schema.BufferEnd(builder)
            return found

    return Buffer(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
