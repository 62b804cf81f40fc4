"""A suite of cases that work, fail, end their process, or lack something."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence

from efficientai_toolkit.benchmark import Case


def fail() -> None:
    message = "no\n  way"
    raise ValueError(message)


def program(text: str) -> list[str]:
    return [sys.executable, "-S", "-c", text]


def every_case(sizes: Sequence[int]) -> Iterator[Case]:
    for size in sizes:
        yield Case(
            name="hold",
            params={"megabytes": size},
            setup=lambda megabytes: bytearray(megabytes << 20),
            run=len,
            units=size,
            unit="MB",
            group="memory",
        )
    yield Case(name="add", params={"a": 1, "b": "x"}, run=lambda a, b: [a, b])
    yield Case(
        name="scores",
        measure=lambda: {"perplexity": 12.5, "accuracy": 1},
        higher_is_better=["accuracy"],
    )
    yield Case(name="breaks", run=fail)
    yield Case(name="dies", run=lambda: os.kill(os.getpid(), signal.SIGKILL))
    yield Case(name="not-a-number", measure=lambda: {"perplexity": float("nan")})
    yield Case(name="nothing", measure=dict)
    yield Case(name="absent", run=lambda: __import__("no_such_package"))
    yield Case(name="program", command=program("pass"))
    reported = '{"gflops": 3.5, "peak_rss_bytes": 7, "who": "me"}'
    yield Case(name="reports", command=program(f"print('first'); print({reported!r})"))
    yield Case(name="lacks", command=program('print(\'{"missing": "torch"}\')'))
    yield Case(name="exits", command=program("import sys; sys.exit('gone wrong')"))
    yield Case(name="unknown", command=["/no/such/program"])


def cases(sizes: Sequence[int] = (1, 100), only: str | None = None) -> Iterator[Case]:
    sys.stdout.write("printed by the suite\n")
    yield from (case for case in every_case(sizes) if only is None or case.name == only)
