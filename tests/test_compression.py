"""Compression within a budget: every stage interrupted and resumed, what is given up, the choice, bad "
"input."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit._base.assets import MODEL
from efficientai_toolkit.cli import main
from efficientai_toolkit.compress import CandidateRow, CompressConfig, CompressResult, compress
from efficientai_toolkit.compress.budget import Budget
from efficientai_toolkit.compress.candidates import (
    Candidate,
    list_candidates,
    order_candidates,
    predict_size,
)
from efficientai_toolkit.compress.choice import choose
from efficientai_toolkit.compress.recovery import RECOVERIES, RecoverySettings
from efficientai_toolkit.compress.timetable import Timetable
from efficientai_toolkit.compress.weights import read_weights
from efficientai_toolkit.exceptions import ConfigError, DatasetError, ModelLoadingError, TrainingError
from efficientai_toolkit.study.record import load_run
from support.engine import tensors
from support.models import wide_llama
from support.rows import random_ids, words, write_jsonl, write_words

if TYPE_CHECKING:
    from efficientai_toolkit.compress.timetable import Progress

RUN = "cpu-model-compression:compress"


def write_texts(folder: Path) -> dict[str, Any]:
    """A model, texts and questions, and settings that measure little."""
    rows = random_ids(12, [40], seed=1, vocab_size=96)
    write_words(folder / "data", rows, rows[:4])
    questions = [{"prompt": words(ids[:5]), "completion": words(ids[5:7])} for ids in rows]
    write_jsonl(folder / "questions.jsonl", questions)
    return {
        "model_path": str(wide_llama(folder / "model")),
        "calibration": str(folder / "data"),
        "heldout": str(folder / "data"),
        "task": str(folder / "questions.jsonl"),
        "sequences": 4,
        "length": 32,
        "sequence_length": 32,
        "prompt_tokens": 8,
        "generated_tokens": 4,
        "repeats": 1,
        "rounds": 1,
        "output": str(folder / "out"),
    }


class Stopper:
    """Interrupts before the second stage, so that each attempt ends one."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, str]] = []
        self.left = 2

    def __call__(self, progress: Progress) -> None:
        if progress.event is None:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
            self.begun.append((progress.stage, progress.candidate))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[CompressResult, list[tuple[str, str]]]:
    """A compression that was interrupted before every stage, and the stages that were done."""
    folder = tmp_path_factory.mktemp("compression")
    settings: dict[str, Any] = write_texts(folder) | {
        "budget": "size=0.6",
        "max_loss": "30%",
        "prune": ["none", "depth-0.5"],
        "recover": ["none", "lora"],
        "data": str(folder / "data"),
        "recovery_steps": 2,
        "recovery_length": 32,
        "quantize": ["rtn-8-g32"],
    }
    begun: list[tuple[str, str]] = []
    for attempt in range(40):
        stopper = Stopper()
        try:
            result = compress(**settings, resume=attempt > 0, on_progress=stopper)
        except KeyboardInterrupt:
            assert len(stopper.begun) == 1
            assert not (folder / "out" / "config.json").exists()
            assert load_run(folder / "out" / "compression").status == "interrupted"
        else:
            return result, [*begun, *stopper.begun]
        finally:
            begun += stopper.begun if stopper.left == 0 else []
    pytest.fail("never finished")


def test_every_stage_is_done_once_however_often_it_is_interrupted(
    finished: tuple[CompressResult, list[tuple[str, str]]],
) -> None:
    _, begun = finished
    counts = Counter(stage for stage, _ in begun)
    # Both models that build on the pruned one share it; it is screened once, and so is the trained one.
    assert counts == {"quality": 1 + 2 + 3, "quantize": 3, "prune": 1, "recover": 1, "speed": 4}


