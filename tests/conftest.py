import sys
import types

import pytest

from support.fake_engine import FakeEngine


@pytest.fixture
def fake_engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """The Python layer talks to a stand-in for the compiled engine."""
    engine = FakeEngine()
    door = types.ModuleType("efficientai_toolkit._engine")
    vars(door)["core"] = engine
    monkeypatch.setitem(sys.modules, door.__name__, door)
    return engine
