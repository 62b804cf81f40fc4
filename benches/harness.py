"""Runs contestants in turn, each in a process of its own, and compares what they report.

The rounds alternate in order (A B C, then C B A, …), so that a machine that slows down or heats up hurts
everyone alike. A figure is the median over the rounds.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SCRIPTS = {
    "ours": "ours.py",
    "mlx-lm": "mlx_lm_peer.py",
    "torch": "torch_peft.py",
    "llama.cpp": "llama_cpp.py",
    "onnxruntime": "onnx_runtime.py",
    "numpy": "numpy_blas.py",
}
DTYPES = {"f16": "float16", "bf16": "bfloat16"}

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
            raise SystemExit(message)
        library = next(library for library in SCRIPTS if form == library or form.startswith(f"{library}-"))
        return cls(name, library, form[len(library) + 1 :], DTYPES.get(suffix, "float32"))

    def likeness(self, other: Contestant) -> tuple[bool, bool]:
        """How comparable the two are: the greater, the more."""
        variants = [one.variant.partition("_")[0] for one in (self, other)]
        return variants[0] == variants[1], self.dtype == other.dtype


@dataclass
class Row:
    """One contestant on one case."""

    case: str
    contestant: Contestant
    command: list[str]
    values: dict[str, list[float]] = field(default_factory=dict)
    peak_rss_mib: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    problem: str = ""

    def median(self, measure: str) -> float | None:
        """Give the median of a measure over the rounds; None when there is none."""
        values = self.peak_rss_mib if measure == "peak_rss_mib" else self.values.get(measure)
        return statistics.median(values) if values else None


def options(description: str, known: Iterable[str]) -> argparse.ArgumentParser:
    """Give the options that all benches share. `known` lists the contestants, without a type's suffix."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add(
        "--contestants",
        metavar="NAME,…",
        help=f"who runs: {', '.join(known)}, each plain or with -bf16, -f16 (default: a choice)",
    )
    add("--python", action="append", default=[], metavar="NAME=PATH", help="interpreter of one library")
    add("--repeats", type=int, default=3, help="rounds")
    add("--threads", type=int, help="CPU threads of each contestant (default: each library's own choice)")
    add("--timeout", type=float, default=1800, help="seconds one contestant may take")
    add("--cache", type=Path, help="folder for checkpoints (default: the user's cache folder)")
    add("--json", type=Path, help="also write everything measured to this file")
    add("--csv", type=Path, help="also write the table to this file")
    add("--print-jobs", action="store_true", help="print the command of each contestant and stop")
    return parser


def contestants(args: argparse.Namespace, default: str, known: Iterable[str]) -> list[Contestant]:
    """Give who was asked for, or else `default`."""
    return [Contestant.parse(name, known) for name in (args.contestants or default).split(",")]


def compare(
    args: argparse.Namespace, jobs: dict[str, dict[Contestant, Job]], measures: dict[str, str]
) -> list[Row]:
    """Run every case with every contestant. `measures` maps a result's key to its column title."""
    pythons = _pythons(args.python)
    commands = {
        (case, who): [
            pythons[who.library],
            str(HERE / "contestants" / SCRIPTS[who.library]),
            json.dumps(job | {"variant": who.variant, "dtype": who.dtype, "threads": args.threads}),
        ]
        for case, turns in jobs.items()
        for who, job in turns.items()
    }
    if args.print_jobs:
        for *command, job in commands.values():
            print(" ".join(command), f"'{job}'")
        return []
    print(machine())
    rows = {key: Row(*key, command) for key, command in commands.items()}
    for case, turns in jobs.items():
        for turn in range(args.repeats):
            for who in list(turns) if turn % 2 == 0 else list(turns)[::-1]:
                row = rows[case, who]
                if not row.problem:
                    _note(f"{case}: round {turn + 1} of {args.repeats}, {who.name}")
                    run(row, args.threads, args.timeout, measures)
    _note("")
    return list(rows.values())