def test_the_result_is_a_model_with_a_report(
    finished: tuple[CompressResult, list[tuple[str, str]]],
) -> None:
    result, _ = finished
    assert [row.variant for row in result.rows] == [
        "original", "rtn-8-g32", "depth-0.5+rtn-8-g32", "depth-0.5+lora+rtn-8-g32",
    ]  # fmt: skip
    assert all(row.is_measured and row.decode_tokens_per_second for row in result.rows)
    assert result.choice.meets_budget
    chosen = result.choice.row
    assert chosen is not None
    model, tokenizer = eat.load(result.output, show_progress=False)
    assert model.num_parameters == chosen.parameters
    assert eat.generate(model, tokenizer, [5, 6, 7], max_tokens=2) is not None
    size = sum(file.stat().st_size for file in result.output.glob("*.safetensors"))
    assert size == chosen.size_bytes

    folder = result.output / "compression"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert f"Recommended: {chosen.variant}" in page
    assert "<svg" in page
    assert not re.search(r'(src|href)="(?!#)', page)
    with (folder / "results.csv").open(encoding="utf-8") as file:
        assert [row["variant"] for row in csv.DictReader(file)] == [row.variant for row in result.rows]
    assert CompressResult.load(result.output).rows == result.rows
    record = load_run(folder)
    assert (record.status, record.kind) == ("finished", "compression")
    assert record.result["size_ratio"] == chosen.size_ratio
    # The models of the others are gone.
    assert not list(folder.glob("stages/*/*/model"))


def test_sizes_are_known_in_advance(finished: tuple[CompressResult, list[tuple[str, str]]]) -> None:
    result, _ = finished
    weights = read_weights(Path(result.config["model_path"]))
    for row in result.rows[1:]:
        one = Candidate(pruning=row.pruning, recovery=row.recovery, quantization=row.quantization)
        assert predict_size(one, weights) == pytest.approx(row.size_bytes, rel=0.02)


def test_intervals_hold_the_differences(finished: tuple[CompressResult, list[tuple[str, str]]]) -> None:
    result, _ = finished
    for row in result.rows:
        assert row.loss_low is not None
        assert row.loss_high is not None
        assert row.perplexity_increase is not None
        assert row.loss_low <= row.perplexity_increase <= row.loss_high
        assert row.questions == 12
    original = result.rows[0]
    assert (original.loss_low, original.loss_high, original.accuracy_p) == (0, 0, 1)


def test_a_finished_compression_does_nothing_again_and_may_get_another_budget(
    finished: tuple[CompressResult, list[tuple[str, str]]],
) -> None:
    result, _ = finished
    stages: list[str] = []
    settings: dict[str, Any] = result.config | {"resume": False}
    config = CompressConfig(**settings)
    again = compress(config, resume=True, on_progress=lambda progress: stages.append(progress.stage))
    assert (again.rows, stages) == (result.rows, [])
    with pytest.raises(TrainingError, match="holds a compression; choose another --output, or give --resume"):
        compress(config)


@pytest.mark.parametrize("name", RECOVERIES)
def test_a_trained_model_is_stored_as_the_pruned_one(name: str, tmp_path: Path) -> None:
    given = write_texts(tmp_path)
    pruned = tmp_path / "bf16"
    eat.export(given["model_path"], format="safetensors", type="bf16", output=str(pruned))
    settings = RecoverySettings(
        original=given["model_path"],
        pruned=str(pruned),
        data=given["heldout"],
        output=str(tmp_path / "trained"),
        steps=2,
        batch_size=2,
        max_seq_length=32,
        lr=1e-2,
        seed=0,
    )
    RECOVERIES[name](settings, lambda _: None)
    before, after = (tensors(Path(path) / "model.safetensors") for path in (settings.pruned, settings.output))
    assert {key: (value.shape, value.dtype) for key, value in before.items()} == {
        key: (value.shape, value.dtype) for key, value in after.items()
    }
    assert any(not np.array_equal(before[key], after[key]) for key in before)
    assert not Path(f"{settings.output}-training").exists()


