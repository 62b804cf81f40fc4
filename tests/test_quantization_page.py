"""The page of quantized models: filters, runs that it starts, and what it is built from."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from efficientai_toolkit.exceptions import DependencyError
from efficientai_toolkit.quantize.suite import demo
from support.command import python
from support.measurements import ROWS, make_result

if TYPE_CHECKING:
    from efficientai_toolkit.quantize import BenchmarkResult, SuiteConfig


def test_the_page_filters_and_starts_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert demo.show_results(None, "", "", "", None, "speed")[2].startswith("There are no results yet")
    folder = tmp_path / "runs" / "quantization-0001"
    folder.mkdir(parents=True)
    make_result(ROWS, folder).to_json(folder / "results.json")
    assert demo.list_results(tmp_path / "runs") == demo.list_results(folder) == [str(folder)]
    figure, table, advice = demo.show_results(str(folder), "45MB", "", "1%", None, "size")
    assert figure is not None
    assert [row[0] for row in table["data"]] == ["good", "bad"]
    assert advice.startswith("**Recommended: m/good**")
    assert "`original` peak memory 50 MB is above max_memory 45 MB" in advice
    assert demo.show_results(str(folder), "much", "", "", None, "size")[2].startswith(
        "**Error:** `max_memory`"
    )

    def run(config: SuiteConfig, **_: Any) -> BenchmarkResult:
        assert (config.techniques, config.bits) == (["rtn"], [4])
        return make_result(ROWS, Path(str(config.output)))

    monkeypatch.setattr(demo, "benchmark", run)
    *_, last = demo.start_run(str(tmp_path / "runs"), "", ["rtn"], [4], [64], "")
    assert last == f"finished: {tmp_path / 'runs' / 'quantization-0002'}"
    *_, last = demo.start_run(str(tmp_path / "runs"), "", ["magic"], [4], [64], "")
    assert last.startswith("error: `techniques` names the unknown `magic`")


def test_the_page_is_built(tmp_path: Path) -> None:
    if importlib.util.find_spec("gradio") is None:
        with pytest.raises(DependencyError, match=r"the page needs gradio.*uv sync --extra demo"):
            demo.build_demo(tmp_path)
        pytest.skip("gradio is not installed")
    # In a process of its own: Gradio leaves event loops behind.
    code = (
        "import sys\nfrom efficientai_toolkit.quantize import build_demo\n"
        "print(*(function.name for function in build_demo(sys.argv[1]).fns.values()))"
    )
    done = python(code, str(tmp_path))
    assert {"show_results", "start_run"} <= set(done.stdout.split()), done.stderr
