"""A small task for simulations: clients classify points of clouds, each with a mixture of its own."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from efficientai_toolkit.federated.splitting import Partition, partition

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CLASSES = 10
_FEATURES = 32
_BATCH = 16


@dataclass(kw_only=True, slots=True)
class CloudTask:
    """Softmax regression on points of ten clouds.

    Parameters
    ----------
    clients
        Number of clients.
    rows
        Number of training points of all.
    kind, alpha
        How they are divided; see :func:`~efficientai_toolkit.federated.partition`.
    lr
        Learning rate of clients.
    epochs
        Passes of a client over its points.
    flipped
        The last ``flipped`` clients learn from wrong labels.
    seed
        Random seed.
    """

    clients: int
    rows: int = 2000
    kind: Partition = "dirichlet"
    alpha: float = 0.5
    lr: float = 0.1
    epochs: int = 1
    flipped: int = 0
    seed: int = 0
    _points: Any = None
    _labels: Any = None
    _shares: Any = None
    _test: Any = None

    def __post_init__(self) -> None:
        """Draw the points."""
        random = np.random.default_rng(self.seed)
        centres = random.standard_normal((_CLASSES, _FEATURES)) * 0.6
        self._labels, test = (random.integers(0, _CLASSES, n) for n in (self.rows, 1000))
        self._points = centres[self._labels] + random.standard_normal((self.rows, _FEATURES))
        self._test = (centres[test] + random.standard_normal((1000, _FEATURES)), test)
        self._shares = partition(
            self._labels.tolist(), self.clients, kind=self.kind, alpha=self.alpha, min_rows=4, seed=self.seed
        )

    def initial(self) -> "dict[str, NDArray[Any]]":
        """Return the arrays of an untrained model."""
        return {"weight": np.zeros((_FEATURES, _CLASSES)), "bias": np.zeros(_CLASSES)}

    def train(
        self, arrays: "dict[str, NDArray[Any]]", client: int, number: int
    ) -> "tuple[dict[str, NDArray[Any]], float]":
        """Return the arrays after training as a client, and its number of points."""
        share = np.asarray(self._shares[client])
        random = np.random.default_rng([self.seed, client, number])
        weight, bias = arrays["weight"].copy(), arrays["bias"].copy()
        for _ in range(self.epochs):
            for rows in np.array_split(random.permutation(share), max(len(share) // _BATCH, 1)):
                points, labels = self._points[rows], self._labels[rows]
                if client >= self.clients - self.flipped:
                    labels = _CLASSES - 1 - labels
                slope = _softmax(points @ weight + bias)
                slope[np.arange(len(rows)), labels] -= 1
                weight -= self.lr * points.T @ slope / len(rows)
                bias -= self.lr * slope.mean(axis=0)
        return {"weight": weight, "bias": bias}, float(len(share))

    def evaluate(self, arrays: "dict[str, NDArray[Any]]") -> dict[str, float]:
        """Return ``loss`` and ``accuracy`` on held-out points."""
        points, labels = self._test
        chances = _softmax(points @ arrays["weight"] + arrays["bias"])
        loss = -np.log(chances[np.arange(len(labels)), labels] + 1e-12).mean()
        return {"loss": float(loss), "accuracy": float((chances.argmax(axis=1) == labels).mean())}


def _softmax(scores: "NDArray[Any]") -> "NDArray[Any]":
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances: NDArray[Any] = powers / powers.sum(axis=1, keepdims=True)
    return chances
