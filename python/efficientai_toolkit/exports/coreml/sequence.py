"""Where the tokens that a program reads stand, and what they may see."""

from importlib import import_module
from typing import Any

import numpy as np

from efficientai_toolkit.exports.outline import Outline, Rope

_NEVER = np.float16(-3e4)
"""Added to scores of tokens that must not be seen: exponentials of such numbers are 0 in float16."""


class Sequence:
    """Positions, masks and states of one prediction.

    ``mask`` is the input of that name, or ``None`` if the program has no state; ``states`` are those of keys
    and values.
    """

    def __init__(self, ids: Any, mask: Any, states: tuple[Any, Any] | None, outline: Outline) -> None:
        self._mb: Any = import_module("coremltools.converters.mil.mil").Builder
        self._outline = outline
        self.states = states
        queries = self._size(ids, 1)
        self.end = queries if mask is None else self._size(mask, 3)
        self.past = None if mask is None else self._mb.sub(x=self.end, y=queries)
        start = np.int32(0) if self.past is None else self.past
        self._positions = self._range(start)
        # [queries, 1] and [1, keys]
        self._queries = self._mb.expand_dims(x=self._positions, axes=[1])
        self._keys = self._mb.expand_dims(x=self._range(np.int32(0)), axes=[0])
        if mask is None:
            # [queries, keys]
            later = self._mb.greater(x=self._keys, y=self._queries)
            mask = self._mb.expand_dims(x=self._weigh(later), axes=[0, 1])
        self._masks: dict[tuple[int | None, int], Any] = {(None, 1): mask}
        self._tables: dict[Rope, tuple[Any, Any]] = {}
        self._contents: dict[str, Any] = {}

    def read(self, state: Any) -> Any:
        """Return what a state holds now.

        It is read once: a pass of coremltools takes all readings for the same, whatever was written in
        between.
        """
        if state.name not in self._contents:
            self._contents[state.name] = self._mb.read_state(input=state)
        return self._contents[state.name]

    def wrote(self, state: Any, value: Any) -> None:
        """Note what a state holds after a change."""
        self._contents[state.name] = value

    def mask(self, window: int | None, groups: int) -> Any:
        """Return what is added to scores, ``[1, 1, groups * queries, keys]``.

        ``window`` is how many tokens a query sees, ``None`` for all; ``groups`` how often the mask is
        repeated.
        """
        mb, key = self._mb, (window, groups)
        if key not in self._masks:
            if window is None or groups > 1:
                self._masks[key] = mb.tile(x=self.mask(window, 1), reps=[1, 1, groups, 1])
            else:
                distance = mb.sub(x=self._queries, y=self._keys)
                far = mb.greater_equal(x=distance, y=np.int32(window))
                self._masks[key] = mb.add(x=self.mask(None, 1), y=self._weigh(far))
        return self._masks[key]

    def rotation(self, rope: Rope) -> tuple[Any, Any]:
        """Return cosines and sines of the tokens that are read, ``[queries, pairs]``."""
        mb = self._mb
        if rope not in self._tables:
            length, number = self._outline.context_length, len(self._tables)
            tables = (
                mb.const(val=rope.table(function, length, "float16"), name=f"{name}_{number}")
                for name, function in (("cosines", np.cos), ("sines", np.sin))
            )
            cosines, sines = (mb.gather(x=table, indices=self._positions, axis=0) for table in tables)
            self._tables[rope] = cosines, sines
        return self._tables[rope]

    def _size(self, x: Any, axis: int) -> Any:
        mb = self._mb
        return mb.squeeze(x=mb.slice_by_size(x=mb.shape(x=x), begin=[axis], size=[1]), axes=[0])

    def _range(self, start: Any) -> Any:
        """Add the positions from ``start`` to the end."""
        return self._mb.range_1d(start=start, end=self.end, step=np.int32(1))

    def _weigh(self, hidden: Any) -> Any:
        mb = self._mb
        return mb.mul(x=mb.cast(x=hidden, dtype="fp16"), y=_NEVER)
