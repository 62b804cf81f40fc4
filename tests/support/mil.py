"""An interpreter of MIL programs, in numpy: what Core ML would compute, where there is no Core ML.

Every operation computes in float32 and rounds its result to the type that the program gives it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from coremltools.converters.mil.frontend.milproto.load import load
from coremltools.converters.mil.mil.types.type_mapping import nptype_from_builtin
from coremltools.models.utils import load_spec


class Interpreter:
    """Runs the program in a package; states begin as zeros and live as long as the interpreter."""

    def __init__(self, path: Path) -> None:
        spec = load_spec(str(path))
        weights = path / "Data" / "com.apple.CoreML" / "weights"
        self._function = load(spec, spec.specificationVersion, str(weights)).functions["main"]
        self.version: int = spec.specificationVersion
        self.facts = dict(spec.description.metadata.userDefined)
        self._fixed: dict[str, np.ndarray] = {}
        self.states: dict[str, np.ndarray] = {}
        self.kinds: dict[str, str] = {}
        """Operations of constants and coded weights."""
        self.parts: dict[str, dict[str, np.ndarray]] = {}
        """What coded weights are made of."""
        for name, var in self._function.inputs.items():
            if hasattr(var.sym_type, "wrapped_type"):
                shape = var.sym_type.wrapped_type().get_shape()
                self.states[name] = np.zeros(shape, np.float16)
        self.inputs = self._function.inputs.keys() - self.states
        self.outputs = [var.name for var in self._function.outputs]
        for operation in self._function.operations:
            self._fix(operation)

    def _fix(self, operation: Any) -> None:
        name, kind = operation.outputs[0].name, operation.op_type
        if kind == "const":
            self._fixed[name] = np.asarray(operation.outputs[0].val)
        elif kind.startswith("constexpr_"):
            inputs = operation.inputs.items()
            given = {key: self._fixed[var.name] for key, var in inputs if var is not None}
            rank = given["lut"].ndim if "lut" in given else 0
            self._fixed[name] = DECODERS[kind, rank](**given)
            self.parts[name] = given
        else:
            return
        self.kinds[name] = kind

    def weights(self) -> dict[str, np.ndarray]:
        """Constants and decoded weights by name."""
        return self._fixed

    def run(self, **inputs: np.ndarray) -> np.ndarray:
        """Return the output."""
        values: dict[str, Any] = {**self._fixed, **inputs}

        def find(var: Any) -> Any:
            if isinstance(var, list | tuple):
                return [find(each) for each in var]
            return var.name if var.name in self.states else values[var.name]

        for operation in self._function.operations:
            kind = operation.op_type
            if kind == "const" or kind.startswith("constexpr_"):
                continue
            given = {name: find(var) for name, var in operation.inputs.items() if var is not None}
            if kind == "read_state":
                results = [self.states[given["input"]].copy()]
            elif kind == "coreml_update_state":
                self.states[given["state"]] = given["value"].copy()
                results = [given["value"]]
            else:
                with np.errstate(over="ignore", invalid="ignore"):
                    found = globals()[f"op_{kind}"](**{name: _widen(value) for name, value in given.items()})
                results = found if isinstance(found, list) else [found]
            for var, result in zip(operation.outputs, results, strict=True):
                with np.errstate(over="ignore"):
                    values[var.name] = np.asarray(result).astype(nptype_from_builtin(var.dtype))
                assert values[var.name].ndim == len(var.shape), (kind, var.name)
                for size, declared in zip(values[var.name].shape, var.shape, strict=True):
                    assert not isinstance(declared, int) or size == declared, (kind, var.name)
        output: np.ndarray = values[self._function.outputs[0].name]
        return output


def _widen(value: Any) -> Any:
    if isinstance(value, list):
        return [_widen(each) for each in value]
    return value.astype(np.float32) if getattr(value, "dtype", None) == np.float16 else value


def decode_blockwise(data: np.ndarray, scale: np.ndarray, offset: np.ndarray | None = None) -> np.ndarray:
    """``scale * (data - offset)``, each of a block of columns and rows."""
    sizes = [whole // parts for whole, parts in zip(data.shape, scale.shape, strict=True)]
    spread = np.ones(sizes, np.float32)
    shift = 0 if offset is None else np.kron(offset.astype(np.float32), spread)
    return (np.kron(scale.astype(np.float32), spread) * (data.astype(np.float32) - shift)).astype(scale.dtype)


def decode_affine(quantized_data: Any, scale: Any, zero_point: Any, axis: Any) -> np.ndarray:
    """``scale * (data - zero_point)``, each of a row."""
    assert axis == 0
    shifted = quantized_data.astype(np.float32) - np.float32(zero_point)
    decoded: np.ndarray = (scale.astype(np.float32)[:, None] * shifted).astype(scale.dtype)
    return decoded


def decode_palettes(indices: np.ndarray, lut: np.ndarray) -> np.ndarray:
    """Numbers of a palette for each group of rows, ``[groups, 1, 16, 1]``."""
    rows = len(indices) // len(lut)
    parts = [lut[row // rows, 0, indices[row].astype(int), 0] for row in range(len(indices))]
    return np.stack(parts)


def decode_palette(indices: np.ndarray, lut: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Numbers of one palette, two codes in a byte, the first one lowest."""
    codes = np.stack([indices & 15, indices >> 4], -1).reshape(-1)[: int(np.prod(shape))]
    return lut[codes].reshape(shape)


