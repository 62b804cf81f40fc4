"""Graphs under construction, whose weights go to a file at once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from efficientai_toolkit._base.version import __version__

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto, TensorProto, ValueInfoProto

CONTRIB = "com.microsoft"
"""Domain of onnxruntime's own operators."""

OPSET = 23
IR_VERSION = 11
"""Not the newest, which the onnxruntime of the day refuses."""

_DTYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "float16": 10}
"""Numbers that ONNX has for data types."""

_PAGE = 4096
"""Large tensors begin on a page, so that runtimes can map them."""


@dataclass(kw_only=True)
class Graph:
    """A graph under construction. Methods return the name of what they add."""

    data: BinaryIO
    """File of the weights, which are written when they are added: the graph holds none of them."""
    data_name: str
    """Name of that file, which lies beside the graph."""
    nodes: "list[NodeProto]" = field(default_factory=list["NodeProto"])
    initializers: "dict[str, TensorProto]" = field(default_factory=dict[str, "TensorProto"])
    inputs: "list[ValueInfoProto]" = field(default_factory=list["ValueInfoProto"])
    outputs: "list[ValueInfoProto]" = field(default_factory=list["ValueInfoProto"])

    def op(self, kind: str, *inputs: str, name: str, domain: str = "", **attributes: Any) -> str:
        """Add an operator whose output is called ``name``; an empty input is left out."""
        return self.ops(kind, *inputs, outputs=[name], domain=domain, **attributes)

    def ops(
        self, kind: str, *inputs: str, outputs: Sequence[str], domain: str = "", **attributes: Any
    ) -> str:
        """Add an operator with several outputs, of which an empty name leaves one out; return the first."""
        from onnx import helper

        node = helper.make_node(kind, inputs, outputs, name=outputs[0], domain=domain, **attributes)
        self.nodes.append(node)
        return outputs[0]

    def weight(self, name: str, array: "NDArray[Any]") -> str:
        """Write a tensor to the file of weights."""
        rows = np.ascontiguousarray(array)
        unit = _PAGE if rows.nbytes >= _PAGE else 64
        self.data.write(bytes(-self.data.tell() % unit))
        place = {"location": self.data_name, "offset": self.data.tell(), "length": rows.nbytes}
        self.data.write(rows.data)
        self._external(name, rows.shape, _DTYPES[str(rows.dtype)], place)
        return name

    def reshaped(self, name: str, shape: Sequence[int], like: str) -> str:
        """Add a tensor with the bytes of another one, which are stored once, in another shape."""
        other = self.initializers[like]
        place = {entry.key: entry.value for entry in other.external_data}
        self._external(name, shape, other.data_type, place)
        return name

    def constant(self, name: str, value: Any, dtype: str = "int64") -> str:
        """Add a small tensor to the graph itself."""
        from onnx import numpy_helper

        self.initializers[name] = numpy_helper.from_array(np.asarray(value, dtype), name)
        return name

    def input(self, name: str, dtype: str, shape: Sequence[int | str]) -> str:
        """Add an input, whose dimensions with names are dynamic."""
        self.inputs.append(_info(name, dtype, shape))
        return name

    def output(self, name: str, dtype: str, shape: Sequence[int | str]) -> None:
        """Declare an output."""
        self.outputs.append(_info(name, dtype, shape))

    def save(self, path: Path, name: str) -> None:
        """Write the graph itself."""
        from onnx import helper

        graph = helper.make_graph(
            self.nodes, name, self.inputs, self.outputs, list(self.initializers.values())
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)],
            ir_version=IR_VERSION,
            producer_name="efficientai-toolkit",
            producer_version=__version__,
        )
        path.write_bytes(model.SerializeToString())

    def _external(self, name: str, shape: Sequence[int], dtype: int, place: dict[str, Any]) -> None:
        from onnx import StringStringEntryProto, TensorProto

        self.initializers[name] = TensorProto(
            name=name,
            data_type=dtype,
            dims=shape,
            data_location=TensorProto.EXTERNAL,
            external_data=[StringStringEntryProto(key=key, value=str(value)) for key, value in place.items()],
        )


def _info(name: str, dtype: str, shape: Sequence[int | str]) -> "ValueInfoProto":
    from onnx import helper

    return helper.make_tensor_value_info(name, _DTYPES[dtype], shape)
