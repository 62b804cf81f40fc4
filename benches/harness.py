"""Contestants: libraries that do the same job, each a script in a process of its own.

A bench is a suite of `efficientai-toolkit benchmark`; `cases` turns its jobs into cases, whose arguments are
given by `--set`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficientai_toolkit.benchmark import Case

HERE = Path(__file__).parent
SCRIPTS = {
    "ours": "ours.py",
    "mlx-lm": "mlx_lm_peer.py",
    "torch": "torch_peft.py",
    "llama.cpp": "llama_cpp.py",
    "onnxruntime": "onnx_runtime.py",
    "numpy": "numpy_blas.py",
    "authors": "authors_pruning.py",
    "flower": "flower.py",
}
DTYPES = {"f16": "float16", "bf16": "bfloat16"}
THREADS = tuple(f"{library}_NUM_THREADS" for library in ("EAT", "OMP", "MKL", "OPENBLAS", "RAYON"))

Job = dict[str, Any]


@dataclass(frozen=True)
class Contestant:
    """A library and how it runs: `torch-compile-bf16` is torch, compiled, in bfloat16."""

    name: str
    library: str
    variant: str
    dtype: str

    @classmethod
    def parse(cls, name: str, known: Iterable[str]) -> Contestant:
        """Take a name apart. `known` lists the names that a bench offers, without a type's suffix."""
        form, _, suffix = name.rpartition("-")
        if suffix not in DTYPES:
            form, suffix = name, ""
        if form not in known:
            message = f"unknown contestant {name!r}: use {', '.join(known)}, each plain or with -bf16 or -f16"
            raise ValueError(message)
        library = next(library for library in SCRIPTS if form == library or form.startswith(f"{library}-"))
        return cls(name, library, form[len(library) + 1 :], DTYPES.get(suffix, "float32"))

    @property
    def likeness(self) -> str:
        """What makes two contestants comparable: number format and width of the weights."""
        bits = self.variant.partition("_")[0]
        return " ".join([self.dtype, *([bits] if bits in {"q4", "int8"} else [])])


def parse_contestants(names: str, known: Iterable[str]) -> list[Contestant]:
    """Give the contestants of a list separated by commas."""
    return [Contestant.parse(name, known) for name in names.split(",")]


def cases(
    jobs: Mapping[str, Mapping[Contestant, Job]],
    measures: Sequence[str],
    *,
    higher_is_better: Sequence[str] | None = None,
    same: Callable[[Contestant], Mapping[str, float]] = lambda _: {},
    python: Mapping[str, str] | None = None,
    threads: int | None = None,
) -> Iterator[Case]:
    """Yield a case for every job and contestant.

    `measures` are the results that count, by default all of them speeds, which should be high; `same` gives
    those that must agree between contestants of a kind, with their tolerance. `python` names an interpreter
    for a library; `threads` is the number of CPU threads, by default each library's own choice.
    """
    for library in python or {}:
        if library not in SCRIPTS:
            message = f"python: {library} is none of {', '.join(SCRIPTS)}"
            raise ValueError(message)
    limits = ["env", *(f"{name}={threads}" for name in THREADS)] if threads else []
    for title, turns in jobs.items():
        for who, job in turns.items():
            program = (python or {}).get(who.library, sys.executable)
            task = job | {"variant": who.variant, "dtype": who.dtype, "threads": threads}
            yield Case(
                name=f"{title} {who.name}",
                command=[
                    *limits,
                    program,
                    str(HERE / "contestants" / SCRIPTS[who.library]),
                    json.dumps(task),
                ],
                metrics=measures,
                higher_is_better=measures if higher_is_better is None else higher_is_better,
                group=f"{title} {who.likeness}",
                same=same(who),
            )
