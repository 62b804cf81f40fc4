"""Splitting rows among clients so that their distributions differ, as those of real clients do.

Dirichlet: the shares of each label are drawn from Dir(alpha) (Hsu et al. 2019, arXiv:1909.06335).
Quantity: the sizes of the clients are. Label: each client has rows of a few labels only (Li et al. 2021,
arXiv:2102.02079).
"""

import re
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from efficientai_toolkit.exceptions import ConfigError, DatasetError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Partition = Literal["dirichlet", "quantity", "label", "iid"]
"""How rows are divided among clients."""

_BUCKETS = 512
"""Dimensions of hashed word counts."""
_PASSES = 20


def partition(
    labels: Sequence[int],
    clients: int,
    *,
    kind: Partition = "dirichlet",
    alpha: float = 0.5,
    labels_per_client: int = 2,
    min_rows: int = 1,
    seed: int = 0,
) -> "list[list[int]]":
    """Divide rows among clients.

    Parameters
    ----------
    labels
        Label of each row, from 0.
    clients
        Number of clients.
    kind
        ``dirichlet``, ``quantity``, ``label`` or ``iid``.
    alpha
        Concentration of ``dirichlet`` and ``quantity``: the smaller, the more the clients differ.
    labels_per_client
        Number of labels of each client, for ``label``.
    min_rows
        Smallest share; clients below it get rows of the largest ones.
    seed
        Random seed.

    Returns
    -------
    list
        Sorted row numbers of each client; every row belongs to one of them.

    Raises
    ------
    ConfigError
        If there are fewer rows than ``clients × min_rows``.
    """
    import numpy as np

    if len(labels) < clients * min_rows:
        message = (
            f"{len(labels)} rows are too few for {clients} `clients` with {min_rows} each; lower `clients`"
        )
        raise ConfigError(message)
    random = np.random.default_rng(seed)
    known = np.asarray(labels)
    match kind:
        case "dirichlet":
            owners = _dirichlet(random, known, clients, alpha)
        case "quantity":
            owners = random.choice(clients, len(known), p=random.dirichlet([alpha] * clients))
        case "label":
            owners = _by_label(random, known, clients, labels_per_client)
        case "iid":
            owners = random.permutation(len(known)) % clients
    shares = [[int(row) for row in np.flatnonzero(owners == client)] for client in range(clients)]
    _fill(shares, min_rows)
    return [sorted(share) for share in shares]


def _dirichlet(random: Any, labels: "NDArray[Any]", clients: int, alpha: float) -> "NDArray[Any]":
    import numpy as np

    owners = np.empty(len(labels), int)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        owners[rows] = random.choice(clients, len(rows), p=random.dirichlet([alpha] * clients))
    return owners


def _by_label(random: Any, labels: "NDArray[Any]", clients: int, each: int) -> "NDArray[Any]":
    import numpy as np

    kinds = np.unique(labels)
    # Every label has an owner: the clients take turns through shuffled labels.
    places = np.concatenate([random.permutation(kinds) for _ in range(-(-clients * each // len(kinds)))])
    holders: dict[int, list[int]] = {int(label): [] for label in kinds}
    for place, label in enumerate(places[: max(clients * each, len(kinds))]):
        holders[int(label)].append(place % clients)
    owners = np.empty(len(labels), int)
    for label, holding in holders.items():
        rows = np.flatnonzero(labels == label)
        owners[rows] = random.permutation(np.resize(holding, len(rows)))
    return owners


def _fill(shares: list[list[int]], least: int) -> None:
    """Move rows of the largest shares to those below the minimum."""
    for share in shares:
        while len(share) < least:
            share.append(max(shares, key=len).pop())


def read_labels(rows: Sequence[dict[str, Any]], column: str | None, *, seed: int = 0) -> list[int]:
    """Return the label of each row: the value of a column, or the topic of its text.

    Topics are the clusters of k-means on hashed word counts.

    Raises
    ------
    DatasetError
        If a row lacks the column.
    """
    if column is None:
        return _find_topics([" ".join(_texts(row)) for row in rows], min(10, len(rows)), seed)
    known: dict[str, int] = {}
    labels: list[int] = []
    for number, row in enumerate(rows, 1):
        if column not in row:
            message = f"row {number} lacks the column {column!r} that `label_column` names"
            raise DatasetError(message)
        labels.append(known.setdefault(str(row[column]), len(known)))
    return labels


def _texts(value: Any) -> list[str]:
    """Return all strings within a row."""
    if isinstance(value, str):
        return [value]
    match value:
        case dict():
            items = list(cast("dict[str, Any]", value).values())
        case [*items]:
            pass
        case _:
            items = []
    return [text for item in items for text in _texts(item)]


def _find_topics(texts: Sequence[str], topics: int, seed: int) -> list[int]:
    import numpy as np

    counts = np.zeros((len(texts), _BUCKETS), np.float32)
    for row, text in enumerate(texts):
        for word in re.findall(r"\w+", text.lower()):
            counts[row, zlib.crc32(word.encode()) % _BUCKETS] += 1
    # Words that every text has say nothing about its topic.
    rarity = np.log((1 + len(texts)) / (1 + (counts > 0).sum(axis=0)))
    points = np.log1p(counts) * rarity
    points /= np.linalg.norm(points, axis=1, keepdims=True) + 1e-9
    random = np.random.default_rng(seed)
    centres = points[random.choice(len(points), topics, replace=False)]
    nearest = np.zeros(len(points), int)
    for _ in range(_PASSES):
        nearest = (points @ centres.T).argmax(axis=1)
        for topic in range(topics):
            if (members := points[nearest == topic]).size:
                centre = members.sum(axis=0)
                centres[topic] = centre / (np.linalg.norm(centre) + 1e-9)
    return [int(topic) for topic in nearest]
