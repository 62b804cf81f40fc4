"""A suite of one command, which is compared with another one."""

from collections.abc import Iterator, Sequence

from efficientai_toolkit.benchmark.case import Case


def cases(command: Sequence[str]) -> Iterator[Case]:
    """Yield the case that runs ``command``, a list of words."""
    yield Case(name="command", command=command)