def test_what_a_hopeless_pruning_carries_is_given_up(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "prune": ["none", "depth-0.5"],
        "quantize": ["rtn-8"],
        "max_loss": "1%",
        "sequences": 4,
        "length": 64,
        "prompt_tokens": 8,
        "generated_tokens": 4,
        "repeats": 1,
        "rounds": 1,
        "plots": False,
        "output": str(tmp_path / "out"),
    }
    result = compress(**settings)
    reasons = {row.variant: row.given_up for row in result.rows}
    assert reasons["rtn-8"] is None
    hopeless = str(reasons["depth-0.5+rtn-8"])
    assert re.fullmatch(r"depth-0\.5 alone has a loss of \+\d+\.\d%, over 3%", hopeless)
    assert result.choice.row is not None
    assert result.choice.row.variant == "rtn-8"
    few = compress(**settings, candidates=1, resume=True)
    assert few.rows[2].given_up == "not tried: the number of candidates is reached"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"budget": "speed=0.5"},
            "`budget` has 'speed=0.5'; it takes pairs such as size=0.25 of size, latency",
        ),
        ({"budget": "size"}, "`budget` has 'size'"),
        ({"budget": "size=1.5"}, "above 0 and at most 1, not size=1.5"),
        ({"budget": "size=small"}, "above 0 and at most 1, not size=small"),
        ({"budget": "size=0.5,size=0.4"}, "`budget` names size twice"),
        ({"max_loss": "little"}, "`max_loss` must be a share in percent, such as 1%, not 'little'"),
        ({"max_loss": "0%"}, "`max_loss` must be above 0"),
        ({"prune": ["depth"]}, "`prune` has 'depth'; it takes none, depth-0.1"),
        ({"prune": ["2:4-0.5"]}, "`prune` has '2:4-0.5'"),
        ({"quantize": ["gptq"]}, "`quantize` has 'gptq'; it takes none, mixed"),
        ({"quantize": ["best-4"]}, "`quantize` has 'best-4'"),
        ({"quantize": ["mixed"]}, "`quantize` has mixed, which is made for the size of the budget"),
        ({"recover": ["rest"], "data": "x"}, "`recover` has 'rest'; there are none, distill, lora, full"),
        ({"recover": ["lora"]}, "`recover` needs `data` to train on"),
        ({"prune": ["none"], "quantize": ["none"]}, "there is nothing to try"),
        ({"quantize": ["rtn-8", "rtn-8"]}, "`quantize` must name each value once"),
        ({"export": ["pdf"]}, "`export` has the unknown format 'pdf'; there are gguf"),
        ({"export": ["gguf:q9"]}, "q9"),
        ({"rounds": 0}, "`rounds` must be at least 1, not 0"),
        ({"stop_factor": 0.5}, "`stop_factor` must be at least 1"),
        ({"recovery_lr": 0.0}, "`recovery_lr` must be above 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        CompressConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"calibration": "nowhere.jsonl"}, "nowhere.jsonl, which `calibration` names"),
        ({"heldout": "nowhere.jsonl"}, "nowhere.jsonl, which `heldout` names"),
        ({"task": "nowhere.jsonl"}, "nowhere.jsonl, which `task` names"),
    ],
)
def test_texts_that_are_missing_are_named_before_anything_is_written(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=re.escape(message)):
        compress(output=str(tmp_path / "out"), **settings)
    assert not (tmp_path / "out").exists()


