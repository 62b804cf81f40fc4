"""Files of results: several writers, damage, other programs' files."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from efficientai_toolkit.benchmark.result import Result
from efficientai_toolkit.benchmark.store import Store
from efficientai_toolkit.benchmark.suite import Suite
from efficientai_toolkit.cli import main
from efficientai_toolkit.exceptions import ConfigError, ToolkitError

SUITE = Suite(source="my_suite.py", arguments={"b": 1, "a": [2]})
RESULT = Result(
    case="add[n=1]",
    process=0,
    status="ok",
    metrics={"seconds": [0.5, 0.25], "accuracy": [1]},
    number=3,
    memory=1 << 40,
    details={"who": "ich, 我"},
    load_before=0.5,
    params={"n": 1, "x": None},
    units=2.0,
    unit="tokens",
    group="g",
    higher_is_better=["accuracy"],
    same={"who": 0.0},
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a finished run and one that was interrupted."""
    path = tmp_path / "a folder" / "r?#.sqlite"
    store = Store(path, create=True)
    for number in range(2):
        run = store.start(SUITE, {"repeats": 5}, {"threads": {}})
        store.add(run, RESULT)
        if number == 0:
            store.finish(run, "main")
    return path


def test_results_come_back_as_they_were(path: Path) -> None:
    store = Store(path)
    run = store.load("main")
    assert run == store.load(1) == store.load("1")
    assert run.results == [RESULT]
    assert (run.suite, run.source, run.arguments) == ("my_suite", "my_suite.py", SUITE.arguments)
    assert (run.config, run.environment) == ({"repeats": 5}, {"threads": {}})
    assert run.finished is not None
    assert store.load("latest").id == 2
    assert [(one.id, one.results) for one in store.runs()] == [(1, []), (2, [])]
    unfinished = store.find_unfinished(Suite(source="my_suite.py", arguments={"a": [2], "b": 1}))
    assert unfinished == store.load(2)
    assert store.find_unfinished(Suite(source="my_suite.py")) is None


def test_a_result_replaces_that_of_the_same_process(path: Path) -> None:
    store = Store(path)
    store.add(2, Result(case=RESULT.case, process=0, status="failed", reason="why"))
    store.add(2, Result(case=RESULT.case, process=1, status="skipped", reason="why not"))
    assert [result.status for result in store.load(2).results] == ["failed", "skipped"]


def test_what_is_not_there_is_named(path: Path, tmp_path: Path) -> None:
    for key in ("nought", 7, "7"):
        with pytest.raises(ConfigError, match=rf"no run {key}; there are 2 runs, baselines: main$"):
            Store(path).load(key)
    with pytest.raises(ConfigError, match=r"none\.sqlite: no such file; .* benchmark run` makes one"):
        Store(tmp_path / "none.sqlite")
    assert not (tmp_path / "none.sqlite").exists()


WRITER = """
import sys
from pathlib import Path
from efficientai_toolkit.benchmark.result import Result
from efficientai_toolkit.benchmark.store import Store
from efficientai_toolkit.benchmark.suite import Suite

store = Store(Path(sys.argv[1]), create=True)
run = store.start(Suite(source="x.py"), {}, {})
for number in range(20):
    store.add(run, Result(case=str(number), process=0, status="ok", metrics={"seconds": [1.0]}))
store.finish(run, None)
"""


def test_several_runs_write_to_one_file(tmp_path: Path) -> None:
    # All of them begin with a file that is not there.
    path = tmp_path / "r.sqlite"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path)]) for _ in range(4)]
    assert [writer.wait() for writer in writers] == [0] * 4
    store = Store(path)
    assert len(store.runs()) == 4
    for run in store.runs():
        assert [result.case for result in store.load(run.id).results] == [str(n) for n in range(20)]


def test_a_killed_writer_loses_nothing_that_it_stored(path: Path) -> None:
    code = WRITER.replace("store.finish(run, None)", "import os; os.kill(os.getpid(), 9)")
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    run = Store(path).load("latest")
    assert (len(run.results), run.finished) == (20, None)


def overwrite(table: str, column: str, value: object) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with sqlite3.connect(path) as database:
            database.execute(f'UPDATE {table} SET "{column}" = ?', (value,))
        database.close()

    return damage


def script(text: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        database = sqlite3.connect(path)
        database.executescript(text)
        database.close()

    return damage


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:9000])


def scribble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no database": lambda path: path.write_text("no database " * 100),
    "empty": lambda path: path.write_bytes(b""),
    "cut": cut,
    "scribbled over": scribble,
    "other program": script("PRAGMA application_id = 7"),
    "newer": script("PRAGMA user_version = 99"),
    "other tables": script("ALTER TABLE run ADD COLUMN more TEXT"),
    "no table": script("DROP TABLE result"),
    "view": script("ALTER TABLE run RENAME TO r; CREATE VIEW run AS SELECT * FROM r"),
    "trigger": script("CREATE TRIGGER t AFTER INSERT ON run BEGIN DELETE FROM run; END"),
    "config": overwrite("run", "config", "{"),
    "deep": overwrite("run", "config", "[" * 100_000),
    "environment": overwrite("run", "environment", "[]"),
    "bytes": overwrite("run", "started", b"\xff"),
    "status": overwrite("result", "status", "perhaps"),
    "metrics": overwrite("result", "metrics", "[]"),
    "samples": overwrite("result", "metrics", '{"seconds": 1}'),
    "no samples": overwrite("result", "metrics", '{"seconds": []}'),
    "words": overwrite("result", "metrics", '{"seconds": ["fast"]}'),
    "not finite": overwrite("result", "metrics", '{"seconds": [NaN]}'),
    "memory": overwrite("result", "memory", "much"),
    "same": overwrite("result", "same", '{"ids": "equal"}'),
    "units": overwrite("result", "units", "many"),
}


@pytest.mark.parametrize("name", list(DAMAGE))
def test_a_damaged_file_is_named(name: str, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DAMAGE[name](path)
    with pytest.raises(ToolkitError, match=r"r\?#\.sqlite: ") as caught:
        Store(path).load("main")
    assert "\n" not in str(caught.value)
    assert main(["benchmark", "report", "main", "--results", str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {path}: ")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no database", "cannot be used as a file of results: file is not a database"),
        ("other program", "an SQLite file of another program"),
        ("newer", "has schema 99 of a newer efficientai-toolkit; this one reads 1"),
        ("trigger", "its tables are not those of a file of results"),
        ("status", "run 1 is damaged: status 'perhaps'"),
        ("memory", "run 1 is damaged: str where int belongs"),
    ],
)
def test_writers_do_not_touch_such_a_file(name: str, reason: str, path: Path) -> None:
    DAMAGE[name](path)
    before = path.read_bytes()
    with pytest.raises(ToolkitError) as caught:
        Store(path, create=True).load("main")
    assert str(caught.value) == f"{path}: {reason}"
    assert path.read_bytes() == before


def test_a_folder_in_its_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="cannot be used as a file of results: unable to open"):
        Store(tmp_path, create=True)


def test_the_file_can_be_read_by_others(path: Path) -> None:
    database = sqlite3.connect(path)
    rows = database.execute('SELECT run, "case", metrics FROM result ORDER BY run').fetchall()
    database.close()
    assert [(run, case, json.loads(metrics)) for run, case, metrics in rows] == [
        (run, "add[n=1]", asdict(RESULT)["metrics"]) for run in (1, 2)
    ]
