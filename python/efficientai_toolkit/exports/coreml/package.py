"""Packages: building them from a model, and reading their weights back."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from efficientai_toolkit.exceptions import DeploymentError
from efficientai_toolkit.exports.coreml.decoder import Decoder
from efficientai_toolkit.exports.coreml.library import import_coremltools, quiet
from efficientai_toolkit.exports.coreml.sequence import Sequence
from efficientai_toolkit.exports.coreml.targets import TARGETS
from efficientai_toolkit.exports.coreml.weights import Weights
from efficientai_toolkit.exports.outline import Outline

if TYPE_CHECKING:
    from numpy.typing import NDArray

IDS, MASK, STATES, LOGITS = "inputIds", "causalMask", ("keyCache", "valueCache"), "logits"
"""Names of inputs, states and the output."""


def build(weights: Weights, outline: Outline, *, target: str) -> Any:
    """Return the MIL program of a decoder."""
    import_coremltools()
    mil: Any = import_module("coremltools.converters.mil").mil
    types: Any = import_module("coremltools.converters.mil.mil").types

    symbols = [mil.get_new_symbol(), mil.get_new_symbol()]
    inputs: dict[str, Any] = {IDS: mil.Builder.placeholder((1, symbols[0]), dtype=types.int32)}
    if TARGETS[target].has_state:
        inputs[MASK] = mil.Builder.placeholder((1, 1, *symbols), dtype=types.fp16)
        shape = state_shape(outline)
        inputs |= {name: mil.Builder.state_tensor_placeholder(shape, dtype=types.fp16) for name in STATES}
    program: Any = mil.Program()
    with mil.Function(inputs, opset_version=_target(target)) as function:
        found = function.inputs
        states = tuple(found[name] for name in STATES) if MASK in found else None
        sequence = Sequence(found[IDS], found.get(MASK), states, outline)
        logits = Decoder(weights, outline).build(found[IDS], sequence)
        function.set_outputs([logits])
        program.add_function("main", function)
    return program


def state_shape(outline: Outline) -> tuple[int, int, int, int, int]:
    """Return the shape of keys, and of values."""
    first = outline.blocks[0]
    return len(outline.blocks), 1, first.kv_heads, outline.context_length, first.head_dim


def save(program: Any, path: Path, *, target: str, context_length: int, facts: Mapping[str, str]) -> None:
    """Write a program as a package."""
    ct: Any = import_coremltools()
    lengths = ct.RangeDim(1, context_length, default=1)
    inputs = [ct.TensorType(IDS, shape=(1, lengths), dtype=np.int32)]
    if TARGETS[target].has_state:
        shape = (1, 1, lengths, ct.RangeDim(1, context_length, default=1))
        inputs.append(ct.TensorType(MASK, shape=shape, dtype=np.float16))
    pipeline = ct.PassPipeline.DEFAULT
    # Equal weights keep their names.
    pipeline.remove_passes({"common::const_deduplication"})
    with quiet():
        model = ct.convert(
            program,
            inputs=inputs,
            outputs=[ct.TensorType(LOGITS, dtype=np.float16)],
            minimum_deployment_target=_target(target),
            # Numbers have the types that they should have already.
            compute_precision=ct.precision.FLOAT32,
            pass_pipeline=pipeline,
            skip_model_load=True,
        )
        model.user_defined_metadata.update(facts)
        model.save(str(path))


def _target(name: str) -> Any:
    return getattr(import_coremltools().target, name)


def load_program(path: Path) -> "list[Any]":
    """Return the operations of the program in a package.

    Raises
    ------
    DeploymentError
        If it is no package, or coremltools cannot read it.
    """
    import_coremltools()
    with quiet():
        load: Any = import_module("coremltools.converters.mil.frontend.milproto.load").load
        load_spec: Any = import_module("coremltools.models.utils").load_spec

        try:
            spec = load_spec(str(path))
            weights = path / "Data" / "com.apple.CoreML" / "weights"
            program = load(spec, spec.specificationVersion, str(weights))
        except Exception as error:
            message = f"{path}: coremltools cannot read the package back: {error}"
            raise DeploymentError(message) from error
    operations: list[Any] = program.functions["main"].operations
    return operations


def decode(operation: Any) -> "NDArray[np.float32]":
    """Return the numbers of a constant or coded weight."""
    is_constant = operation.op_type == "const"
    value = operation.outputs[0].val if is_constant else operation.materialized_val_inference()
    return np.asarray(value, np.float32)
