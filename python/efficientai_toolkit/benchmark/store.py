"""Results in one SQLite file.

Every result is a transaction of its own, so that a killed run loses the case in progress only, and several
runs may write to the same file.
"""

import json
import math
import sqlite3
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, cast, get_args

from efficientai_toolkit.benchmark.result import Result, Run, Status
from efficientai_toolkit.benchmark.suite import Suite
from efficientai_toolkit.exceptions import ConfigError, ToolkitError
from efficientai_toolkit.study.folder import RUNS

DEFAULT = Path(RUNS) / "benchmarks.sqlite"
"""File of results unless another one is named."""

_APPLICATION = 0x65617462
"""``application_id`` of our files: "eatb"."""

_VERSION = 1
"""``user_version``: version of the schema."""

_WAIT_SECS = 60.0
"""How long a writer waits for another one."""

_SCHEMA = {
    "run": (
        "CREATE TABLE run (id INTEGER PRIMARY KEY, suite TEXT NOT NULL, source TEXT NOT NULL, "
        "arguments TEXT NOT NULL, name TEXT UNIQUE, started TEXT NOT NULL, finished TEXT, "
        "config TEXT NOT NULL, environment TEXT NOT NULL)"
    ),
    "result": (
        "CREATE TABLE result (run INTEGER NOT NULL REFERENCES run (id), position INTEGER NOT NULL, "
        '"case" TEXT NOT NULL, process INTEGER NOT NULL, status TEXT NOT NULL, reason TEXT, '
        "metrics TEXT NOT NULL, number INTEGER NOT NULL, memory INTEGER, mlx_memory INTEGER, "
        "details TEXT NOT NULL, load_before REAL, load_after REAL, params TEXT NOT NULL, units REAL, "
        'unit TEXT NOT NULL, "group" TEXT, higher_is_better TEXT NOT NULL, same TEXT NOT NULL, '
        'PRIMARY KEY (run, "case", process))'
    ),
}

_COLUMNS = tuple(field.name for field in fields(Result))
_AS_JSON = frozenset({"metrics", "details", "params", "higher_is_better", "same"})


