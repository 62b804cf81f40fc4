import os
import sys
import types
from collections.abc import Iterator

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before the engine starts: tests that run side by side have a thread each.
    os.environ.setdefault("EAT_NUM_THREADS", "1")

import mlx.core as mx
import pytest

from support.fake_engine import FakeEngine

pytest_plugins = ["support.alone", "support.figures"]


@pytest.fixture(scope="module")
def mlx_lm() -> Iterator[types.ModuleType]:
    """mlx-lm on the CPU; without compile, which would call a C++ compiler there."""
    device = mx.default_device()
    mx.set_default_device(mx.cpu)
    mx.disable_compile()
    import mlx_lm
    import mlx_lm.lora
    import mlx_lm.tuner.trainer
    import mlx_lm.tuner.utils

    yield mlx_lm
    mx.enable_compile()
    mx.set_default_device(device)


@pytest.fixture
def fake_engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """The Python layer talks to a stand-in for the compiled engine."""
    engine = FakeEngine()
    door = types.ModuleType("efficientai_toolkit._engine.core")
    vars(door)["core"] = engine
    monkeypatch.setitem(sys.modules, door.__name__, door)
    return engine
