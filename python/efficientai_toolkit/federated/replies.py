"""Replies of clients, which may be damaged or hostile: checked against the global model before use."""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy

from efficientai_toolkit.federated import flower

try:
    flower.silence()
    from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
except ImportError as error:
    raise flower.missing(error) from error

if TYPE_CHECKING:
    from flwr.app import Message
    from numpy.typing import NDArray

Arrays = dict[str, "NDArray[Any]"]
"""Arrays by name."""

_HEADER = 4096
"""Largest header of an array in bytes."""


class BadReplyError(ValueError):
    """A reply that cannot be used; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Update:
    """A reply that can be aggregated."""

    node: int
    arrays: Arrays
    """The client's new arrays, of the shapes and names of the global ones."""
    examples: float
    """Number of examples it was trained on."""
    metrics: dict[str, float]
    """Further metrics, such as ``loss``."""


def read_update(
    message: "Message",
    expected: Mapping[str, "NDArray[Any]"],
    *,
    weighted_by: str,
    max_examples: float | None = None,
) -> Update:
    """Read a reply of training.

    Parameters
    ----------
    message
        Reply of a client.
    expected
        The global arrays.
    weighted_by
        Metric with the number of examples.
    max_examples
        Largest number of examples that a client may claim.

    Raises
    ------
    BadReplyError
        If the client failed, or arrays or metrics are not as expected; before memory is taken for them.
    """
    if message.has_error():
        reason = " ".join((message.error.reason or "no reason given").split())
        failed = f"the client failed: {reason[:300]}"
        raise BadReplyError(failed)
    content = message.content
    records = list(content.array_records.values())
    if len(records) != 1:
        problem = f"expected one ArrayRecord, found {len(records)}"
        raise BadReplyError(problem)
    metrics = read_metrics(content)
    examples = metrics.pop(weighted_by, math.nan)
    if not examples > 0 or not math.isfinite(examples) or (max_examples and examples > max_examples):
        most = f" and at most {max_examples:g}" if max_examples else ""
        problem = f"`{weighted_by}` is {examples:g}, expected a number above 0{most}"
        raise BadReplyError(problem)
    arrays = _read_arrays(records[0], expected)
    return Update(node=message.metadata.src_node_id, arrays=arrays, examples=examples, metrics=metrics)


def read_metrics(content: RecordDict) -> dict[str, float]:
    """Return the scalar metrics of a reply.

    Raises
    ------
    BadReplyError
        If there is not one ``MetricRecord``.
    """
    records = list(content.metric_records.values())
    if len(records) != 1:
        problem = f"expected one MetricRecord, found {len(records)}"
        raise BadReplyError(problem)
    return {str(key): float(value) for key, value in records[0].items() if isinstance(value, int | float)}


def _read_arrays(record: ArrayRecord, expected: Mapping[str, "NDArray[Any]"]) -> Arrays:
    # Another model, or a part of one.
    if missing := [name for name in expected if name not in record]:
        problem = f"the array {missing[0]!r} is missing; does the client train another model?"
        raise BadReplyError(problem)
    if unknown := [name for name in record if name not in expected]:
        problem = f"the array {unknown[0]!r} is unknown; does the client train another model?"
        raise BadReplyError(problem)
    arrays = {name: decode(record[name], like, name) for name, like in expected.items()}
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            problem = f"the array {name!r} has values that are not finite"
            raise BadReplyError(problem)
    return arrays


def decode(array: Array, like: "NDArray[Any]", name: str) -> "NDArray[Any]":
    """Return the values of an array of the same shape and kind as ``like``, without a copy.

    Raises
    ------
    BadReplyError
        If what its header says is something else.
    """
    size = len(array.data)
    if size > like.size * 8 + _HEADER:
        problem = f"the array {name!r} has {size:,} bytes, expected one of the shape {list(like.shape)}"
        raise BadReplyError(problem)
    stream = io.BytesIO(array.data)
    try:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(stream, max_header_size=_HEADER)
    except (ValueError, EOFError) as error:
        problem = f"the array {name!r} is damaged: {error}"
        raise BadReplyError(problem) from error
    is_similar = dtype.kind == like.dtype.kind or {dtype.kind, like.dtype.kind} <= set("iu")
    if shape != like.shape or not is_similar:
        problem = (
            f"the array {name!r} is {dtype}{list(shape)}, expected {like.dtype}{list(like.shape)}; does the "
            "client train another model?"
        )
        raise BadReplyError(problem)
    start = stream.tell()
    if size - start != like.size * dtype.itemsize:
        problem = f"the array {name!r} is cut off or has bytes behind its end"
        raise BadReplyError(problem)
    values = np.frombuffer(array.data, dtype, offset=start)
    return values.reshape(shape, order="F" if fortran else "C")


def to_record(arrays: Mapping[str, "NDArray[Any]"]) -> ArrayRecord:
    """Pack arrays for a message."""
    return ArrayRecord({name: Array(np.ascontiguousarray(array)) for name, array in arrays.items()})


def from_record(record: ArrayRecord) -> Arrays:
    """Unpack arrays of a message that this side trusts: a client those of its server."""
    return {name: array.numpy() for name, array in record.items()}


def read_question(message: "Message") -> tuple[Arrays, int]:
    """Return the global arrays and the number of the round of a message to a client."""
    arrays = next(iter(message.content.array_records.values()))
    settings = next(iter(message.content.config_records.values()))
    return from_record(arrays), int(str(settings["server-round"]))


def to_metrics(metrics: Mapping[str, float]) -> MetricRecord:
    """Pack metrics for a message."""
    return MetricRecord({name: float(value) for name, value in metrics.items()})
