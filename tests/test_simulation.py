"""A model under limits, and beside other runtimes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from efficientai_toolkit._base.assets import MODEL
from efficientai_toolkit.cli import main
from efficientai_toolkit.compress import PeersConfig, SimulationConfig, benchmark, simulate
from efficientai_toolkit.compress.simulation.energy import Zone, count_joules, read_zones
from efficientai_toolkit.exceptions import ConfigError, ToolkitError
from support.models import wide_llama

SHORT: dict[str, Any] = {"prompt_tokens": 16, "generated_tokens": 6, "repeats": 2}


def test_a_model_runs_under_limits() -> None:
    found = simulate(cores=1, threads=1, memory="2GB", **SHORT)
    assert found.is_finished
    assert found.first_token is not None
    assert found.token is not None
    assert list(found.token) == ["p50", "p90", "p99"]
    assert 0 < found.token["p50"] <= found.token["p90"] <= found.token["p99"]
    assert found.tokens_per_second is not None
    assert found.peak_memory_bytes is not None
    assert 10e6 < found.peak_memory_bytes < 2e9
    assert (found.joules_per_token is None) == (found.energy_note is not None)


def test_memory_that_runs_out_is_a_result(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--memory",
        "30MB",
        "--generated-tokens",
        "2",
        "--prompt-tokens",
        "8",
        "--repeats",
        "1",
        "--json",
    ]
    assert main(["cpu-model-compression:simulate", *words]) == 2
    found = json.loads(capsys.readouterr().out)
    assert found["outcome"] == "out of memory"
    assert found["reason"]


def test_a_failure_without_a_limit_is_an_error(tmp_path: Path) -> None:
    model = wide_llama(tmp_path / "model")
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ToolkitError, match=r"model\.safetensors"):
        simulate(str(model), **SHORT)
    # Nor does a limit turn a damaged model into one that is too large.
    with pytest.raises(ToolkitError, match=r"model\.safetensors"):
        simulate(str(model), memory="4GB", **SHORT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cores": 0}, "`cores` must be at least 1, not 0"),
        ({"cores": 100_000}, "`cores` must be at most"),
        ({"threads": 0}, "`threads` must be at least 1"),
        ({"memory": "much"}, "`memory` must be a size such as 4GB or 500MB, not 'much'"),
        ({"generated_tokens": 1}, "`generated_tokens` must be at least 2"),
        ({"prompt": " "}, "`prompt` is empty"),
        ({"timeout": 0.0}, "`timeout` must be above 0"),
    ],
)
def test_limits_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        SimulationConfig(**settings)


def write_zone(folder: Path, name: str, energy: str) -> None:
    zone = folder / name
    zone.mkdir(parents=True, exist_ok=True)
    (zone / "energy_uj").write_text(energy, encoding="ascii")
    (zone / "max_energy_range_uj").write_text("1000000", encoding="ascii")


def test_energy_is_that_of_packages_and_counters_that_begin_again(tmp_path: Path) -> None:
    assert read_zones(tmp_path / "none") == f"this system has no {tmp_path / 'none'}"
    assert "no counters" in str(read_zones(tmp_path))
    write_zone(tmp_path, "intel-rapl:0", "900000")
    write_zone(tmp_path, "intel-rapl:1", "100000")
    write_zone(tmp_path, "intel-rapl:0:0", "5")
    before = read_zones(tmp_path)
    write_zone(tmp_path, "intel-rapl:0", "400000")
    write_zone(tmp_path, "intel-rapl:1", "600000")
    after = read_zones(tmp_path)
    assert isinstance(before, list)
    assert isinstance(after, list)
    assert all(isinstance(one, Zone) for one in before)
    assert count_joules(before, after) == pytest.approx(0.5 + 0.5)
    write_zone(tmp_path, "intel-rapl:0", "nothing")
    assert "cannot be read" in str(read_zones(tmp_path))


def test_runtimes_are_measured_in_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    settings = {
        "output": str(tmp_path / "out"), "rounds": 1, "repeats": 1, "prompt_tokens": 16,
        "generated_tokens": 6,
        "runtimes": ["engine", "engine-cpu", "onnxruntime"],
    }  # fmt: skip
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(settings), encoding="utf-8")
    assert main(["cpu-model-compression:benchmark", "--config", str(file), "--json"]) == 0
    found = {row["runtime"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    for name in ("engine", "onnxruntime"):
        assert found[name]["status"] == "ok", found[name]["reason"]
        assert found[name]["decode_tokens_per_second"] > 0
        assert found[name]["prefill_tokens_per_second"] > 0
    assert found["engine"]["relative_decode"] == 1
    assert found["engine"]["size_bytes"] == (MODEL / "model.safetensors").stat().st_size


def test_a_model_that_a_format_cannot_express_fails_in_its_row(tmp_path: Path) -> None:
    found = benchmark(
        str(wide_llama(tmp_path / "model")),
        runtimes=["llama.cpp"],
        rounds=1,
        repeats=1,
        output=str(tmp_path / "out"),
    )
    [row] = found.rows
    assert row.status in {"failed", "skipped"}
    assert re.search(r"export to gguf|llama-cpp-python", str(row.reason))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"runtimes": ["torch"]}, "`runtimes` names the unknown `torch`; there are engine"),
        ({"runtimes": []}, "`runtimes` must name each runtime once"),
        ({"rounds": 0}, "`rounds` must be at least 1, not 0"),
        ({"generated_tokens": 1}, "`generated_tokens` must be at least 2"),
        ({"onnx_type": "int3"}, "int3"),
    ],
)
def test_benchmarks_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        PeersConfig(**settings)