DECODERS: dict[tuple[str, int], Any] = {
    ("constexpr_blockwise_shift_scale", 0): decode_blockwise,
    ("constexpr_affine_dequantize", 0): decode_affine,
    ("constexpr_lut_to_dense", 4): decode_palettes,
    ("constexpr_lut_to_dense", 1): decode_palette,
}
"""By operation and rank of the palette."""


def op_add(x: Any, y: Any) -> Any:
    return x + y


def op_sub(x: Any, y: Any) -> Any:
    return x - y


def op_mul(x: Any, y: Any) -> Any:
    return x * y


def op_greater(x: Any, y: Any) -> Any:
    return x > y


def op_greater_equal(x: Any, y: Any) -> Any:
    return x >= y


def op_select(cond: Any, a: Any, b: Any) -> Any:
    return np.where(cond, a, b)


def op_identity(x: Any) -> Any:
    return x


def op_cast(x: Any, dtype: Any) -> Any:
    del dtype  # that of the output
    return x


def op_square(x: Any) -> Any:
    return x * x


def op_rsqrt(x: Any, epsilon: Any) -> Any:
    return 1 / np.sqrt(x + epsilon)


def op_tanh(x: Any) -> Any:
    return np.tanh(x)


def op_silu(x: Any) -> Any:
    return x / (1 + np.exp(-x))


def op_gelu(x: Any, mode: Any) -> Any:
    if mode == "EXACT":
        return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def op_softmax(x: Any, axis: Any) -> Any:
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def op_reduce_mean(x: Any, axes: Any, keep_dims: Any) -> Any:
    return x.mean(axis=tuple(axes), keepdims=bool(keep_dims))


def op_linear(x: Any, weight: Any, bias: Any) -> Any:
    return x @ weight.T + bias


def op_matmul(x: Any, y: Any, transpose_x: Any = False, transpose_y: Any = False) -> Any:
    assert not transpose_x
    return x @ (y.swapaxes(-1, -2) if transpose_y else y)


def op_scaled_dot_product_attention(query: Any, key: Any, value: Any, attn_mask: Any) -> Any:
    scores = query @ key.swapaxes(-1, -2) / math.sqrt(query.shape[-1]) + attn_mask
    return op_softmax(scores, -1) @ value


def op_shape(x: Any) -> Any:
    return np.array(x.shape)


def op_range_1d(start: Any, end: Any, step: Any) -> Any:
    return np.arange(start, end, step)


def op_reshape(x: Any, shape: Any) -> Any:
    return x.reshape(shape)


def op_transpose(x: Any, perm: Any) -> Any:
    return x.transpose(perm)


def op_expand_dims(x: Any, axes: Any) -> Any:
    return np.expand_dims(x, tuple(axes))


def op_squeeze(x: Any, axes: Any) -> Any:
    return np.squeeze(x, tuple(axes))


def op_tile(x: Any, reps: Any) -> Any:
    return np.tile(x, reps)


def op_concat(values: Any, axis: Any, interleave: Any = False) -> Any:
    assert not interleave
    return np.concatenate(values, axis)


def op_split(x: Any, axis: Any, split_sizes: Any = None, num_splits: Any = None) -> list[Any]:
    if split_sizes is None:
        return np.split(x, int(num_splits), axis)
    return np.split(x, np.cumsum(split_sizes)[:-1], axis)


def op_gather(x: Any, indices: Any, axis: Any, batch_dims: Any = 0, validate_indices: Any = False) -> Any:
    assert batch_dims == 0
    del validate_indices
    return np.take(x, indices, axis)


def op_slice_by_size(x: Any, begin: Any, size: Any) -> Any:
    return x[tuple(slice(first, first + count) for first, count in zip(begin, size, strict=True))]


def op_slice_by_index(x: Any, begin: Any, end: Any, **masks: Any) -> Any:
    return x[_place(x, begin, end, **masks)]


def op_slice_update(x: Any, update: Any, begin: Any, end: Any, **masks: Any) -> Any:
    changed = x.copy()
    assert changed[_place(x, begin, end, **masks)].shape == update.shape
    changed[_place(x, begin, end, **masks)] = update
    return changed


def _place(
    x: Any,
    begin: Any,
    end: Any,
    begin_mask: Any = None,
    end_mask: Any = None,
    squeeze_mask: Any = None,
    stride: Any = None,
) -> tuple[Any, ...]:
    assert stride is None or (stride == 1).all()
    none = np.zeros(x.ndim, bool)
    begin_mask, end_mask, squeeze_mask = (
        none if mask is None else mask for mask in (begin_mask, end_mask, squeeze_mask)
    )
    place: list[Any] = []
    for axis in range(x.ndim):
        if squeeze_mask[axis]:
            place.append(begin[axis])
            continue
        first = 0 if begin_mask[axis] else begin[axis]
        last = x.shape[axis] if end_mask[axis] else end[axis]
        assert 0 <= first <= last <= x.shape[axis]
        place.append(slice(first, last))
    return tuple(place)


def logits(interpreter: Interpreter, ids: np.ndarray, sizes: list[int] | None = None) -> np.ndarray:
    """Logits of all tokens, ``[1, time, vocabulary]``; with a state read in pieces of ``sizes``."""
    if not interpreter.states:
        return interpreter.run(inputIds=ids.astype(np.int32)).astype(np.float32)
    found, past = [], 0
    for size in sizes or [ids.shape[1]]:
        positions = np.arange(past, past + size)[:, None]
        hidden = np.arange(past + size) > positions
        mask = np.where(hidden, np.float16(-np.inf), np.float16(0))[None, None]
        piece = ids[:, past : past + size].astype(np.int32)
        found.append(interpreter.run(inputIds=piece, causalMask=mask))
        past += size
    return np.concatenate(found, 1).astype(np.float32)
