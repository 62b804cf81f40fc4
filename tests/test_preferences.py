"""Training on preferences: what rows may look like, what is refused, and what a model learns from them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from efficientai_toolkit import _core
from efficientai_toolkit.callbacks import Evaluated, Progress, ProgressBar, Step, parse_event
from efficientai_toolkit.cli.shared import data_report
from efficientai_toolkit.cli.shared.first_prompt import find_first_prompt
from efficientai_toolkit.exceptions import ConfigError, DatasetError, TrainingError
from support.engine import FIXTURES, MODELS, Event, Run, tensors, train
from support.pairs import OBJECTIVES, Row, random_pairs, write
from support.rows import words, write_jsonl, write_words

SMALL = MODELS / "llama_gqa"
CHAT = MODELS / "chat"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "data", random_pairs(10, seed=1), random_pairs(3, seed=2))


def user(text: str) -> Row:
    return {"role": "user", "content": text}


def assistant(text: str) -> Row:
    return {"role": "assistant", "content": text}


def human(text: str) -> Row:
    return {"from": "human", "value": text}


def gpt(text: str) -> Row:
    return {"from": "gpt", "value": text}


ASKED, GOOD, BAD = "What is tea?", "A drink.", "No idea at all."
ALIKE: dict[str, Row] = {
    "texts": {"prompt": ASKED, "chosen": GOOD, "rejected": BAD},
    "messages": {"prompt": [user(ASKED)], "chosen": [assistant(GOOD)], "rejected": [assistant(BAD)]},
    "messages and texts": {"prompt": [user(ASKED)], "chosen": GOOD, "rejected": BAD},
    "implicit prompt": {
        "chosen": [user(ASKED), assistant(GOOD)],
        "rejected": [user(ASKED), assistant(BAD)],
    },
    "whole conversations beside their prompt": {
        "prompt": ASKED,
        "messages": [user(ASKED), assistant(GOOD)],
        "chosen": [user(ASKED), assistant(GOOD)],
        "rejected": [user(ASKED), assistant(BAD)],
    },
    "prompt repeated": {
        "prompt": [user(ASKED)],
        "chosen": [user(ASKED), assistant(GOOD)],
        "rejected": [user(ASKED), assistant(BAD)],
    },
    "alpaca": {"instruction": ASKED, "input": "", "chosen": GOOD, "rejected": BAD},
    "sharegpt": {"conversations": [human(ASKED)], "chosen": gpt(GOOD), "rejected": gpt(BAD)},
}


def losses(model: Path, folder: Path, rows: list[Row], **settings: Any) -> list[float]:
    data = write(folder / "data", rows)
    run = train(model, data, folder / "run", iters=3, lr=1e-2, objective="dpo", num_layers=1, **settings)
    return list(run.losses.values())


def test_rows_of_all_kinds_are_alike(tmp_path: Path) -> None:
    curves = {name: losses(CHAT, tmp_path / name, [row]) for name, row in ALIKE.items()}
    assert curves["texts"][-1] < 0.6
    assert all(curve == curves["texts"] for curve in curves.values()), curves
    renamed = [{"question": ASKED, "better": GOOD, "worse": BAD, "chosen": "t5", "rejected": "t5"}]
    columns = ["prompt=question", "chosen=better", "rejected=worse"]
    assert losses(CHAT, tmp_path / "renamed", renamed, columns=columns) == curves["texts"]


def test_texts_that_begin_alike(tmp_path: Path) -> None:
    """No template has a part in them; the words in which they part are the answers."""
    rows = [{"chosen": "t5 t6 t7 t9", "rejected": "t5 t6 t8"}]
    explicit = [{"prompt": "t5 t6", "chosen": " t7 t9", "rejected": " t8"}]
    assert losses(SMALL, tmp_path / "a", rows) == losses(SMALL, tmp_path / "b", explicit)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "t5", "chosen": "t6"}, 'has "chosen" but no "rejected"'),
        ({"prompt": "t5", "rejected": "t6", "chosen": None}, 'has "rejected" but no "chosen"'),
        ({"prompt": "t5", "chosen": "t6", "rejected": "t6"}, "are the same, so neither can be preferred"),
        ({"prompt": "t5", "chosen": " t6 t7", "rejected": " t6  t7"}, "are the same tokens"),
        ({"chosen": "t6", "rejected": "t7"}, 'has no "prompt".*do not begin with the same words'),
        ({"prompt": 5, "chosen": "t6", "rejected": "t7"}, '"prompt" must be a text or a list of messages'),
        ({"prompt": "t5", "chosen": 6, "rejected": "t7"}, '"chosen" must be a text, a message or a list'),
        (
            {"chosen": [user("a"), assistant("b")], "rejected": [user("c"), assistant("d")]},
            "differ in their prompt: they have no first message in common",
        ),
        (
            {"chosen": [user("a"), user("b")], "rejected": [user("a"), assistant("c")]},
            'differ in their prompt: .*"chosen" goes on with a message of the role "user"',
        ),
        (
            {"prompt": [user("a")], "chosen": [user("a"), assistant("b")], "rejected": [assistant("c")]},
            'differ in their prompt: .*"chosen" goes on with a message of the role "user"',
        ),
        (
            {"chosen": [user("a"), assistant("b")], "rejected": [user("a")]},
            '"rejected" holds no answer, only the prompt',
        ),
        ({"prompt": [user("a")], "chosen": "b", "rejected": "c"}, "no chat template; use rows with .*texts"),
        (
            {"prompt": "t5", "completion": "t6"},
            'kind "completion", but objective "dpo" or "orpo" learns from',
        ),
    ],
)
@pytest.mark.parametrize("door", ["validate", "train"])
def test_rows_that_are_no_pairs(tmp_path: Path, row: Row, message: str, door: str) -> None:
    data = write(tmp_path / "data", [*random_pairs(1, seed=1), row])
    doors: dict[str, Callable[[], object]] = {
        "train": lambda: train(SMALL, data, tmp_path / "run", iters=1, objective="dpo"),
        "validate": lambda: validate(SMALL, data, objective="orpo"),
    }
    with pytest.raises(DatasetError, match=rf"train\.jsonl:2: .*{message}"):
        doors[door]()


def validate(model: Path, data: Path, **settings: Any) -> dict[str, Any]:
    config = json.dumps({"data": str(data), **settings})
    report: dict[str, Any] = json.loads(
        _core.lora.validate(*_core.models.load(str(model), None, None), config)
    )
    return report


def test_pairs_are_nothing_for_sft(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r'train\.jsonl:1: .*pair of answers .*objective "dpo" or "orpo"'):
        train(SMALL, data, tmp_path / "run", iters=1)
    # As the message says.
    train(SMALL, data, tmp_path / "run", iters=1, columns=["prompt=prompt", "completion=chosen"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "ppo"}, "objective|ppo"),
        ({"objective": "dpo", "packing": True}, 'packing is for objective "sft", not for "dpo"'),
        ({"objective": "orpo", "packing": True}, 'packing is for objective "sft", not for "orpo"'),
        ({"objective": "dpo", "dpo_beta": 0.0}, "dpo_beta is 0"),
        ({"objective": "dpo", "dpo_label_smoothing": 0.5}, "dpo_label_smoothing is 0.5"),
        ({"objective": "orpo", "orpo_lambda": 0.0}, "orpo_lambda is 0"),
        ({"orpo_lambda": 1.0}, 'orpo_lambda is for objective "orpo", not for "sft"'),
    ],
)
def test_settings(settings: dict[str, Any], message: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        train(SMALL, data, tmp_path / "run", iters=1, **settings)


def test_what_pairs_hold(tmp_path: Path) -> None:
    rows = [
        {"prompt": "t5 t6", "chosen": " t7 t8 t9", "rejected": " t7"},
        {"prompt": "t5 t6", "chosen": " t7 t8 t9", "rejected": " t7"},
        {"prompt": "t5", "chosen": " t7", "rejected": " t7 t8 t9 t10"},
        # Alike where they are cut, and nothing but a prompt.
        {"prompt": "t5", "chosen": " t6 t7 t8 t9 t10 t11", "rejected": " t6 t7 t8 t9 t10 t12"},
        {"prompt": words(range(3, 12)), "chosen": " t6", "rejected": " t7"},
    ]
    report = validate(SMALL, write(tmp_path / "data", rows), objective="dpo", max_seq_length=6)
    split = report["train"]
    assert (split["rows"], split["kinds"], split["duplicates"]) == (5, {"pair": 5}, 1)
    assert (split["dropped"], split["truncated"], split["longest"]) == (2, 0, 11)
    assert (split["kept_tokens"], split["trained_tokens"]) == (2 * (6 + 4) + 3 + 6, 2 * (4 + 2) + 2 + 5)
    assert split["lengths"]["median"] == 6
    assert split["pairs"]["chosen"] == {"min": 2, "median": 4, "mean": 3.8, "p95": 7, "max": 7}
    assert split["pairs"]["rejected"]["mean"] == 3.6
    assert split["pairs"]["chosen_longer"] == 0.4
    assert split["packed_rows"] == 0
    assert report["test"]["pairs"] is None
    told = " ".join(data_report.format_details(report).split())
    assert "chosen 2 to 7, mean 3.8; rejected 2 to 7, mean 3.6; chosen is longer in 40.0%" in told
    assert "packing" not in told


@pytest.mark.parametrize("name", [name for name in ALIKE if name not in ("alpaca", "sharegpt")])
def test_the_prompt_to_show(name: str, tmp_path: Path) -> None:
    assert find_first_prompt(write(tmp_path / "data", [ALIKE[name]])) == ASKED


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_events_and_report(objective: str, data: Path, tmp_path: Path) -> None:
    run = train(SMALL, data, tmp_path / "run", iters=4, batch_size=4, eval_every=2, objective=objective)
    events = [parse_event(json.dumps(event)) for event in run.events]
    steps = [event for event in events if isinstance(event, Step)]
    scored = [event for event in events if isinstance(event, Evaluated)]
    assert all(event.reward_accuracy is not None and 0 <= event.reward_accuracy <= 1 for event in steps)
    assert [event.perplexity for event in scored] == [None] * 3
    report = json.loads((run.output / "training.json").read_text())["report"]
    assert report["perplexity_after"] is None
    assert [entry["margin"] for entry in report["train_rewards"]] == [event.reward_margin for event in steps]
    margins = {step: entry["margin"] for step, entry in report["validation_rewards"]}
    assert margins == {event.step: event.reward_margin for event in scored}
    assert report["rewards_before"]["margin"] == margins[0]
    assert report["rewards_after"]["margin"] == margins[report["best_step"]]
    assert report["loss_after"] == min(loss for step, loss in report["validation_losses"] if step > 0)
    # Ten pairs make three batches.
    assert steps[2].epoch == 1
    told = [event for event in events if isinstance(event, Progress)]
    assert told == events[: len(told)]
    assert [(event.done, event.total) for event in told][-1:] == [(13, 13)] * (objective == "dpo")


def test_the_bar_tells_of_preferences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("efficientai_toolkit.callbacks.progress_bar._SILENT_SECS", -1.0)
    stream = io.StringIO()
    bar = ProgressBar(stream)
    bar.on(Progress(stage="reference", done=1200, total=12000))
    bar.on(Evaluated(step=0, loss=0.6, perplexity=None, reward_accuracy=0.75, reward_margin=0.25))
    assert stream.getvalue().splitlines() == [
        "reference log-probabilities: 1,200 of 12,000 pairs",
        "validation after 0 steps: loss 0.600, reward accuracy 75.0%, margin 0.250",
    ]


def test_dpo_begins_at_log_2(data: Path, tmp_path: Path) -> None:
    """Whatever a model and its adapter are, nothing is preferred to where they begin."""
    ways: list[dict[str, Any]] = [
        {},
        {"init_adapter": str(FIXTURES / "lora" / "gradient")},
        {"method": "full"},
        {"method": "dora"},
        {"method": "adalora"},
        {"lora_init": "pissa"},
    ]
    for number, way in enumerate(ways):
        run = train(SMALL, data, tmp_path / str(number), iters=2, objective="dpo", **way)
        assert run.of("evaluated")[0]["loss"] == pytest.approx(np.log(2), abs=1e-5), way
        assert run.losses[1] == pytest.approx(np.log(2), abs=1e-5), way


METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"method": "dora"},
    "adalora": {"method": "adalora"},
    "full": {"method": "full"},
    "float16": {"dtype": "float16"},
    "bfloat16": {"dtype": "bfloat16"},
    "neftune": {"neftune_alpha": 5.0, "lora_dropout": 0.1},
}


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns(name: str, objective: str, data: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"iters": 12, "batch_size": 10, "lr": 5e-3, "objective": objective}
    run = train(SMALL, data, tmp_path / "run", **settings | METHODS[name])
    steps = run.of("step")
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert steps[-1]["reward_margin"] > steps[0]["reward_margin"]
    assert steps[-1]["reward_accuracy"] >= (0.8 if objective == "dpo" else steps[0]["reward_accuracy"])


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(
    "extra", [{}, {"grad_accumulation": 2}, {"method": "full", "grad_checkpoint": 1}], ids=str
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    objective: str, extra: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "objective": objective,
        "iters": 8,
        "batch_size": 2,
        "lr": 1e-2,
        "eval_every": 3,
        "save_every": 2,
        **extra,
    }
    whole = train(SMALL, data, tmp_path / "whole", **settings)
    part = stopped(data, tmp_path / "part", 5, **settings)
    rest = train(SMALL, data, part.output, resume=True, **settings)
    keys = ("train_losses", "validation_losses", "train_rewards", "validation_rewards", "rewards_after")
    for key in keys:
        assert rest.report[key] == whole.report[key], key
    name = "model.safetensors" if "method" in extra else "adapters.safetensors"
    result = tensors(part.output / name)
    for key, value in tensors(whole.output / name).items():
        assert np.array_equal(value, result[key]), key


def stopped(data: Path, output: Path, after: int, **settings: Any) -> Run:
    def stop(_: Run, event: Event) -> None:
        if event["event"] == "step" and event["step"] == after:
            raise KeyboardInterrupt

    part = Run(output)
    with pytest.raises(KeyboardInterrupt):
        train(SMALL, data, output, stop, part, **settings)
    return part


def test_the_reference_is_kept(data: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"objective": "dpo", "iters": 6, "batch_size": 2, "lr": 1e-2}
    part = stopped(data, tmp_path / "part", 3, **settings)
    file = part.output / "checkpoints" / "reference.json"
    stored = json.loads(file.read_text())
    assert (len(stored["train"]), len(stored["valid"])) == (20, 6)
    # What is stored is taken, and not computed anew: a mark in it shows.
    file.write_text(
        json.dumps({**stored, "valid": [number + 1 for number in stored["valid"][:1]] + stored["valid"][1:]})
    )
    marked = train(SMALL, data, part.output, resume=True, **settings)
    whole = train(SMALL, data, tmp_path / "whole", **settings)
    assert marked.report["train_losses"] == whole.report["train_losses"]
    assert marked.report["loss_after"] != whole.report["loss_after"]
    # Other validation rows have another reference.
    part = stopped(data, tmp_path / "other", 3, **settings)
    write_jsonl(data / "valid.jsonl", random_pairs(5, seed=3))
    run = train(SMALL, data, part.output, resume=True, **settings)
    assert run.of("evaluated")[-1]["reward_margin"] is not None


def test_nothing_is_left_of_a_run_without_a_step(data: Path, tmp_path: Path) -> None:
    def stop(_: Run, event: Event) -> None:
        if event["event"] == "started":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(SMALL, data, tmp_path / "run", stop, iters=2, objective="dpo")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_model_without_numbers_has_no_reference(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in SMALL.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = tensors(SMALL / "model.safetensors")
    weights["model.norm.weight"][:] = np.nan
    mx.save_safetensors(str(folder / "model.safetensors"), {name: mx.array(x) for name, x in weights.items()})
    with pytest.raises(TrainingError, match=r"log-probability of an answer is .* before the first step"):
        train(folder, data, tmp_path / "run", iters=1, objective="dpo")


def test_rows_of_both_kinds_are_told_apart(tmp_path: Path) -> None:
    data = write_words(tmp_path / "data", [[5, 6]])
    write_jsonl(data / "train.jsonl", random_pairs(3, seed=1))
    with pytest.raises(DatasetError, match=r'valid\.jsonl:1: .*kind "text"'):
        train(SMALL, data, tmp_path / "run", iters=1, objective="dpo")
