"""Benchmarks of quantized models: every column, failures as rows, resuming, and the choice among results."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

import efficientai_toolkit as eat
from efficientai_toolkit._engine.core import core
from efficientai_toolkit.cli import main
from efficientai_toolkit.data.rows import Row
from efficientai_toolkit.evaluation.text import read_sequences, tokenize_row
from efficientai_toolkit.exceptions import (
    ConfigError,
    DatasetError,
    ToolkitError,
    TrainingError,
)
from efficientai_toolkit.quantize import (
    BenchmarkResult,
    SuiteConfig,
    benchmark,
    recommend,
)
from efficientai_toolkit.quantize.suite.cases import cases, locate, measure_quality, measure_speed
from efficientai_toolkit.quantize.suite.report import draw
from efficientai_toolkit.quantize.suite.result import read_layers
from efficientai_toolkit.quantize.suite.table import format_rows
from efficientai_toolkit.study.record import load_run
from efficientai_toolkit.trackers import Tracker
from support.measurements import ROWS, make_result, make_row
from support.models import wide_llama
from support.rows import random_ids, words, write_jsonl, write_words

if TYPE_CHECKING:
    from efficientai_toolkit.benchmark.runner import Progress

RUN = "quantized-model-benchmarks:run"
STOPPED = 3
"""Result after which the run of the fixture is interrupted."""


def write_settings(folder: Path) -> Path:
    """Model, texts, and a file with a variant that works, one that fails, and one that is refused."""
    model = wide_llama(folder / "model")
    rows = random_ids(12, [40], seed=1, vocab_size=96)
    write_words(folder / "data", rows, rows[:4])
    questions = [{"prompt": words(ids[:5]), "completion": words(ids[5:7])} for ids in rows[:2]]
    write_jsonl(folder / "questions.jsonl", questions)
    settings = {
        "models": [str(model)],
        "techniques": ["rtn"],
        "bits": [4],
        "group_sizes": [32],
        "variants": {
            "nothing": {"technique": "rtn", "layers": {"*.nothing": 4}},
            "undamped": {"technique": "gptq", "damping": 0.0},
        },
        "settings": {"embedding_bits": 6, "sequence_length": 32},
        "calibration": str(folder / "data"),
        "data": str(folder / "data"),
        "tasks": [str(folder / "questions.jsonl")],
        "sequences": 3,
        "length": 32,
        "prompt_tokens": 8,
        "generated_tokens": 4,
        "repeats": 1,
        "output": str(folder / "out"),
    }
    path = folder / "suite.json"
    path.write_text(json.dumps(settings))
    return path


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[BenchmarkResult, list[Progress]]:
    """The result of a run that was interrupted and resumed, and what was measured after that."""
    path = write_settings(tmp_path_factory.mktemp("benchmark"))
    config = SuiteConfig.from_file(path)

    def stop(progress: Progress) -> None:
        if progress.result is not None and progress.done == STOPPED:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        benchmark(config, on_progress=stop)
    with pytest.raises(TrainingError, match=r"holds a benchmark; .*--resume or --overwrite"):
        benchmark(config)
    seen: list[Progress] = []
    resumed = replace(config, resume=True)
    return benchmark(resumed, on_progress=seen.append, callback=Tracker("jsonl")), seen


def test_the_benchmark_is_a_run_whose_parts_are_its_rows(
    measured: tuple[BenchmarkResult, list[Progress]],
) -> None:
    result, _ = measured
    run = load_run(result.output)
    assert (run.kind, run.status, run.resumed is not None) == ("quantization", "finished", True)
    lines = [json.loads(line) for line in (result.output / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [*range(1, len(result.rows) + 1)]
    assert [line.get("perplexity") for line in lines] == [row.perplexity for row in result.rows]


def test_every_column_is_measured(measured: tuple[BenchmarkResult, list[Progress]]) -> None:
    result, _ = measured
    original, rtn, *_ = result.rows
    assert (original.variant, rtn.variant) == ("original", "rtn-4bit-g32")
    assert (original.error, rtn.error) == (None, None)
    assert (original.mean_kl, original.top_agreement) == (0.0, 1.0)
    model = Path(result.config["models"][0])
    assert original.size_bytes == (model / "model.safetensors").stat().st_size
    folder = result.output / "models" / "rtn-4bit-g32"
    assert rtn.size_bytes == (folder / "model.safetensors").stat().st_size
    # As the engine says it, without the suite.
    (reference, tokenizer), (quantized, _) = eat.load(model), eat.load(folder)
    rows = read_sequences(tokenizer, result.config["data"], count=3, length=32)
    assert [len(ids) for ids in rows] == [32, 32, 32]
    expected = json.loads(core.evaluate.divergence(quantized, reference, rows))
    for name in ("perplexity", "mean_kl", "p99_kl", "top_agreement", "positions"):
        assert getattr(rtn, name) == pytest.approx(expected[name], rel=1e-6), name
    increase = expected["perplexity"] / expected["reference_perplexity"] - 1
    assert rtn.perplexity_increase == pytest.approx(increase)
    report = json.loads((folder / "quantization.json").read_text())
    assert report["config"]["embedding_bits"] == 6
    assert rtn.bits_per_weight == report["report"]["bits_per_weight"]
    assert rtn.quantize_seconds == pytest.approx(report["report"]["seconds"])
    assert result.layers[f"model/{rtn.variant}"] == {
        layer["path"]: layer["weight_error"] for layer in report["report"]["layers"]
    }
    assert (original.path, rtn.path) == (str(model), str(folder))
    for row in (original, rtn):
        assert row.tasks.keys() == {"questions/exact_match"}
        assert row.backend == eat.hardware().backend
        for name in ("load_seconds", "prefill_tokens_per_second", "decode_tokens_per_second"):
            assert getattr(row, name) > 0, name
        assert (row.peak_memory_bytes or 0) > (row.size_bytes or 0)
        assert {name: len(values) for name, values in row.samples.items()} == dict.fromkeys(
            ("load", "prefill", "decode", "memory"), 1
        )


def test_a_variant_is_measured_with_int8_activations(
    measured: tuple[BenchmarkResult, list[Progress]],
) -> None:
    result, _ = measured
    name = "rtn-4bit-g32"
    settings = {"technique": "rtn", "bits": 4, "group_size": 32, "accuracy": "int8"}
    suite = SuiteConfig(**(result.config | {"techniques": [], "variants": {name: settings}}))
    assert suite.plan_quantization(suite.list_variants()[name], "", Path()).group_size == 32
    where = {"model": "model", "variant": name}
    (reference, tokenizer), (quantized, _) = (
        eat.load(path) for path in (result.config["models"][0], result.output / "models" / name)
    )
    rows = read_sequences(tokenizer, suite.data, count=3, length=32)
    expected = json.loads(core.evaluate.divergence(quantized, reference, rows, "int8"))
    found = measure_quality(suite, result.output, **where)
    assert found["mean_kl"] == expected["mean_kl"]
    assert measure_speed(suite, result.output, **where, process=0)["decode"] > 0
    original = measure_quality(suite, result.output, model="model", variant="original")
    assert original["mean_kl"] == 0.0
    with pytest.raises(ConfigError, match="`variants: new`: `accuracy` must be one of f32, bf16, int8"):
        SuiteConfig(variants={"new": {"technique": "rtn", "accuracy": "int4"}})


def test_a_failure_is_a_row_with_its_reason(measured: tuple[BenchmarkResult, list[Progress]]) -> None:
    result, _ = measured
    *_, nothing, undamped = result.rows
    assert (nothing.variant, undamped.variant) == ("nothing", "undamped")
    assert nothing.error is not None
    assert nothing.error.startswith('quantize: layers: no layer matches "*.nothing"')
    assert undamped.error is not None
    assert "damping" in undamped.error
    text = format_rows(result.rows)
    assert text.splitlines()[0].split()[-2:] == ["questions/exact_match", "front"]
    assert f"model/nothing failed: {nothing.error}" in text.splitlines()
    assert repr(result).startswith("BenchmarkResult(output=")
    assert "rows=4, failed=2" in repr(result)


def test_a_resumed_run_keeps_what_is_measured(measured: tuple[BenchmarkResult, list[Progress]]) -> None:
    _, seen = measured
    again = [progress.result.case for progress in seen if progress.result is not None]
    # Original: quality, speed; then rtn: quantize.
    assert not any(
        "variant=original" in case or case.startswith("quantize[model=model,variant=rtn") for case in again
    )
    assert [case.partition("[")[0] for case in again[:2]] == ["quality", "speed"]


def test_resuming_a_finished_run_writes_its_files_again(
    measured: tuple[BenchmarkResult, list[Progress]],
) -> None:
    result, _ = measured
    (result.output / "results.md").unlink()
    seen: list[Progress] = []
    assert benchmark(SuiteConfig(**result.config), on_progress=seen.append) == result
    assert not seen
    assert (result.output / "results.md").exists()
    with pytest.raises(ConfigError, match="no interrupted run"):
        benchmark(SuiteConfig(**result.config), sequences=2)


def test_the_files(measured: tuple[BenchmarkResult, list[Progress]]) -> None:
    result, _ = measured
    folder = result.output
    assert BenchmarkResult.load(folder) == result
    with (folder / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["variant"] for line in lines] == ["original", "rtn-4bit-g32", "nothing", "undamped"]
    assert float(lines[1]["mean_kl"]) == result.rows[1].mean_kl
    assert json.loads(lines[1]["settings"])["group_size"] == 32
    assert lines[1]["questions/exact_match"]
    assert "| rtn-4bit-g32 |" in (folder / "results.md").read_text()
    for name in ("front", "layers"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert ET.parse(folder / f"{name}.svg").getroot().tag.endswith("svg")
    page = (folder / "report.html").read_text()
    assert page.count("<svg") == 2
    assert "no layer matches &quot;*.nothing&quot;" in page
    # In one file: nothing is fetched.
    assert "<script" not in page
    assert 'src="' not in page
    record = json.loads((folder / "run.json").read_text())
    assert record["kind"] == "quantization"


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"techniques": ["magic"]},
            ConfigError,
            "`techniques` names the unknown `magic`; there are rtn, gptq",
        ),
        ({"techniques": ["rtn", "rtn"]}, ConfigError, "`techniques` must name each value once"),
        ({"bits": [7]}, ConfigError, "no variant can be quantized: rtn-7bit-g64: .*7 bits"),
        ({"variants": {"a": {"technique": "magic"}}}, ConfigError, "variants: a.* unknown technique `magic`"),
        ({"variants": {"a": {"bit": 3}}}, ConfigError, "variants: a.*unknown key `bit`.*`bits`"),
        ({"variants": {"a": {"output": "x"}}}, ConfigError, "sets `output`, which the benchmark chooses"),
        ({"variants": {"a": 3}}, ConfigError, "must have settings under the name a"),
        ({"variants": {"original": {}}}, ConfigError, "has the name 'original'"),
        ({"variants": {"../x": {}}}, ConfigError, "a name is that of a folder"),
        (
            {"techniques": ["rtn"], "variants": {"rtn-4bit-g64": {}}},
            ConfigError,
            "uses the name rtn-4bit-g64, which the combination",
        ),
        ({"settings": {"model_path": "x"}}, ConfigError, "sets `model_path`"),
        ({"processes": 0}, ConfigError, "`processes` must be at least 1"),
        ({"length": 1}, ConfigError, "`length` must be at least 2"),
        ({"data": "nowhere"}, DatasetError, "there is no folder or file nowhere"),
        ({"calibration": "nowhere"}, DatasetError, "there is no folder or file nowhere"),
        ({"tasks": ["nowhere.yaml"]}, ConfigError, "cannot read the configuration nowhere.yaml"),
        ({"tasks": ["nowhere.jsonl"]}, DatasetError, "there is no folder or file nowhere.jsonl"),
        ({"resume": True}, ConfigError, "`resume` needs `output`"),
    ],
)
def test_bad_settings_are_named_before_anything_is_written(
    settings: dict[str, Any],
    error: type[Exception],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        benchmark(**settings)
    assert not list(tmp_path.iterdir())


def test_text_that_cannot_be_used(tmp_path: Path) -> None:
    _, tokenizer = eat.load()
    short = write_jsonl(tmp_path / "short.jsonl", [{"text": "a few words"}])
    with pytest.raises(DatasetError, match=r"short.jsonl has \d+ tokens, too few .* of 512 tokens"):
        read_sequences(tokenizer, str(short), count=1, length=512)
    other = write_jsonl(tmp_path / "other.jsonl", [{"question": "why"}])
    with pytest.raises(DatasetError, match=r"other.jsonl:1: keys question: a row has `text`"):
        benchmark(data=str(other), output=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_rows_are_tokenized_as_in_training() -> None:
    _, tokenizer = eat.load()
    end = tokenizer.eos_token_id
    pair = Row(path=Path("x"), line=1, values={"prompt": "To be", "completion": ", or not"})
    text = Row(path=Path("x"), line=2, values={"text": "To be, or not"})
    assert (
        tokenize_row(tokenizer, pair)
        == tokenize_row(tokenizer, text)
        == [*tokenizer.encode("To be, or not"), end]
    )


def test_results_that_do_not_exist_or_are_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"holds no results \(No such file or directory\); .*:run"):
        recommend(tmp_path / "nowhere")
    for text in (
        "{",
        "[]",
        '{"rows": [{}]}',
        '{"rows": [{"model": "m", "variant": "v"}], "environment": []}',
    ):
        (tmp_path / "results.json").write_text(text)
        with pytest.raises(ConfigError, match="not the results of a benchmark"):
            BenchmarkResult.load(tmp_path)
    assert main(["quantized-model-benchmarks:recommend", str(tmp_path / "nowhere")]) == 2
    assert "holds no results" in capsys.readouterr().err


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_result(ROWS, tmp_path).to_json(tmp_path / "results.json")
    words = ["quantized-model-benchmarks:recommend", str(tmp_path), "--max-loss", "1%", "--prefer", "size"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert text.startswith("recommended: good\n")
    assert "increase of the perplexity +5.00% is above max_loss" in " ".join(text.split())
    assert main([*words, "--max-size", "1MB"]) == 2
    assert capsys.readouterr().out.startswith("recommended: none\n")
    assert (
        main(["quantized-model-benchmarks:compare", f"{tmp_path}::good", f"{tmp_path}::bad", "--json"]) == 0
    )
    comparison = json.loads(capsys.readouterr().out)
    assert comparison["lines"][0] == {
        "row": "good / bad", "quantity": "size", "first": 12_000_000, "second": 13_000_000,
        "shown": ["12 MB", "13 MB"], "verdict": None,
    }  # fmt: skip
    assert main([RUN, "--techniques", "magic"]) == 2
    assert "names the unknown `magic`" in capsys.readouterr().err


def test_sensitivities_of_mixed_precision_are_drawn(tmp_path: Path) -> None:
    layers = [{"path": "a", "weight_error": 0.1}, {"path": "b", "weight_error": 0.0}]
    sensitivity = [{"layer": "a", "kl": 0.01, "format": "4/64", "errors": {}}]
    report = {"report": {"layers": layers, "sensitivity": sensitivity}}
    (tmp_path / "quantization.json").write_text(json.dumps(report))
    errors, found = read_layers(tmp_path)
    assert (errors, found) == ({"a": 0.1, "b": 0.0}, {"a": 0.01})
    assert read_layers(tmp_path / "nowhere") == ({}, {})
    rows = [make_row("original"), make_row("mixed")]
    result = BenchmarkResult(
        output=tmp_path, rows=rows, layers={"m/mixed": errors}, sensitivity={"m/mixed": found}
    )
    assert list(draw(result)) == ["front", "layers", "sensitivity"]


def test_several_models_have_folders_and_labels_of_their_own() -> None:
    suite = SuiteConfig(models=["a/one", "b/one", "b/two"], techniques=["rtn"], bits=[3, 4])
    assert suite.label_models() == {"a/one": "a/one", "b/one": "b/one", "two": "b/two"}
    places = [locate(suite, Path("out"), model, "rtn-3bit-g64") for model in suite.label_models()]
    assert places == [Path("out/models") / f"{number}-rtn-3bit-g64" for number in (1, 2, 3)]
    assert locate(suite, Path("out"), "two", "original") == Path("b/two")
    names = [case.id for case in cases(suite.measured(), "out")]
    assert len(set(names)) == len(names) == 3 * (2 + 2 * 3)


def test_speed_is_measured_in_rounds() -> None:
    suite = SuiteConfig(techniques=["rtn"], processes=3)
    speeds = [case.params for case in cases(suite.measured(), "out") if case.name == "speed"]
    variants = [str(params["variant"]).partition("-")[0] for params in speeds]
    assert variants == ["original", "rtn", "rtn", "original", "original", "rtn"]
    assert [params["process"] for params in speeds] == [0, 0, 1, 1, 2, 2]


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "models").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TrainingError, match="models is a symbolic link, which is not followed"):
        benchmark(output=str(tmp_path / "out"))


def test_a_model_whose_quantized_folder_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="holds no model: it was not quantized"):
        measure_speed(SuiteConfig(), tmp_path, model="embedded", variant="rtn-4bit-g64", process=0)
