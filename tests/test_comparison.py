"""Ways to fine-tune beside each other, on a model of two small blocks."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import efficientai_toolkit as eat
from efficientai_toolkit.cli import main
from efficientai_toolkit.exceptions import ConfigError, DependencyError, TrainingError
from efficientai_toolkit.lora import MLXTrainer, TrainingConfig
from efficientai_toolkit.lora.comparison import (
    ComparisonConfig,
    Measurement,
    available_methods,
    compare,
    recommend,
)
from efficientai_toolkit.lora.runner import Runner
from support.engine import MODELS
from support.models import wide_llama
from support.rows import random_ids, write_words

if TYPE_CHECKING:
    from efficientai_toolkit.callbacks import Event


@pytest.fixture
def training(tmp_path: Path) -> TrainingConfig:
    rows = random_ids(6, [6, 9], seed=1)
    data = write_words(tmp_path / "data", rows, rows)
    return TrainingConfig(
        model_path=str(MODELS / "llama_gqa"), data=str(data), output=str(tmp_path / "out"), iters=3, lr=1e-2
    )


def test_methods_are_measured_beside_each_other(training: TrainingConfig) -> None:
    events: list[tuple[str, Event]] = []
    comparison = compare(
        training, methods=["lora", "full"], on_event=lambda method, event: events.append((method, event))
    )
    lora, full = comparison.rows
    assert [method for method, event in events if type(event).__name__ == "Finished"] == ["lora", "full"]
    assert (lora.error, full.error) == (None, None)
    assert lora.lr == 1e-2
    assert full.lr == pytest.approx(1e-3)
    assert lora.loss_before == full.loss_before
    assert (lora.trainable_parameters or 0) < (full.trainable_parameters or 0)
    # As the same run without a comparison.
    alone = MLXTrainer(training.with_values({"output": str(training.output) + "-alone"})).train()
    assert lora.loss_after == pytest.approx(alone.metrics["loss_after"], abs=1e-6)
    assert lora.disk_bytes == (alone.adapter_path / "adapters.safetensors").stat().st_size
    assert 0 < (lora.peak_memory_gb or 0) < (lora.process_memory_gb or 0)
    report = json.loads((comparison.output / "comparison.json").read_text())
    assert report["recommendation"]["method"] in {"lora", "full"}
    with (comparison.output / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["lora", "full"]
    assert float(rows[0]["loss_after"]) == lora.loss_after
    assert (comparison.output / "comparison.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(TrainingError, match="holds a comparison; choose another --output"):
        compare(training, methods=["lora"])
    # What is done is not done again.
    again = compare(training.with_values({"resume": True}), methods=["lora", "full"])
    assert again.rows == comparison.rows


def test_the_methods_compared_by_default(training: TrainingConfig, tmp_path: Path) -> None:
    model = wide_llama(tmp_path / "wide")
    comparison = compare(training.with_values({"model_path": str(model)}), plots=False)
    assert [(row.method, row.error) for row in comparison.rows] == [
        (method, None) for method in ("lora", "qlora", "dora", "full")
    ]
    lora, qlora, dora, full = comparison.rows
    assert all((row.loss_after or 9.0) < (row.loss_before or 0.0) for row in comparison.rows)
    # Only weights of 4 bits are another model to begin with.
    assert lora.loss_before == full.loss_before == pytest.approx(dora.loss_before, abs=1e-5)
    assert qlora.loss_before != pytest.approx(lora.loss_before, abs=1e-3)
    trained = [row.trainable_parameters or 0 for row in comparison.rows]
    assert trained[0] == trained[1] < trained[2] < trained[3]


def test_variants_of_lora_are_methods(training: TrainingConfig) -> None:
    comparison = compare(training, methods=["lora", "rslora", "lora_plus", "pissa", "adalora"], plots=False)
    lora, *others = comparison.rows
    assert [row.error for row in comparison.rows] == [None] * 5
    for row in others:
        assert row.loss_before == pytest.approx(lora.loss_before, abs=1e-3)
        assert row.loss_after != pytest.approx(lora.loss_after, abs=1e-6), row.method


def test_virtual_tokens_are_methods(training: TrainingConfig) -> None:
    methods = ["prompt_tuning", "p_tuning", "prefix_tuning"]
    rows = compare(training, methods=methods, plots=False).rows
    assert [(row.method, row.error) for row in rows] == [(method, None) for method in methods]
    assert all(0 < (row.disk_bytes or 0) < 10_000 for row in rows)


def test_a_method_that_fails_is_a_row(training: TrainingConfig, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["lora-finetuning-mlx:compare", "--methods", "lora", "--target-modules", "nope", "--no-plots"]
    words += ["--output", str(training.output), "--model-path", str(training.model_path)]
    assert main([*words, "--data", str(training.data), "--iters", "1"]) == 2
    out = capsys.readouterr().out
    assert 'lora failed: target_modules names "nope"' in out
    assert "recommended: none\n  no method has trained to the end" in out


def test_a_method_whose_settings_are_refused_is_a_row(
    training: TrainingConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["lora-finetuning-mlx:compare", "--methods", "lora,full,p_tuning", "--use-rslora", "--no-plots"]
    words += ["--output", str(training.output), "--model-path", str(training.model_path)]
    assert main([*words, "--data", str(training.data), "--iters", "1"]) == 0
    captured = capsys.readouterr()
    reason = 'use_rslora is for method "lora" or "dora", not for "{}"'
    for method in ("full", "p_tuning"):
        assert f"{method} failed: {reason.format(method)}" in captured.out
        # Before the others have taken hours.
        assert captured.err.index(f"{method} failed") < captured.err.index("lora: ")
    assert "recommended: lora" in captured.out
    report = json.loads((Path(str(training.output)) / "comparison.json").read_text())
    assert [(row["method"], row["error"] is None) for row in report["rows"]] == [
        ("lora", True),
        ("full", False),
        ("p_tuning", False),
    ]


def test_settings_of_one_method_do_not_need_it_named_twice(
    training: TrainingConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["lora-finetuning-mlx:compare", "--methods", "lora,prefix_tuning", "--prefix-projection"]
    words += ["--no-plots", "--output", str(training.output), "--model-path", str(training.model_path)]
    assert main([*words, "--data", str(training.data), "--iters", "1"]) == 0
    out = capsys.readouterr().out
    assert 'lora failed: prefix_projection is for method "prefix_tuning", not for "lora"' in out
    assert "recommended: prefix_tuning" in out


def test_settings_that_every_method_refuses_are_an_error(training: TrainingConfig) -> None:
    base = training.with_values({"use_rslora": True})
    with pytest.raises(ConfigError) as caught:
        compare(base, methods=["full", "p_tuning"], plots=False)
    for part in ("no method of `methods` can run", "full: use_rslora is for", "; p_tuning: use_rslora"):
        assert part in str(caught.value)
    assert not Path(str(base.output)).exists()


def row(method: str, loss: float, memory: float, seconds: float) -> Measurement:
    return Measurement(method=method, loss_after=loss, peak_memory_gb=memory, seconds=seconds)


ROWS = [row("full", 2.0, 8.0, 50.0), row("lora", 2.05, 4.0, 30.0), row("qlora", 2.09, 2.0, 60.0)]


@pytest.mark.parametrize(
    ("settings", "method", "reason"),
    [
        (
            {},
            "qlora",
            "within 5 % of the lowest (2.000, full), and of the 3 that are good enough it needs the least",
        ),
        ({"prefer": "time"}, "lora", "it needs the least time: 30.0 s"),
        ({"tolerance": 3}, "lora", "loss of 2.050 is within 3 %"),
        (
            {"tolerance": 0},
            "full",
            "is the lowest, and no other comes within 0 %; it needs 8.00 GB of memory",
        ),
    ],
)
def test_the_rule(settings: dict[str, Any], method: str, reason: str) -> None:
    choice = recommend([*ROWS, Measurement(method="dora", error="broken")], ComparisonConfig(**settings))
    assert choice.method == method
    assert reason in choice.reason


def test_methods_that_need_the_same_are_told_apart_by_loss() -> None:
    rows = [row("lora", 2.05, 4.0, 30.0), row("rslora", 2.0, 4.02, 30.1), row("full", 1.99, 8.0, 50.0)]
    for prefer in ("memory", "time"):
        choice = recommend(rows, ComparisonConfig(prefer=prefer))
        assert choice.method == "rslora"
        assert choice.reason.endswith("; so do, with a higher loss, lora")


def test_methods_that_are_the_same_run_are_refused(training: TrainingConfig) -> None:
    base = training.with_values({"use_rslora": True})
    with pytest.raises(ConfigError, match="names lora and rslora, which are the same with these settings"):
        compare(base, methods=["lora", "rslora"], plots=False)
    assert not Path(str(base.output)).exists()


def test_methods_follow_the_training_configuration() -> None:
    assert {"lora", "full", "qlora"} <= set(available_methods())
    base = TrainingConfig(lr=1e-2, bits=8)
    config = ComparisonConfig()
    assert config.apply("lora", base).bits is None
    assert (config.apply("qlora", base).bits, config.apply("qlora", TrainingConfig()).bits) == (8, 4)
    for variant, name, value in (
        ("rslora", "use_rslora", True),
        ("lora_plus", "loraplus_lr_ratio", 16.0),
        ("pissa", "lora_init", "pissa"),
    ):
        run = config.apply(variant, base)
        assert (run.method, run.bits, getattr(run, name)) == ("lora", None, value)
        assert run.with_values({name: getattr(base, name)}) == config.apply("lora", base)
    iterated = TrainingConfig(lora_init="pissa_niter_4")
    assert config.apply("pissa", iterated).lora_init == "pissa_niter_4"
    assert config.apply("full", base).lr == pytest.approx(1e-3)
    assert ComparisonConfig(full_lr=0.5).apply("full", base).lr == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ["lara"]}, "`methods` names the unknown `lara`; there are lora"),
        ({"methods": []}, "must name each of its methods once"),
        ({"methods": ["lora", "lora"]}, "must name each of its methods once"),
        ({"tolerance": -1}, "`tolerance` must not be below 0"),
        ({"full_lr": 0}, "`full_lr` must be above 0"),
        ({"prefer": "money"}, "`prefer` must be one of memory, time"),
    ],
)
def test_wrong_settings_are_explained(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        eat.lora.compare(TrainingConfig(), **settings)


def test_plots_need_a_library(training: TrainingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DependencyError, match=r"`uv sync --extra plots` in the checkout"):
        compare(training)


def test_folders_of_runs_are_no_links(training: TrainingConfig, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "config.json").write_text("kept")
    output = Path(str(training.output))
    output.mkdir()
    (output / "lora").symlink_to("../precious")
    with pytest.raises(TrainingError, match="lora is a symbolic link, which is not followed"):
        compare(training, methods=["lora"], plots=False)
    # As searches and analyses train.
    with pytest.raises(TrainingError, match="lora is a symbolic link, which is not followed"):
        Runner(evaluations=1).train(training, output / "lora", lambda _place, _loss: None)
    assert [file.read_text() for file in (tmp_path / "precious").iterdir()] == ["kept"]