class Store:
    """A file of results.

    Parameters
    ----------
    path
        SQLite file.
    create
        Whether to create it, and its folder, if it does not exist.

    Raises
    ------
    ConfigError
        If the file does not exist.
    ToolkitError
        If it is no file of results, or damaged; methods raise it too.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        elif not path.is_file():
            message = f"{path}: no such file; `efficientai-toolkit benchmark run` makes one"
            raise ConfigError(message)
        with self._transaction(write=create) as database:
            self._check(database, create=create)

    @contextmanager
    def _transaction(self, *, write: bool) -> Generator[sqlite3.Connection]:
        """Open the file for one transaction; errors of SQLite name the file."""
        # Readers may have to undo what a killed writer left behind.
        mode = "rwc" if write else "rw"
        try:
            address = f"{self.path.resolve().as_uri()}?mode={mode}"
            with closing(sqlite3.connect(address, uri=True, timeout=_WAIT_SECS)) as database:
                database.isolation_level = None
                # Nothing that a foreign file brings along is run.
                database.execute("PRAGMA trusted_schema = OFF")
                database.execute("PRAGMA foreign_keys = ON")
                # Locked from the start: a lock that is taken later could not wait for its turn.
                database.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                yield database
                database.execute("COMMIT")
        except (sqlite3.Error, OverflowError, UnicodeDecodeError) as error:
            self._refuse(f"cannot be used as a file of results: {error}", error)

    def _refuse(self, reason: str, error: Exception | None = None) -> NoReturn:
        message = f"{self.path}: {reason}"
        raise ToolkitError(message) from error

    def _check(self, database: sqlite3.Connection, *, create: bool) -> None:
        tables = {
            str(name): sql
            for name, sql in database.execute(
                "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"
            )
        }
        if not tables and create:
            for statement in _SCHEMA.values():
                database.execute(statement)
            database.execute(f"PRAGMA application_id = {_APPLICATION}")
            database.execute(f"PRAGMA user_version = {_VERSION}")
            return
        (application,) = database.execute("PRAGMA application_id").fetchone()
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if application != _APPLICATION:
            self._refuse("an SQLite file of another program")
        if version > _VERSION:
            self._refuse(f"has schema {version} of a newer efficientai-toolkit; this one reads {_VERSION}")
        if tables != _SCHEMA:
            self._refuse("its tables are not those of a file of results")

    def start(self, suite: Suite, config: Mapping[str, Any], environment: Mapping[str, Any]) -> int:
        """Add a run and return its id."""
        with self._transaction(write=True) as database:
            row = database.execute(
                "INSERT INTO run (suite, source, arguments, started, config, environment) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (
                    suite.name, suite.source, _dump_sorted(suite.arguments), _now(), _dump(config),
                    _dump(environment),
                ),
            )  # fmt: skip
            return cast("int", row.lastrowid)

    def add(self, run: int, result: Result) -> None:
        """Add a result, in place of an earlier one of the same case and process."""
        values = {name: _dump(value) if name in _AS_JSON else value for name, value in asdict(result).items()}
        names = ", ".join(f'"{name}"' for name in _COLUMNS)
        with self._transaction(write=True) as database:
            database.execute(
                f"INSERT OR REPLACE INTO result (run, position, {names}) VALUES "  # noqa: S608
                "(:run, (SELECT count(*) FROM result WHERE run = :run), "
                f"{', '.join(f':{name}' for name in _COLUMNS)})",
                {"run": run, **values},
            )

    def finish(self, run: int, name: str | None) -> None:
        """Mark a run as finished; ``name`` makes it the baseline of that name, instead of an earlier one."""
        with self._transaction(write=True) as database:
            if name is not None:
                database.execute("UPDATE run SET name = NULL WHERE name = ?", (name,))
            database.execute(
                "UPDATE run SET finished = ?, name = coalesce(?, name) WHERE id = ?", (_now(), name, run)
            )

    def runs(self) -> list[Run]:
        """Return all runs without their results, the oldest first."""
        return self._read("SELECT * FROM run ORDER BY id", (), with_results=False)

    def load(self, key: str | int) -> Run:
        """Return a run with its results.

        Parameters
        ----------
        key
            Id, name of a baseline, or ``"latest"``.

        Raises
        ------
        ConfigError
            If there is no such run; the message lists the names.
        """
        if key == "latest":
            found = self._read("SELECT * FROM run ORDER BY id DESC LIMIT 1", ())
        elif isinstance(key, int) or key.isdecimal():
            found = self._read("SELECT * FROM run WHERE id = ?", (int(key),))
        else:
            found = self._read("SELECT * FROM run WHERE name = ?", (key,))
        if not found:
            runs = self.runs()
            names = ", ".join(run.name for run in runs if run.name) or "none"
            message = f"{self.path}: no run {key}; there are {len(runs)} runs, baselines: {names}"
            raise ConfigError(message)
        return found[0]

    def find_unfinished(self, suite: Suite) -> Run | None:
        """Return the last run of a suite that was not finished, with its results."""
        found = self._read(
            "SELECT * FROM run WHERE finished IS NULL AND source = ? AND arguments = ? "
            "ORDER BY id DESC LIMIT 1",
            (suite.source, _dump_sorted(suite.arguments)),
        )
        return found[0] if found else None

    def _read(self, query: str, values: tuple[object, ...], *, with_results: bool = True) -> list[Run]:
        with self._transaction(write=False) as database:
            database.row_factory = sqlite3.Row
            runs: list[Run] = []
            for row in database.execute(query, values).fetchall():
                results = (
                    database.execute(
                        "SELECT * FROM result WHERE run = ? ORDER BY process, position", (row["id"],)
                    ).fetchall()
                    if with_results
                    else []
                )
                try:
                    runs.append(_run(row, [_result(one) for one in results]))
                except (ValueError, TypeError, RecursionError) as error:
                    self._refuse(f"run {row['id']} is damaged: {error}", error)
            return runs


def _run(row: sqlite3.Row, results: list[Result]) -> Run:
    values = dict(row)
    for name in ("arguments", "config", "environment"):
        values[name] = _parse(values[name], dict)
    for name in ("suite", "source", "started"):
        _expect(values[name], str)
    return Run(**values, results=results)


def _result(row: sqlite3.Row) -> Result:
    values = {name: row[name] for name in _COLUMNS}
    for name in _AS_JSON:
        values[name] = _parse(values[name], list if name == "higher_is_better" else dict)
    for name, kind in (("case", str), ("process", int), ("number", int), ("unit", str)):
        _expect(values[name], kind)
    for name in ("memory", "mlx_memory", "load_before", "load_after", "units"):
        _expect(values[name], int, float, type(None))
    if values["status"] not in get_args(Status):
        message = f"status {values['status']!r}"
        raise ValueError(message)
    for tolerance in values["same"].values():
        _expect(tolerance, int, float)
    for samples in values["metrics"].values():
        _expect(samples, list)
        if not samples or not all(type(x) in {int, float} and math.isfinite(x) for x in samples):
            message = "samples that are no numbers"
            raise ValueError(message)
    return Result(**values)


def _expect(value: object, *kinds: type) -> None:
    if type(value) not in kinds:
        message = f"{type(value).__name__} where {kinds[0].__name__} belongs"
        raise TypeError(message)


def _parse(text: object, kind: type) -> Any:
    _expect(text, str)
    value = json.loads(cast("str", text))
    _expect(value, kind)
    return value


_dump: Callable[[object], str] = json.JSONEncoder(default=str).encode


def _dump_sorted(values: Mapping[str, Any]) -> str:
    """Return equal texts for equal arguments."""
    return json.dumps(dict(values), sort_keys=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
