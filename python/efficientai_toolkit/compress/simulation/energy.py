"""Energy of the processor packages.

The kernel hands on what `RAPL <https://docs.kernel.org/power/powercap/powercap.html>`_ counts.
"""

from dataclasses import dataclass
from pathlib import Path

_ZONES = Path("/sys/class/powercap")
_PACKAGES = "intel-rapl:?"
"""Zones of whole packages, of AMD processors too; those of their parts have another colon."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Zone:
    """A counter."""

    path: Path
    energy: int
    """Microjoules."""
    largest: int
    """Microjoules after which it begins again at 0."""


def read_zones(folder: Path = _ZONES) -> "list[Zone] | str":
    """Return the counters of all packages, or why they cannot be read."""
    if not folder.is_dir():
        return f"this system has no {folder}"
    paths = sorted(folder.glob(_PACKAGES))
    if not paths:
        return f"{folder} has no counters of processor packages"
    try:
        return [
            Zone(
                path=path,
                energy=int((path / "energy_uj").read_text(encoding="ascii")),
                largest=int((path / "max_energy_range_uj").read_text(encoding="ascii")),
            )
            for path in paths
        ]
    except (OSError, ValueError) as error:
        return f"{paths[0] / 'energy_uj'} cannot be read: {getattr(error, 'strerror', None) or error}"


def count_joules(before: list[Zone], after: list[Zone]) -> float:
    """Return the energy between two readings, in which each counter began again at most once."""
    spent = 0
    for start, end in zip(before, after, strict=True):
        difference = end.energy - start.energy
        spent += difference if difference >= 0 else difference + start.largest
    return spent / 1e6
