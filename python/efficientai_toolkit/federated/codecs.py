"""Updates as bytes, with what is lost kept for the next round.

>>> import numpy as np
>>> from efficientai_toolkit.federated import codecs
>>> codec = codecs.Codec("sign")
>>> feedback = codecs.ErrorFeedback(codec)
>>> messages = feedback.encode({"w": np.float32([1, -2, 3])})
>>> codec.decode(messages, {"w": (3,)})
{'w': array([ 2., -2.,  2.], dtype=float32)}
>>> feedback.residual
{'w': array([-1.,  0.,  1.])}
"""

import json
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.federated.arrays import Update, as_numpy

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of every tensor by name."""


class Codec:
    """A way to write tensors as bytes.

    ============== ============================================= =================== =====================
    ``name``       what is sent                                  bits of n numbers   options
    ============== ============================================= =================== =====================
    ``fp16``       nearest float16                               16n
    ``int8``       255 steps up to the largest magnitude         8n + 32
    ``qsgd``       steps up to the norm, rounded by chance       ⌈log₂(2s+1)⌉n + 32  ``levels`` s
    ``sign``       signs and the mean magnitude                  n + 32
    ``top_k``      the k numbers of largest magnitude            (⌈log₂ n⌉ + 32)k    ``fraction`` k/n
    ``power_sgd``  two factors of rank r                         32r(rows + columns) ``rank`` r
    ============== ============================================= =================== =====================

    A byte per tensor names the codec. int8 and qsgd round by chance, so that their mean is the number itself.
    Shapes are not sent: who decodes knows the model.

    Parameters
    ----------
    name
        Name from the table.
    **options
        Options of the codec.

    Raises
    ------
    ConfigError
        If the name or an option is unknown or has a wrong value.
    """

    def __init__(self, name: str, **options: Any) -> None:
        from efficientai_toolkit._engine.core import core

        self.name = name
        self.options = options
        try:
            self._settings = json.dumps({"codec": name, **options})
        except TypeError as error:
            message = f"codec {name}: {error}"
            raise ConfigError(message) from error
        try:
            core.federated.wire_bytes(self._settings, [1])
        except ConfigError as error:
            message = f"codec {name}: {error}"
            raise ConfigError(message) from error

    def __repr__(self) -> str:
        """Return the call that makes it."""
        return f"Codec({', '.join([repr(self.name), *(f'{k}={v!r}' for k, v in self.options.items())])})"

    def wire_bytes(self, shapes: Shapes) -> int:
        """Return the size of an encoded update."""
        from efficientai_toolkit._engine.core import core

        return sum(core.federated.wire_bytes(self._settings, list(shape)) for shape in shapes.values())

    def encode(
        self, update: Update, *, seed: int | None = None, previous: Mapping[str, bytes] | None = None
    ) -> dict[str, bytes]:
        """Encode every tensor of an update.

        Parameters
        ----------
        update
            Arrays by name.
        seed
            Seed of what is drawn by chance; from the system by default.
        previous
            Messages of the round before, whose factors ``power_sgd`` goes on from.

        Raises
        ------
        ConfigError
            If a number is not finite.
        """
        from efficientai_toolkit._engine.core import core

        base = secrets.randbits(63) if seed is None else seed
        messages: dict[str, bytes] = {}
        for number, (name, value) in enumerate(update.items()):
            array = np.ascontiguousarray(as_numpy(value, name, "the update"), dtype=np.float64)
            before = None if previous is None else previous.get(name)
            draw = (base + number) % 2**64
            try:
                messages[name] = core.federated.encode(
                    self._settings, array.reshape(-1), list(array.shape), draw, before
                )
            except ConfigError as error:
                message = f"{name}: {error}"
                raise ConfigError(message) from error
        return messages

    def decode(self, messages: Mapping[str, bytes], shapes: Shapes) -> dict[str, np.ndarray[Any, Any]]:
        """Decode an update of tensors of known shapes.

        Returns
        -------
        dict of str to numpy.ndarray
            float32 arrays by name.

        Raises
        ------
        ConfigError
            If a tensor is missing or one too many, or a message is malformed; it names the tensor.
        """
        from efficientai_toolkit._engine.core import core

        if unequal := sorted(set(messages) ^ set(shapes)):
            message = f"{unequal[0]} is {'missing' if unequal[0] in shapes else 'no tensor of the model'}"
            raise ConfigError(message)
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        for name, shape in shapes.items():
            try:
                array = core.federated.decode(self._settings, bytes(messages[name]), list(shape))
            except ConfigError as error:
                message = f"{name}: {error}"
                raise ConfigError(message) from error
            arrays[name] = array.reshape(shape)
        return arrays


class ErrorFeedback:
    """Adds what a codec lost in one round to the update of the next.

    Seide et al. 2014; Karimireddy et al. 2019,
    `arXiv:1901.09847 <https://arxiv.org/abs/1901.09847>`_. With the update ``x`` and the residual ``e``,
    ``x + e = C(x + e) + e'``. The state of a client: :attr:`residual` and
    :attr:`previous` are all there is to keep.

    Parameters
    ----------
    codec
        The codec ``C``.
    residual
        Residual to go on from.
    previous
        Messages of the round before.
    """

    def __init__(
        self,
        codec: Codec,
        residual: Mapping[str, np.ndarray[Any, Any]] | None = None,
        previous: Mapping[str, bytes] | None = None,
    ) -> None:
        self.codec = codec
        self.residual: dict[str, np.ndarray[Any, Any]] = dict(residual or {})
        """What is not sent yet, float64 by name."""
        self.previous: dict[str, bytes] = dict(previous or {})
        """Messages of the last round."""

    def encode(self, update: Update, *, seed: int | None = None) -> dict[str, bytes]:
        """Encode an update and what earlier ones lost; the state changes only where that succeeds.

        Raises
        ------
        ConfigError
            If a number is not finite, or the residual is of another model.
        """
        wanted: dict[str, np.ndarray[Any, Any]] = {}
        for name, value in update.items():
            array = as_numpy(value, name, "the update").astype(np.float64)
            kept = self.residual.get(name)
            if kept is not None and kept.shape != array.shape:
                message = f"{name} has shape {array.shape}, but its residual {kept.shape}"
                raise ConfigError(message)
            wanted[name] = array if kept is None else array + kept
        messages = self.codec.encode(wanted, seed=seed, previous=self.previous)
        sent = self.codec.decode(messages, {name: array.shape for name, array in wanted.items()})
        self.residual = {name: array - sent[name] for name, array in wanted.items()}
        self.previous = messages
        return messages


def choose(codecs: Iterable[Codec], shapes: Shapes, *, bytes_per_second: float, seconds: float) -> Codec:
    """Choose the first codec whose message arrives in time.

    Parameters
    ----------
    codecs
        Codecs in the order of preference, such as from the most to the least exact.
    shapes
        Shapes of the update.
    bytes_per_second
        Measured bandwidth.
    seconds
        Time for the message.

    Returns
    -------
    Codec
        The first that fits, otherwise the one with the shortest message.

    Raises
    ------
    ConfigError
        If there is no codec, or bandwidth or time is not positive.
    """
    candidates = list(codecs)
    if not candidates:
        message = "codecs is empty, expected at least one Codec"
        raise ConfigError(message)
    for name, value in (("bytes_per_second", bytes_per_second), ("seconds", seconds)):
        if not value > 0:
            message = f"{name} is {value}, expected a positive number"
            raise ConfigError(message)
    sizes = [codec.wire_bytes(shapes) for codec in candidates]
    fitting = (
        codec for codec, size in zip(candidates, sizes, strict=True) if size <= bytes_per_second * seconds
    )
    return next(fitting, candidates[sizes.index(min(sizes))])
