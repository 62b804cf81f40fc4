"""Versions beside each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from efficientai_toolkit._base.display import Displayed
from efficientai_toolkit.registry.version import ModelVersion


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Comparison(Displayed):
    """Versions beside each other; every list has a value per version, ``None`` where it has none."""

    versions: list[str]
    """``NAME/NUMBER``."""
    sizes: list[int]
    """Bytes of the files."""
    data: list[str | None]
    """Fingerprints of the training data."""
    metrics: dict[str, list[float | None]]
    """Metrics that at least one of them has, by name."""
    settings: dict[str, list[Any]]
    """Settings that differ, by name."""


def compare_versions(versions: Sequence[ModelVersion]) -> Comparison:
    """Compare versions, in their order."""
    metrics = sorted({name for version in versions for name in version.metrics})
    settings = sorted({name for version in versions for name in version.settings})
    values = {name: [version.settings.get(name) for version in versions] for name in settings}
    return Comparison(
        versions=[version.reference for version in versions],
        sizes=[version.size_bytes for version in versions],
        data=[version.data_fingerprint for version in versions],
        metrics={name: [version.metrics.get(name) for version in versions] for name in metrics},
        settings={name: found for name, found in values.items() if any(value != found[0] for value in found)},
    )
