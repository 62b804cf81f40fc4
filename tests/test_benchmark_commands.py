"""``efficientai-toolkit benchmark``: what it prints and writes."""

import csv
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from efficientai_toolkit.benchmark.drawing import Strip, draw_strips
from efficientai_toolkit.benchmark.result import Result
from efficientai_toolkit.benchmark.store import Store
from efficientai_toolkit.benchmark.suite import Suite
from efficientai_toolkit.benchmark.table import format_value, list_problems
from efficientai_toolkit.cli import main

SUITE = str(Path(__file__).parent / "support" / "benchmark_suite.py")
QUICK = ["--repeats", "2", "--min-time", "0", "--warmup", "0"]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A baseline and a run in which one case is slower, one is equal and one fails."""
    path = tmp_path / "r.sqlite"
    store = Store(path, create=True)
    suite = Suite(source="my_suite.py")
    for name, factor in (("main", 1.0), (None, 1.5)):
        run = store.start(suite, {"repeats": 5}, {"hardware": {"chip": "<Z80>", "isa": ["sse"]}})
        for process in range(5):
            noise = 1 + process / 100
            shared: dict[str, Any] = {"process": process, "status": "ok", "group": "g", "memory": 5 * 10**6}
            seconds = {"slower": 0.002 * factor * noise, "equal": 0.004 * noise}
            for case, value in seconds.items():
                metrics = {"seconds": [value, value * 1.1]}
                store.add(run, Result(case=case, metrics=metrics, units=1e6, unit="rows", **shared))
        # A bar and a tag would end a cell of a table.
        store.add(run, Result(case="fa|ls<b>", process=0, status="failed", reason="no <way>"))
        store.finish(run, name)
    return path


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(list(words)) == code
    return capsys.readouterr().out


def test_a_suite_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "benchmark", "list", SUITE, "--filter", "hold", "--set", "sizes=[3]")
    assert re.fullmatch(r"hold\[megabytes=3\]  timed, 3 MB per call\n", out)
    cases = json.loads(run(capsys, "benchmark", "list", SUITE, "--json"))["cases"]
    assert {case["kind"] for case in cases} == {"run", "measure", "command"}


def test_runs_are_listed(capsys: pytest.CaptureFixture[str], results: Path) -> None:
    out = run(capsys, "benchmark", "list", "--results", str(results))
    assert re.search(r"(?m)^1    my_suite  main      20\S+  finished\s*$", out)
    listed = json.loads(run(capsys, "benchmark:list", "--results", str(results), "--json"))
    assert [entry["name"] for entry in listed["runs"]] == ["main", None]
    missing = str(results.with_name("none.sqlite"))
    assert "none" in run(capsys, "benchmark", "list", "--results", missing)


def test_a_run_prints_a_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["benchmark", "run", SUITE, *QUICK, "--output", str(tmp_path / "r.sqlite"), "--quiet"]
    out = run(capsys, *words, "--filter", "scores")
    assert re.search(r"(?m)^scores +perplexity +12\.5 +0\.0% +1/1", out)
    assert "run 1 in " in out
    out = run(capsys, *words, "--filter", "?r*s", code=2)
    assert "breaks failed: ValueError: no way" in out
    # What is not installed is no failure.
    assert "absent skipped: No module named" in run(capsys, *words, "--filter", "absent")
    report = json.loads(run(capsys, *words, "--filter", "add", "--save-baseline", "main", "--json"))
    assert (report["name"], len(report["results"]), report["config"]["processes"]) == ("main", 5, 5)
    out = run(capsys, *words, "--filter", "add", "--baseline", "main")
    assert "rank test over 5 and 5 processes" in out or "within the noise" in out
    assert main([*words, "--baseline", "nought"]) == 2
    assert "no run nought; there are 5 runs, baselines: main" in capsys.readouterr().err


def test_progress_is_told_as_json_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    output = str(tmp_path / "r.sqlite")
    words = ["benchmark", "run", SUITE, *QUICK, "--output", output, "--filter", "scores"]
    assert main([*words, "--progress", "json"]) == 0
    *_, last = capsys.readouterr().err.splitlines()
    assert json.loads(last)["result"]["metrics"] == {"perplexity": [12.5], "accuracy": [1.0]}
    assert main(words) == 0
    assert "1/1  scores  perplexity 12.5, accuracy 1" in capsys.readouterr().err


def test_stored_runs_are_compared(capsys: pytest.CaptureFixture[str], results: Path) -> None:
    out = run(capsys, "benchmark", "compare", "run:main", "run:2", "--output", str(results), code=2)
    assert re.search(r"(?m)^slower +time +1\.500 \(1\.\d+–1\.\d+\) +0\.0079 +4\.0% +slower$", out)
    assert re.search(r"(?m)^equal +time +1\.000 .* +1 +4\.0% +cannot tell$", out)
    assert "fa|ls<b> failed: no <way>" in out


def test_live_comparisons_print_a_verdict(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["benchmark", "compare", *QUICK, "--processes", "2", "--output", str(tmp_path / "r.sqlite")]
    out = run(capsys, *words, "command:true", "command:sleep 0.05")
    assert "command:sleep 0.05 compared with command:true" in out
    assert "cannot tell: 2 rounds are too few for p < 0.01; take 8 or more" in out


def test_reports_in_every_format(capsys: pytest.CaptureFixture[str], results: Path, tmp_path: Path) -> None:
    words = ["benchmark", "report", "--results", str(results), "--baseline", "main"]
    text = run(capsys, *words)
    assert "| slower | time | 3.21 ms |" in text
    assert "## run 2 compared with run main" in text
    assert "- hardware: chip <Z80>, isa sse" in text
    paths = {ending: tmp_path / "reports" / f"r.{ending}" for ending in ("md", "json", "csv", "html")}
    for path in paths.values():
        assert run(capsys, *words, "--output", str(path)) == f"wrote {path}\n"
    assert paths["md"].read_text() == text
    found = json.loads(paths["json"].read_text())
    assert found == json.loads(run(capsys, *words, "--json"))
    assert [row["relative"] for row in found["summary"]] == [1.0, pytest.approx(4 / 3)]
    assert found["summary"][0]["throughput"] == pytest.approx(1e6 / 0.00321)
    assert [verdict["answer"] for verdict in found["comparison"]["verdicts"]] == ["slower", "cannot tell"]
    rows = list(csv.DictReader(paths["csv"].read_text().splitlines()))
    assert [row["case"] for row in rows] == ["slower", "equal", "fa|ls<b>"]
    assert float(rows[1]["median"]) == pytest.approx(0.00428)
    assert rows[2]["problem"] == "failed: no <way>"
    page = paths["html"].read_text()
    assert "no &lt;way&gt;" in page
    assert "<b>" not in page
    # Nothing is loaded from elsewhere.
    assert not re.search(r"(src|href)=", page)
    (drawing,) = re.findall(r"(?s)<svg.*?</svg>", page)
    assert len(ET.fromstring(drawing).findall(".//{*}circle")) == 20
    assert main([*words, "--output", "r.pdf"]) == 2
    assert "r.pdf: a report ends with .md, .json, .csv, .html" in capsys.readouterr().err


def test_cases_that_do_other_work_are_marked(tmp_path: Path) -> None:
    store = Store(tmp_path / "r.sqlite", create=True)
    number = store.start(Suite(source="x.py"), {}, {})
    shared: dict[str, Any] = {"process": 0, "status": "ok", "metrics": {"seconds": [1.0]}}
    for case, loss, ids, group in (
        ("first", 2.0, [1, 2], "g"),
        ("near", 2.0001, [1, 2], "g"),
        ("far", 2.001, [1, 2], "g"),
        ("other", 2.0, [1, 3], "g"),
        ("short", 2.0, [1], "g"),
        ("nothing", 2.0, None, "g"),
        ("elsewhere", 7.0, [1], "h"),
    ):
        details, same = {"loss": loss, "ids": ids}, {"loss": 1e-4, "ids": 0.0}
        store.add(number, Result(case=case, group=group, details=details, same=same, **shared))
    assert list_problems(store.load(number)) == {
        "far": "differs: loss is 2.001, not 2 as of first",
        "other": "differs: ids is [1, 3], not [1, 2] as of first",
        "short": "differs: ids is [1], not [1, 2] as of first",
        "nothing": "differs: ids is None, not [1, 2] as of first",
    }


@pytest.mark.parametrize("samples", [[1.0], [0.0, 0.0], [-1.0, 2.0], [1e-6, 1.0], [5.0, 5.0]])
def test_drawings_stay_on_their_page(samples: list[float]) -> None:
    strip = Strip(label="a<b", samples=samples, median=samples[0], q1=samples[0], q3=samples[-1])
    drawing = ET.fromstring(draw_strips([strip, strip], "t&m", str))
    for circle in drawing.findall(".//{*}circle"):
        assert 0 <= float(circle.attrib["cx"]) <= 860


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("seconds", 12.3456, "12.35 s"), ("seconds", 0.0123456, "12.35 ms"), ("seconds", 1.5e-6, "1.5 µs"),
        ("seconds", 2e-10, "0.2 ns"), ("perplexity", 12.3456, "12.35"), ("bytes", 1234567.0, "1,234,567"),
    ],
)  # fmt: skip
def test_values_have_four_digits(metric: str, value: float, text: str) -> None:
    assert format_value(metric, value) == text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["benchmark"], "benchmark needs a command: benchmark:run, benchmark:list, benchmark:compare"),
        (["benchmark", "rum"], "benchmark needs a command: benchmark:run"),
        (["benchmark", "run"], "the following arguments are required: SUITE"),
        (["benchmark", "run", "x.py", "--set", "size"], "--set must be NAME=VALUE, such as size=256"),
        (["benchmark", "run", "x.py", "--repeats", "0"], "`repeats` must be from 1 to 10000, not 0"),
        (["benchmark", "run", "x.py"], "x.py: no such file"),
        (["benchmark", "report", "--results", "x.sqlite"], "x.sqlite: no such file"),
    ],
)
def test_mistakes_are_told(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
