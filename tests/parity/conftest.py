"""What the comparisons with peers at hand share."""

from __future__ import annotations

from types import ModuleType

import pytest

from parity.seed import SEED


@pytest.fixture(params=[SEED])
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of fresh weights, which is part of the name of each test."""
    return int(request.param)


@pytest.fixture(scope="module")
def ref() -> ModuleType:
    for name in ("torch", "transformers", "peft"):
        pytest.importorskip(name, reason=f"{name} is missing: uv run --group parity pytest -m parity")
    from parity import reference

    return reference
