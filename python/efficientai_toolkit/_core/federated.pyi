"""
Updates of many clients.
"""

from _typeshed import Incomplete, SupportsGetItem
from collections.abc import Mapping
from typing import Any, SupportsFloat, SupportsIndex, final

__all__ = ["Accumulator", "aggregate", "decode", "encode", "wire_bytes"]

@final
class Accumulator:
    """
    A weighted average of updates that come one by one, in the memory of one update in float64.
    """
    def __new__(cls, /, names: SupportsGetItem[int, str], lengths: SupportsGetItem[int, SupportsIndex]) -> Accumulator:
        """
        Sums of tensors of these names and numbers of elements.
        """
    def add(self, /, client: str, update: SupportsGetItem[int, Any], dtypes: SupportsGetItem[int, str], weight: SupportsFloat | SupportsIndex) -> None:
        """
        Adds the update of ``client``, or none of it.
        """
    def average(self, /, dtypes: SupportsGetItem[int, str]) -> list[Any]:
        """
        The average so far, as flat arrays.
        """
    @property
    def count(self, /) -> int:
        """
        Number of updates so far.
        """
    @property
    def weight(self, /) -> float:
        """
        Sum of their weights.
        """

def aggregate(names: SupportsGetItem[int, str], dtypes: SupportsGetItem[int, str], clients: SupportsGetItem[int, str], updates: SupportsGetItem[int, SupportsGetItem[int, Any]], weights: SupportsGetItem[int, SupportsFloat | SupportsIndex] | None, reference: SupportsGetItem[int, Any] | None, rule: str, options: Mapping[str, Any]) -> tuple[list[Any], str]:
    """
    Aggregates updates; returns flat arrays in the order of ``names``, and a JSON report.

    ``updates`` are arrays in C order by client, float16 and bfloat16 as uint16.
    """

def decode(codec: str, message: bytes, shape: SupportsGetItem[int, SupportsIndex]) -> Any:
    """
    Decodes a tensor of ``shape`` as a flat float32 array.
    """

def encode(codec: str, values: Incomplete, shape: SupportsGetItem[int, SupportsIndex], seed: SupportsIndex, previous: bytes | None) -> bytes:
    """
    Encodes float64 ``values`` of ``shape``.
    """

def wire_bytes(codec: str, shape: SupportsGetItem[int, SupportsIndex]) -> int:
    """
    Bytes of a tensor of ``shape``; ``codec`` is the JSON of a ``Codec``.
    """
