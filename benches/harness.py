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
SCRIPTS = {"ours": "ours.py", "mlx-lm": "mlx_lm_peer.py", "torch": "torch_peft.py"}
DTYPES = {"": "float32", "f16": "float16", "bf16": "bfloat16"}


@dataclass
class Row:
    """One contestant on one case."""

    case: str
    contestant: str
    values: dict[str, list[float]] = field(default_factory=dict)
    peak_rss_mib: list[float] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    problem: str = ""

    def median(self, measure: str) -> float | None:
        """Give the median of a measure over the rounds; None when there is none."""
        values = self.peak_rss_mib if measure == "peak_rss_mib" else self.values.get(measure)
        return statistics.median(values) if values else None


def options(description: str) -> argparse.ArgumentParser:
    """Give the options that all benches share."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    names = "ours,mlx-lm,torch,torch-bf16"
    add(
        "--contestants", default=names, help="who runs: ours, mlx-lm or torch, each plain or with -bf16, -f16"
    )
    add("--python", action="append", default=[], metavar="NAME=PATH", help="interpreter of one contestant")
    add("--repeats", type=int, default=3, help="rounds")
    add("--threads", type=int, help="CPU threads of each contestant (default: each library's own choice)")
    add("--timeout", type=float, default=1800, help="seconds one contestant may take")
    add("--cache", type=Path, help="folder for checkpoints (default: the user's cache folder)")
    add("--json", type=Path, help="also write everything measured to this file")
    add("--csv", type=Path, help="also write the table to this file")
    add("--print-jobs", action="store_true", help="print the command of each contestant and stop")
    return parser


def compare(args: argparse.Namespace, jobs: dict[str, dict[str, Any]], measures: dict[str, str]) -> list[Row]:
    """Run every job with every contestant. `measures` maps a result's key to its column title."""
    contestants = args.contestants.split(",")
    pythons = _pythons(args.python)
    for name in contestants:
        split(name)
    if args.print_jobs:
        for name in contestants:
            for job in jobs.values():
                command = _command(name, pythons, job)
                print(" ".join(command[:-1]), f"'{command[-1]}'")
        return []
    print(machine())
    rows = {(case, name): Row(case, name) for case in jobs for name in contestants}
    for case, job in jobs.items():
        for turn in range(args.repeats):
            for name in contestants if turn % 2 == 0 else contestants[::-1]:
                row = rows[case, name]
                if not row.problem:
                    _note(f"{case}: round {turn + 1} of {args.repeats}, {name}")
                    run(row, _command(name, pythons, job), args.threads, args.timeout, measures)
    _note("")
    return list(rows.values())


def run(row: Row, command: list[str], threads: int | None, timeout: float, measures: Iterable[str]) -> None:
    """Run one contestant once and add what it reports to `row`."""
    variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
    environment = os.environ | dict.fromkeys(variables if threads else (), str(threads))
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        try:
            child = subprocess.Popen(command, stdout=out, stderr=err, text=True, env=environment)
        except OSError as error:
            row.problem = f"cannot run {command[0]}: {error.strerror}"
            return
        code, rss = _wait(child, timeout)
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
        row.peak_rss_mib.append(rss)
        for name in measures:
            row.values.setdefault(name, []).append(result.pop(name))
        row.facts = result


def report(args: argparse.Namespace, rows: list[Row], measures: dict[str, str]) -> int:
    """Print the table, write the files that were asked for, give the exit status."""
    records = [_record(row, rows, measures) for row in rows]
    titles = {"case": "case", "contestant": "contestant"}
    for name, title in measures.items():
        titles |= {name: title, f"{name}_ours_over_this": "ours ÷ this"}
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
    for name, versions in {row.contestant: row.versions for row in rows if row.versions}.items():
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


def split(contestant: str) -> tuple[str, str]:
    """Give a contestant's library and dtype: `torch-bf16` is `("torch", "bfloat16")`."""
    for suffix, dtype in DTYPES.items():
        library = contestant.removesuffix(f"-{suffix}") if suffix else contestant
        if library in SCRIPTS:
            return library, dtype
    known = ", ".join(SCRIPTS)
    message = f"unknown contestant {contestant!r}: use {known}, each plain or with -bf16 or -f16"
    raise SystemExit(message)


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


def _wait(child: subprocess.Popen[str], timeout: float) -> tuple[int | None, float]:
    """Wait for the child; give its exit code (None: it ran too long) and its peak memory in MiB."""
    import threading

    late = threading.Event()

    def stop() -> None:
        late.set()
        child.kill()

    timer = threading.Timer(timeout, stop)
    timer.start()
    _, status, usage = os.wait4(child.pid, 0)
    timer.cancel()
    child.returncode = os.waitstatus_to_exitcode(status)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kibibytes.
    return None if late.is_set() else child.returncode, usage.ru_maxrss * unit / 2**20


def _command(contestant: str, pythons: dict[str, str], job: dict[str, Any]) -> list[str]:
    library, dtype = split(contestant)
    script = HERE / "contestants" / SCRIPTS[library]
    return [pythons[library], str(script), json.dumps(job | {"dtype": dtype})]


def _pythons(overrides: list[str]) -> dict[str, str]:
    pythons = dict.fromkeys(SCRIPTS, sys.executable)
    for item in overrides:
        name, _, path = item.partition("=")
        if name not in SCRIPTS or not path:
            message = f"--python {item}: write NAME=PATH, where NAME is one of {', '.join(SCRIPTS)}"
            raise SystemExit(message)
        pythons[name] = path
    return pythons


def _record(row: Row, rows: list[Row], measures: Iterable[str]) -> dict[str, Any]:
    ours = next((r for r in rows if r.case == row.case and split(r.contestant)[0] == "ours"), None)
    record: dict[str, Any] = {"case": row.case, "contestant": row.contestant}
    for name in measures:
        value, base = row.median(name), ours.median(name) if ours else None
        record |= {name: value, f"{name}_ours_over_this": base / value if base and value else None}
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