def test_models_and_folders_that_cannot_be_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelLoadingError, match=r"has no \.safetensors files"):
        compress(str(tmp_path / "empty"), output=str(tmp_path / "out"))
    (tmp_path / "empty" / "model.safetensors").write_bytes(b"\xff" * 8)
    with pytest.raises(ModelLoadingError, match="the header has"):
        compress(str(tmp_path / "empty"), output=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(TrainingError, match="holds a model"):
        compress(output=str(tmp_path / "model"))
    model = wide_llama(tmp_path / "wide")
    with pytest.raises(ConfigError, match="is the model itself"):
        compress(str(model), output=str(model), overwrite=True)
    with pytest.raises(ConfigError, match="`resume` needs `output`"):
        compress(resume=True)


def test_calibration_that_is_too_short_is_a_row_with_its_reason(tmp_path: Path) -> None:
    settings: dict[str, Any] = write_texts(tmp_path) | {"task": None, "plots": False}
    short = tmp_path / "short"
    write_words(short, [[5, 6]], [[5, 6]])
    settings |= {"calibration": str(short), "prune": ["2:4"], "quantize": ["none"]}
    result = compress(**settings)
    assert result.choice.row is None
    assert result.choice.reason == "no candidate could be built and measured"
    assert "short" in str(result.rows[1].error)
    assert not (result.output / "config.json").exists()


def row(name: str, *, size: float, speed: float, loss: float, front: bool = True) -> CandidateRow:
    return CandidateRow(
        model="m",
        variant=name,
        size_bytes=int(1e8 * size),
        size_ratio=size,
        latency_ratio=speed,
        memory_ratio=1.0,
        perplexity=10 * (1 + loss),
        perplexity_increase=loss,
        decode_tokens_per_second=10 / speed,
        on_front=front,
    )


ROWS = [
    row("original", size=1, speed=1, loss=0),
    row("large", size=0.5, speed=0.7, loss=0.001),
    row("middle", size=0.3, speed=0.5, loss=0.01),
    row("small", size=0.25, speed=0.4, loss=0.08),
    CandidateRow(model="m", variant="broken", error="quantize: no"),
]


@pytest.mark.parametrize(
    ("budget", "loss", "prefer", "chosen"),
    [
        ("size=0.6", 0.02, "quality", "large"),
        ("size=0.6", 0.02, "size", "middle"),
        ("size=0.6", 0.1, "speed", "small"),
        ("size=0.6,latency=0.5", 0.02, "quality", "middle"),
        (None, 0.02, "quality", "large"),
    ],
)
def test_the_best_within_the_budget_is_chosen(
    budget: str | None, loss: float, prefer: str, chosen: str
) -> None:
    found = choose(ROWS, Budget.parse(budget), loss, prefer)
    assert found.row is not None
    assert (found.row.variant, found.meets_budget) == (chosen, True)


def test_without_one_the_nearest_is_chosen_and_the_reason_says_what_it_misses() -> None:
    found = choose(ROWS, Budget.parse("size=0.28"), 0.02, "quality")
    assert found.row is not None
    assert (found.row.variant, found.meets_budget) == ("middle", False)
    assert "exceeds the limit of the size of the weights on disk by 7%" in found.reason
    assert "within the loss, the least size of the weights on disk is 0.300 of the original's (middle)" in (
        found.reason
    )
    assert "within the budget, the least loss is +8.00% (small)" in found.reason


def test_cheap_candidates_come_first() -> None:
    weights = read_weights(MODEL)
    found = list_candidates(["none", "depth-0.2"], ["none", "lora"], ["none", "gptq-4", "rtn-8"])
    assert [one.name for one in order_candidates(found, weights)] == [
        "rtn-8", "gptq-4", "depth-0.2", "depth-0.2+rtn-8", "depth-0.2+gptq-4", "depth-0.2+lora",
        "depth-0.2+lora+rtn-8", "depth-0.2+lora+gptq-4",
    ]  # fmt: skip


def test_the_time_that_is_left_follows_from_stages_of_the_kind() -> None:
    found: list[Progress] = []
    table = Timetable(found.append)
    table.plan(["quality", "speed", "speed"])
    with table.during("quality", "one"):
        table.add("quality", 10.0)
    with table.during("speed", "one"):
        table.add("speed", 2.0)
    with table.during("speed", "two"):
        pass
    assert [(one.done, one.total, one.seconds_left) for one in found] == [(0, 3, None), (1, 3, 20), (2, 3, 2)]


def test_the_command_says_what_is_wrong_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([RUN, "--budget", "weight=0.5"]) == 2
    assert "`budget` has 'weight=0.5'" in capsys.readouterr().err


def test_the_command_compresses_and_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = write_texts(tmp_path) | {"task": None, "plots": False, "prune": ["none"]}
    settings |= {"quantize": ["rtn-8-g32"], "max_loss": "30%", "export": ["safetensors", "gguf"]}
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(settings), encoding="utf-8")
    # The tokenizer of the model is none that GGUF can express: that is told, and the rest stands.
    assert main([RUN, "--config", str(file)]) == 2
    shown = capsys.readouterr()
    assert "recommended: rtn-8-g32" in shown.out
    assert "exported safetensors to" in shown.out
    assert "gguf failed: export: a tokenizer" in shown.out
    assert "3/" in shown.err
    assert (tmp_path / "out" / "exports" / "safetensors" / "config.json").is_file()
    assert (tmp_path / "out" / "config.json").is_file()
