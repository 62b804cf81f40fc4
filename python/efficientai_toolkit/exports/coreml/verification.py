"""Comparing the weights in a package with those of the model that it was made from."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from efficientai_toolkit.exceptions import DeploymentError
from efficientai_toolkit.exports.coreml.package import decode, load_program
from efficientai_toolkit.exports.coreml.weights import legal
from efficientai_toolkit.exports.types import is_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from efficientai_toolkit.exports.parameters import Parameters


def compare(parameters: "Parameters", path: Path, norm_offset: float) -> float:
    """Return the largest difference of a weight, relative to the largest one of its layer.

    Raises
    ------
    DeploymentError
        If the package lacks one.
    """
    found = {operation.outputs[0].name: operation for operation in load_program(path)}
    largest = 0.0
    for name in parameters.shapes:
        if name.endswith((".scales", ".biases")):
            continue
        if legal(name) not in found:
            message = f"{path}: {name} is missing: the package cannot be used"
            raise DeploymentError(message)
        if is_matrix(name):
            expected: NDArray[Any] = parameters.take_matrix(name.removesuffix(".weight"))
        else:
            expected = parameters.take(name) + np.float32(norm_offset * name.endswith("norm.weight"))
        difference = float(np.abs(decode(found[legal(name)]) - expected).max(initial=0))
        largest = max(largest, difference / max(float(np.abs(expected).max(initial=0)), 1e-30))
    return largest
