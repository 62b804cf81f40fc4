"""Tables of text."""

from collections.abc import Sequence


def align(cells: Sequence[Sequence[str]], *, left: int) -> list[str]:
    """Lines whose columns stand below each other.

    Parameters
    ----------
    cells
        Rows of one length, the header first.
    left
        So many columns are aligned to the left, the others, of numbers, to the right.
    """
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines: list[str] = []
    for row in cells:
        texts = [f"{cell:<{width}}" for cell, width in zip(row[:left], widths[:left], strict=True)]
        numbers = [f"{cell:>{width}}" for cell, width in zip(row[left:], widths[left:], strict=True)]
        lines.append("  ".join([*texts, *numbers]))
    return lines
