"""JSON that nobody expects."""

import random
from typing import Any


def hostile_value(rng: random.Random, depth: int = 0) -> Any:
    """Any JSON."""
    kinds: list[Any] = [
        None,
        True,
        -1,
        0,
        2**70,
        -(2**70),
        1e308,
        0.5,
        "",
        "x",
        "\ud800",
        "\0",
        "é" * 50,
        [],
        {},
        "NaN",
        "1",
    ]
    if depth < 3 and rng.random() < 0.3:
        if rng.random() < 0.5:
            return [hostile_value(rng, depth + 1) for _ in range(rng.randrange(4))]
        return {rng.choice(("role", "content", "type", "a")): hostile_value(rng, depth + 1) for _ in range(3)}
    return rng.choice(kinds)