def run(row: Row, threads: int | None, timeout: float, measures: Iterable[str]) -> None:
    """Run one contestant once and add what it reports to `row`."""
    libraries = ("EAT", "OMP", "MKL", "OPENBLAS", "RAYON")
    variables = [f"{library}_NUM_THREADS" for library in libraries] if threads else []
    environment = os.environ | dict.fromkeys(variables, str(threads))
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        try:
            child = subprocess.Popen(row.command, stdout=out, stderr=err, text=True, env=environment)
        except OSError as error:
            row.problem = f"cannot run {row.command[0]}: {error.strerror}"
            return
        try:
            code = child.wait(timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            code = None
        out.seek(0)
        err.seek(0)
        lines, errors = out.read().splitlines(), err.read().splitlines()
    try:
        result = json.loads(lines[-1]) if lines and code == 0 else None
    except json.JSONDecodeError:
        result = None
    if result is None:
        reason = f"ran past {timeout:g} s" if code is None else f"exit {code}, no result"
        row.problem = ": ".join(["failed", reason, *errors[-1:]])
    elif "missing" in result:
        row.problem = f"not installed: {result['missing']}"
    else:
        row.versions = result.pop("versions")
        row.peak_rss_mib.append(result.pop("peak_rss_bytes") / 2**20)
        for name in measures:
            row.values.setdefault(name, []).append(result.pop(name))
        row.facts = result


def report(args: argparse.Namespace, rows: list[Row], measures: dict[str, str], subject: str = "ours") -> int:
    """Print the table, write the files that were asked for, give the exit status.

    `subject` is the library or the variant whose figures are divided by everyone's.
    """
    records = [_record(row, rows, measures, subject) for row in rows]
    titles = {"case": "case", "contestant": "contestant"}
    for name, title in measures.items():
        titles |= {name: title, f"{name}_{subject}_over_this": f"{subject} ÷ this"}
    titles |= {"peak_rss_mib": "peak RSS, MiB", "problem": ""}
    table = [list(titles.values()), *([_cell(record[name]) for name in titles] for record in records)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        # Text to the left, figures to the right.
        cells = [
            f"{x:<{w}}" if i in (0, 1, len(line) - 1) else f"{x:>{w}}"
            for i, (x, w) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    for name, versions in {row.contestant.name: row.versions for row in rows if row.versions}.items():
        print(f"{name}: {', '.join(f'{package} {version}' for package, version in versions.items())}")
    if args.json:
        content = {
            "machine": machine(),
            "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "repeats": args.repeats,
            "rows": [asdict(row) for row in rows],
        }
        args.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    if args.csv and records:
        with args.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(records[0]))
            writer.writeheader()
            writer.writerows(records)
    bad = [row for row in rows if row.problem and not row.problem.startswith("not installed")]
    return 1 if bad else 0


def flag(row: Row, doubt: str) -> None:
    """Mark a row whose figures must not be trusted."""
    row.problem = "; ".join(filter(None, [row.problem, f"differs: {doubt}"]))


def machine() -> str:
    """Describe the machine in one line."""
    name, memory = platform.processor() or platform.machine(), ""
    if sys.platform == "linux":
        cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        name = next(
            (x.split(":", 1)[1].strip() for x in cpu.splitlines() if x.startswith("model name")), name
        )
    elif sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        name = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or name
    if hasattr(os, "sysconf"):
        memory = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB, "
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{name}, {os.cpu_count()} cores, {memory}{platform.system()} {platform.machine()}, {load}"


def _pythons(overrides: list[str]) -> dict[str, str]:
    pythons = dict.fromkeys(SCRIPTS, sys.executable)
    for item in overrides:
        name, _, path = item.partition("=")
        if name not in SCRIPTS or not path:
            message = f"--python {item}: write NAME=PATH, where NAME is one of {', '.join(SCRIPTS)}"
            raise SystemExit(message)
        pythons[name] = path
    return pythons


def _record(row: Row, rows: list[Row], measures: Iterable[str], subject: str) -> dict[str, Any]:
    candidates = [
        other
        for other in rows
        if other.case == row.case and subject in (other.contestant.library, other.contestant.variant)
    ]
    base = max(candidates, key=lambda other: other.contestant.likeness(row.contestant), default=None)
    record: dict[str, Any] = {"case": row.case, "contestant": row.contestant.name}
    for name in measures:
        value, best = row.median(name), base.median(name) if base else None
        record |= {name: value, f"{name}_{subject}_over_this": best / value if best and value else None}
    return record | {"peak_rss_mib": row.median("peak_rss_mib"), "problem": row.problem}


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return str(value)


def _note(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
