"""Tests marked ``alone`` run while the other workers of pytest-xdist wait."""

import fcntl
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _alone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    if not hasattr(request.config, "workerinput"):
        yield
        return
    folder = tmp_path_factory.getbasetemp().parent
    exclusive = request.node.get_closest_marker("alone") is not None
    with (folder / "turn.lock").open("w") as turn, (folder / "run.lock").open("w") as run:
        # Who waits for its turn to run alone lets nobody else begin.
        fcntl.flock(turn, fcntl.LOCK_EX)
        fcntl.flock(run, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        fcntl.flock(turn, fcntl.LOCK_UN)
        yield
