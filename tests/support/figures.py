"""Measured differences from peers: checked against their limits, and printed together at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest


class Figure(NamedTuple):
    """One measured difference."""

    name: str
    value: float
    limit: float


FIGURES = pytest.StashKey[list[Figure]]()

Check = Callable[[str, float, float], None]


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Check:
    """Call with a name, a difference and its limit: fails where it is larger, or no number."""
    figures = request.config.stash.setdefault(FIGURES, [])

    def check(name: str, value: float, limit: float) -> None:
        measured = Figure(name, float(value), limit)
        figures.append(measured)
        assert measured.value <= limit, f"{name}: {value:.3g} is over {limit:.0e}"

    return check


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table."""
    figures = config.stash.get(FIGURES, [])
    if not figures:
        return
    width = max(len(measured.name) for measured in figures)
    terminalreporter.section("parity")
    terminalreporter.line(f"parity: {'':{width}}     max|Δ|    limit")
    for name, value, limit in figures:
        mark = "" if value <= limit else "  OVER"
        terminalreporter.line(f"parity: {name:{width}}  {value:9.2e}  {limit:7.0e}{mark}")
