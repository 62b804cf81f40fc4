"""Suites of benchmarks: where they are found, and what is wrong with them."""

import sys
from importlib import metadata
from pathlib import Path

import pytest

from efficientai_toolkit import benchmark
from efficientai_toolkit.benchmark.config import BenchmarkConfig
from efficientai_toolkit.benchmark.runner import matches
from efficientai_toolkit.benchmark.suite import GROUP, Suite, list_suites
from efficientai_toolkit.exceptions import ConfigError

SUITE = str(Path(__file__).parent / "support" / "benchmark_suite.py")

EMPTY = "from efficientai_toolkit.benchmark import Case\ndef cases():\n    return "
BAD = {
    "def cases(:": r"not valid Python: .* \(line 1\)",
    "x = 1": "has no function `cases`, which yields the cases",
    "raise RuntimeError('stop')": "cannot yield its cases: RuntimeError: stop",
    "import no_such_package": "cannot yield its cases: ModuleNotFoundError: No module named 'no_such",
    "import sys; sys.exit(3)": "cannot yield its cases: SystemExit: 3",
    "def cases(size): return []": r"cannot yield its cases: TypeError: .* missing 1 required .* 'size'",
    "def cases(): return 7": "must yield cases, not return int",
    "def cases(): return ['case']": "yields str, expected efficientai_toolkit.benchmark.Case",
    f"{EMPTY}[]": "yields no cases",
    f"{EMPTY}[Case(name='a', run=len)] * 2": "yields the case `a` twice; give cases different names",
    f"{EMPTY}[Case(name='a')]": "the case `a` needs one of `run`, `measure` and `command`, not none",
    f"{EMPTY}[Case(name='a', run=len, measure=len)]": "needs one of .*, not run and measure",
    f"{EMPTY}[Case(name='a', command='ls -l')]": "has a `command` that is no list of words",
    f"{EMPTY}[Case(name='a', command=['ls'], setup=len)]": "has a `setup`, which a `command` cannot use",
    f"{EMPTY}[Case(name='a', run=len, units=0)]": "has 0 `units`, which must be above 0",
    f"{EMPTY}[Case(name='a', run=len, same={{'ids': 0}})]": "has values that must be the `same`, but no",
    f"{EMPTY}[Case(name='a', run=len, params=[[1]])]": "has `params` that are not names with plain values",
    f"{EMPTY}[Case(name='a', run=len, params={{'x': len}})]": "has `params` that are not names with",
    f"{EMPTY}[Case(nam='a')]": "cannot yield its cases: TypeError: .* unexpected keyword argument 'nam'",
}  # fmt: skip


def test_arguments_and_patterns_choose_cases() -> None:
    names = [case["case"] for case in benchmark.list_cases(Suite(source=SUITE, arguments={"only": "hold"}))]
    assert names == ["hold[megabytes=1]", "hold[megabytes=100]"]
    assert [case["case"] for case in benchmark.list_cases(SUITE, "add")] == ["add[a=1,b=x]"]
    with pytest.raises(
        ConfigError, match=r"benchmark_suite.py: no case fits nought; there are hold\[megabytes="
    ):
        benchmark.list_cases(SUITE, "nought")
    with pytest.raises(
        ConfigError, match=r"benchmark_suite.py: cannot yield .* unexpected keyword argument 'x'"
    ):
        benchmark.list_cases(Suite(source=SUITE, arguments={"x": 1}))
    assert matches("hold[bytes=1]", "h*1]")
    assert not matches("hold[bytes=1]", "h*2]")


@pytest.mark.parametrize("text", list(BAD))
def test_a_bad_suite_is_named_with_its_path(
    text: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"bad\.py: .*{BAD[text]}"):
        Suite(source=str(path)).load()
    sys.path.remove(str(tmp_path))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("no/such.py", "no/such.py: no such file"),
        ("no_such_suite", r"no_such_suite: no installed suite has this name \(there are: none\)"),
        ("json:no_function", "json:no_function: has no function `no_function`"),
        ("no_such_module:cases", "no_such_module:cases: cannot yield its cases: ModuleNotFoundError"),
    ],
)
def test_a_suite_that_is_not_there(source: str, reason: str) -> None:
    # In another process: the message comes through.
    with pytest.raises(ConfigError, match=f"^{reason}"):
        benchmark.list_cases(source)


def test_suites_are_entry_points_too(monkeypatch: pytest.MonkeyPatch) -> None:
    point = metadata.EntryPoint("mine", "efficientai_toolkit.benchmark.commands:cases", GROUP)
    monkeypatch.setattr(metadata, "entry_points", lambda **_: [point])
    assert list_suites() == {"mine": point.value}
    (case,) = Suite(source="mine", arguments={"command": ["true"]}).load()
    assert case.command == ["true"]


def test_the_example_of_the_documentation_works(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "benchmark.md").read_text(encoding="utf-8")
    path = tmp_path / "my_suite.py"
    path.write_text(page.partition("```python\n")[2].partition("```")[0])
    suite = Suite(source=str(path), arguments={"sizes": [8]})
    config = BenchmarkConfig(repeats=1, min_time=0.0, warmup=0.0)
    (result,) = benchmark.run(suite, config, output=tmp_path / "r.sqlite").results
    assert (result.case, result.status, result.unit) == ("matmul[size=8]", "ok", "FLOP")
