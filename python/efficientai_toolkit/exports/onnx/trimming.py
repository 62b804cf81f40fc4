"""Leaving out logits that nobody reads.

The graph on disk has the inputs that every runtime knows, and gives logits of all positions: of a long
prompt that is much work, and memory, for one row that is used.
"""

from pathlib import Path

import numpy as np

HIDDEN = "model.norm.output"
"""What the output head reads."""

FIRST_POSITION = "first_position"
"""Input of the changed graph: first of the positions whose logits are computed; negative ones count from
the end."""


def load_trimmed(path: Path) -> bytes:
    """Return the graph in a file, without its weights, with one more input."""
    from onnx import ModelProto, TensorProto, helper, numpy_helper

    model = ModelProto.FromString(path.read_bytes())
    graph = model.graph
    place = next(index for index, node in enumerate(graph.node) if HIDDEN in node.output)
    kept = f"{HIDDEN}.kept"
    for node in graph.node:
        node.input[:] = [kept if name == HIDDEN else name for name in node.input]
    constants = {f"{kept}.end": np.iinfo(np.int64).max, f"{kept}.axis": 1}
    graph.initializer.extend(
        numpy_helper.from_array(np.array([value]), name) for name, value in constants.items()
    )
    inputs = [HIDDEN, FIRST_POSITION, *constants]
    graph.node.insert(place + 1, helper.make_node("Slice", inputs, [kept], name=kept))
    graph.input.append(helper.make_tensor_value_info(FIRST_POSITION, TensorProto.INT64, [1]))
    changed: bytes = model.SerializeToString()
    return changed
