"""Result of an export."""

from dataclasses import dataclass
from pathlib import Path

from efficientai_toolkit._base.display import Displayed


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class ExportResult(Displayed):
    """Result of an export."""

    path: Path
    """The file or folder that was written."""
    format: str
    """Its format."""
    type: str
    """Number format of its weights."""
    types: dict[str, int]
    """Number of tensors of each number format."""
    size_before: int
    """Size of the weights that were read, in bytes."""
    size_after: int
    """Size of the result, in bytes."""
    exact: bool | None
    """Whether the result holds the same numbers as the model; ``None`` if it was not verified."""
    largest_difference: float | None
    """Largest difference to the model, relative to the largest number; ``None`` if it was not verified."""
    compared: str | None
    """What was compared: ``weights`` or ``logits``; ``None`` if it was not verified."""
    seconds: float
    """Seconds, loading and verification included."""
    notes: list[str]
    """What is not as it was in the model, one line each."""
