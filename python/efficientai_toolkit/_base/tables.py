"""Text tables."""

from collections.abc import Sequence


def align(cells: Sequence[Sequence[str]], *, left: int) -> list[str]:
    """Format rows of cells as lines with aligned columns.

    Parameters
    ----------
    cells
        Rows of equal length; the first one is the header.
    left
        Number of leading columns that are left-aligned; the others are right-aligned.
    """
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines: list[str] = []
    for row in cells:
        texts = [f"{cell:<{width}}" for cell, width in zip(row[:left], widths[:left], strict=True)]
        numbers = [f"{cell:>{width}}" for cell, width in zip(row[left:], widths[left:], strict=True)]
        lines.append("  ".join([*texts, *numbers]))
    return lines
