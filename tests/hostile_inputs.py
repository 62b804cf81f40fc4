"""Reads hostile inputs by the thousand, and counts crashes, hangs and memory beyond bounds.

``python tests/hostile_inputs.py [--cases N] [--seed N] [--readers a,b]`` prints a line per reader; the
exit status is 1 if anything happened. Inputs that did it are kept in ``--keep``.
"""

from __future__ import annotations

import argparse
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from support.hostile import Readers, cases, seeds

HANG_SECONDS = 10.0
MEMORY_BYTES = 1 << 30
"""What a case may take at most, above what the process takes with a model in it."""

BEYOND_FILE_BYTES = {"gguf": 64 << 20}
"""As :data:`MEMORY_BYTES`, and besides the size of the file, for readers with a bound of their own."""

KINDS = ("crash", "hang", "memory", "foreign")
"""``foreign`` are errors of other classes than the toolkit's."""


def peak() -> int:
    """The largest resident size since the last call, in bytes."""
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def work(reader: str, count: int, seed: int, first: int, keep: Path) -> None:
    """Read the cases from number ``first`` on, with a line before and after each."""
    from efficientai_toolkit.exceptions import ToolkitError

    with tempfile.TemporaryDirectory() as folder:
        readers = Readers(Path(folder))
        peak()
        base = peak()
        for number, case in enumerate(cases(reader, count, seed, seeds()[reader])):
            if number < first:
                continue
            kept = keep / f"{reader}-{number}-{case.name}"
            kept.write_bytes(case.content)
            print(f"start {number}", flush=True)
            outcome = "ok"
            try:
                readers.read(case)
            except ToolkitError:
                outcome = "refused"
            except Exception as error:  # noqa: BLE001 - those that are none of ours are counted
                outcome = "foreign"
                print(f"{kept.name}: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
            bound = MEMORY_BYTES
            if reader in BEYOND_FILE_BYTES:
                bound = BEYOND_FILE_BYTES[reader] + len(case.content)
            if (taken := peak() - base) > bound:
                outcome = "memory"
                print(f"{kept.name}: {taken >> 20} MiB", file=sys.stderr)
            if outcome not in KINDS:
                kept.unlink()
            print(f"done {outcome}", flush=True)


def run(reader: str, count: int, seed: int, keep: Path) -> Counter[str]:
    """Count the outcomes of ``count`` cases, each process going on where the one before ended."""
    outcomes: Counter[str] = Counter()
    first = 0
    while first < count:
        words = [sys.executable, __file__, "--work", reader, "--first", str(first)]
        words += ["--cases", str(count), "--seed", str(seed), "--keep", str(keep)]
        errors = (keep / "stderr.txt").open("ab")
        with errors, subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors) as process:
            first, outcome = follow(process, first, outcomes)
        if outcome:
            outcomes[outcome] += 1
            print(f"{reader}: {outcome} at case {first}, exit {process.returncode}", flush=True)
            first += 1
    return outcomes


def follow(process: subprocess.Popen[bytes], first: int, outcomes: Counter[str]) -> tuple[int, str]:
    """Take the lines of a process; returns the case at which it ended, and why if it did not end well."""
    assert process.stdout
    started, number, buffer = None, first, b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            # Starting takes a while on a busy machine; that is no case.
            patience = 60.0 if started is None else HANG_SECONDS - (time.monotonic() - started)
            if not selector.select(max(patience, 0.0)):
                process.kill()
                return number, "hang"
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            if not chunk:
                failed = process.wait() != 0
                return number, "crash" if failed else ""
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                word, value = line.decode().split()
                if word == "start":
                    started, number = time.monotonic(), int(value)
                else:
                    outcomes[value] += 1
                    started, number = time.monotonic(), number + 1


def main() -> int:
    """Run every reader and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=3250, help="inputs in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readers", default=",".join(seeds()), help="names, separated by commas")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "hostile_inputs")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.keep.mkdir(parents=True, exist_ok=True)
    if arguments.work:
        work(arguments.work, arguments.cases, arguments.seed, arguments.first, arguments.keep)
        return 0
    names = arguments.readers.split(",")
    total: Counter[str] = Counter()
    for name in names:
        counts = run(name, arguments.cases // len(names), arguments.seed, arguments.keep)
        print(
            f"{name:17}", ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items())), flush=True
        )
        total += counts
    print(f"{sum(total.values())} inputs:", ", ".join(f"{kind} {total[kind]}" for kind in KINDS))
    return int(any(total[kind] for kind in KINDS))


if __name__ == "__main__":
    sys.exit(main())
