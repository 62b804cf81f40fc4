"""Distillation: losses are those of the formulas, wherever the teacher's predictions come from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest

from efficientai_toolkit.callbacks.training import Step
from efficientai_toolkit.cli import main
from efficientai_toolkit.distill import DistillConfig, distill
from efficientai_toolkit.exceptions import ConfigError, ModelLoadingError, TrainingError
from efficientai_toolkit.lora import TrainingConfig, TrainingResult
from efficientai_toolkit.prune import prune
from support.engine import MODELS, logits, tensors
from support.rows import EOS, random_ids, write_words

if TYPE_CHECKING:
    from efficientai_toolkit.callbacks.events import Event

TEACHER, STUDENT = MODELS / "llama_gqa", MODELS / "llama_tied"
ROWS = random_ids(10, [5, 9, 14, 20], seed=1)
VALID = random_ids(3, [8, 13], seed=2)
PLAIN: dict[str, Any] = {
    "method": "full",
    "iters": 2,
    "batch_size": 2,
    "lr": 1e-3,
    "eval_batches": 0,
    "eval_every": 0,
    "dtype": "float32",
}
LOSSES: list[dict[str, Any]] = [
    {"loss": "forward_kl"},
    {"loss": "reverse_kl"},
    {"loss": "js", "js_beta": 0.3},
    {"loss": "skewed_kl", "skew": 0.2},
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_words(tmp_path / "data", ROWS, VALID)


def log_softmax(x: Any) -> Any:
    x = x.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def divergence(p: Any, q: Any, settings: dict[str, Any]) -> Any:
    """The formulas of the papers, over the last axis of log-probabilities."""

    def kl(a: Any, b: Any) -> Any:
        return (np.exp(a) * (a - b)).sum(-1)

    def mixture(weight: float) -> Any:
        return np.log(weight * np.exp(p) + (1 - weight) * np.exp(q))

    match settings["loss"]:
        case "reverse_kl":
            return kl(q, p)
        case "js":
            beta = settings["js_beta"]
            return beta * kl(p, mixture(beta)) + (1 - beta) * kl(q, mixture(beta))
        case "skewed_kl":
            return kl(p, mixture(settings["skew"]))
        case _:
            return kl(p, q)


def predictions(row: list[int], temperature: float = 1.0) -> tuple[Any, Any, Any]:
    """Log-probabilities of teacher and student at each target of a row, and the targets."""
    ids = [*row, EOS]
    teacher, student = (logits(model, [ids[:-1]])[0] for model in (TEACHER, STUDENT))
    return log_softmax(teacher / temperature), log_softmax(student / temperature), np.array(ids[1:])


def before(result: TrainingResult) -> float:
    """Validation loss of the student as it was."""
    return float(result.metrics["loss_before"])


@pytest.mark.parametrize("settings", LOSSES, ids=lambda settings: settings["loss"])
def test_losses_are_those_of_the_formulas(data: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    mixed = {**settings, "temperature": 2.0, "alpha": 0.75}
    result = distill(STUDENT, teacher=TEACHER, data=data, output=tmp_path / "out", **PLAIN, **mixed)
    divergences, entropies = [], []
    for row in VALID:
        p, q, _ = predictions(row, temperature=2.0)
        divergences += list(divergence(p, q, settings))
        _, q, targets = predictions(row)
        entropies += list(-q[np.arange(len(targets)), targets])
    expected = 0.75 * 4 * np.mean(divergences) + 0.25 * np.mean(entropies)
    assert before(result) == pytest.approx(expected, rel=1e-5)
    assert result.perplexity is None


@pytest.mark.parametrize(
    "settings",
    [
        *LOSSES,
        {"loss": "forward_kl", "alpha": 0.5, "temperature": 3.0},
        {"loss": "reverse_kl", "select_tokens": "divergence"},
        {"loss": "forward_kl", "teacher_cache": "cache", "teacher_top_k": 20},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_a_step_lowers_the_loss_by_its_gradient(tmp_path: Path, settings: dict[str, Any]) -> None:
    """A small step of SGD lowers the loss by the learning rate times the squared norm of the gradient."""
    data = write_words(tmp_path / "data", ROWS[:2], ROWS[:2])
    if "teacher_cache" in settings:
        settings = {**settings, "teacher_cache": str(tmp_path / "cache")}
    steps: list[Step] = []
    lr = 1e-4
    result = distill(
        STUDENT,
        teacher=TEACHER,
        data=data,
        output=tmp_path / "out",
        callback=lambda event: steps.append(event) if isinstance(event, Step) else None,
        **PLAIN | {"iters": 1, "lr": lr, "schedule": "constant", "warmup_ratio": 0.0},
        optimizer="sgd",
        momentum=0.0,
        max_grad_norm=0.0,
        **settings,
    )
    assert steps[0].loss == pytest.approx(before(result), rel=1e-5)
    fall = before(result) - result.metrics["loss_after"]
    assert fall == pytest.approx(lr * steps[0].grad_norm ** 2, rel=0.02)


def test_selected_tokens_are_the_least_certain_of_each_row(data: Path, tmp_path: Path) -> None:
    for selection in ("student_entropy", "divergence"):
        result = distill(
            STUDENT,
            teacher=TEACHER,
            data=data,
            output=tmp_path / selection,
            select_tokens=selection,
            select_share=0.3,
            **PLAIN,
        )
        selected = []
        for row in VALID:
            p, q, targets = predictions(row)
            divergences = divergence(p, q, LOSSES[0])
            scores = divergences if selection == "divergence" else -(np.exp(q) * q).sum(-1)
            count = int(np.ceil(np.float64(len(targets)) * 0.3))
            selected += list(divergences[np.argsort(-scores)[:count]])
        assert before(result) == pytest.approx(np.mean(selected), rel=1e-5)


def loaded(folder: Path) -> dict[str, mx.array]:
    """The tensors of a model, in memory: they may be written over."""
    weights = dict(mx.load(str(folder / "model.safetensors")))
    mx.eval(weights)
    return weights


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"method": "lora", "lora_dropout": 0.2, "alpha": 0.5},
        {"on_policy": 0.5, "grad_accumulation": 2, "alpha": 0.5},
        {"on_policy": 1.0, "method": "lora", "loss": "reverse_kl", "max_new_tokens": 8},
        {"teacher_cache": "cache", "select_tokens": "student_entropy"},
        {"packing": True, "max_seq_length": 32},
        {"neftune_alpha": 5.0, "grad_checkpoint": 1, "on_policy": 0.5},
        {"dtype": "float16"},
        {"qat_bits": 4, "qat_group_size": 32},
    ],
    ids=lambda extra: ", ".join(map(str, extra.values())) or "plain",
)
def test_a_resumed_run_equals_an_uninterrupted_one(data: Path, tmp_path: Path, extra: dict[str, Any]) -> None:
    if "teacher_cache" in extra:
        extra = {**extra, "teacher_cache": str(tmp_path / "cache")}
    settings = {**PLAIN, "iters": 8, "save_every": 3, "eval_every": 4, **extra}

    def stop(event: Event) -> None:
        if isinstance(event, Step) and event.step == 5:
            raise KeyboardInterrupt

    whole = distill(STUDENT, teacher=TEACHER, data=data, output=tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        distill(STUDENT, teacher=TEACHER, data=data, output=tmp_path / "part", callback=stop, **settings)
    rest = distill(STUDENT, teacher=TEACHER, data=data, output=tmp_path / "part", resume=True, **settings)
    assert rest.metrics["resumed_from"] in {3, 4, 5}
    assert rest.metrics["train_losses"] == whole.metrics["train_losses"]
    assert rest.metrics["validation_losses"] == whole.metrics["validation_losses"]
    [name] = [file.name for file in (tmp_path / "whole").glob("*.safetensors")]
    expected, result = tensors(tmp_path / "whole" / name), tensors(tmp_path / "part" / name)
    assert expected.keys() == result.keys()
    for key, value in expected.items():
        assert np.array_equal(value, result[key]), key


def test_another_loss_does_not_continue_a_run(data: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {**PLAIN, "teacher": TEACHER, "data": data, "output": tmp_path / "out"}

    def stop(event: Event) -> None:
        if isinstance(event, Step):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(STUDENT, callback=stop, **settings)
    with pytest.raises(TrainingError, match="distillation was"):
        distill(STUDENT, resume=True, loss="reverse_kl", **settings)


def test_the_student_learns_from_what_it_writes(data: Path, tmp_path: Path) -> None:
    """Of its own samples the divergence falls, and the labels of the data do not matter."""
    settings = {
        **PLAIN,
        "iters": 60,
        "lr": 1e-2,
        "on_policy": 1.0,
        "loss": "reverse_kl",
        "max_new_tokens": 12,
    }
    result = distill(STUDENT, teacher=TEACHER, data=data, output=tmp_path / "out", **settings)
    losses = result.metrics["train_losses"]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_pruned_models_learn_from_the_original(tmp_path: Path) -> None:
    data = write_words(tmp_path / "data", ROWS, ROWS)
    pruned = prune(
        TEACHER,
        pattern="width",
        sparsity=0.25,
        calibration=str(data),
        calibration_sequences=2,
        sequence_length=32,
        output=tmp_path / "pruned",
    ).output
    settings = PLAIN | {"iters": 30}
    result = distill(pruned, teacher=TEACHER, data=data, output=tmp_path / "out", **settings)
    assert result.metrics["loss_after"] < 0.5 * before(result)
    assert logits(tmp_path / "out", [ROWS[0]]).shape[-1] == 256


def test_models_on_the_way_teach_the_next(data: Path, tmp_path: Path) -> None:
    middle = MODELS / "llama_bias"
    settings: dict[str, Any] = {
        "teacher": TEACHER,
        "through": [str(middle)],
        "data": data,
        **PLAIN,
        "save_every": 1,
    }
    whole = distill(STUDENT, output=tmp_path / "whole", **settings)
    steps: list[Event] = []

    def stop(event: Event) -> None:
        if isinstance(event, Step):
            steps.append(event)
            # The first model has two steps, the student is in its first one.
            if len(steps) in {1, 4}:
                raise KeyboardInterrupt

    output = tmp_path / "part"
    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt):
            distill(STUDENT, output=output, callback=stop, resume=resume, **settings)
    rest = distill(STUDENT, output=output, resume=True, **settings)
    assert rest.metrics["train_losses"] == whole.metrics["train_losses"]
    expected = distill(middle, output=tmp_path / "alone", **settings | {"through": []})
    stages = [tensors(folder / "model.safetensors") for folder in (output / "stage-1", expected.adapter_path)]
    assert all(np.array_equal(value, stages[0][name]) for name, value in stages[1].items())
    direct = distill(STUDENT, output=tmp_path / "direct", **settings | {"through": []})
    assert before(direct) != before(rest)


def test_embeddings_of_padding_do_not_count(data: Path, tmp_path: Path) -> None:
    padded = shutil.copytree(TEACHER, tmp_path / "padded")
    config = json.loads((padded / "config.json").read_text())
    (padded / "config.json").write_text(json.dumps(config | {"vocab_size": 320}))
    weights = loaded(padded)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = mx.concatenate([weights[name], mx.ones((64, weights[name].shape[1]))])
    mx.save_safetensors(str(padded / "model.safetensors"), weights, {"format": "pt"})
    results = [
        distill(STUDENT, teacher=teacher, data=data, output=tmp_path / f"out-{teacher.name}", **PLAIN)
        for teacher in (TEACHER, padded)
    ]
    assert before(results[0]) == pytest.approx(before(results[1]), rel=1e-6)
    # The other way round: a student with more embeddings.
    result = distill(padded, teacher=TEACHER, data=data, output=tmp_path / "out", **PLAIN)
    assert before(result) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, ConfigError, "`teacher` is missing"),
        ({"teacher": MODELS / "qwen2"}, ConfigError, "another vocabulary.*96 and 256 tokens, and token 96"),
        ({"teacher": MODELS / "nowhere"}, ModelLoadingError, "nowhere"),
        ({"teacher": TEACHER, "loss": "kl"}, ConfigError, "`loss` must be one of"),
        ({"teacher": TEACHER, "alpha": 0.0}, ConfigError, "alpha is 0"),
        ({"teacher": TEACHER, "objective": "dpo"}, ConfigError, "preference pairs"),
        ({"teacher": TEACHER, "on_policy": 0.5, "packing": True}, ConfigError, "on_policy and packing"),
        ({"teacher": TEACHER, "temprature": 2}, ConfigError, "temperature"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else None,
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    data: Path, tmp_path: Path, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        distill(STUDENT, data=data, output=tmp_path / "out", **PLAIN | settings)
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_the_command(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["cpu-model-compression:distill", "--teacher", TEACHER, "--model-path", STUDENT, "--data", data]
    words += ["--loss", "reverse_kl", "--on-policy", "0.5", "--method", "full", "--iters", "4"]
    words += ["--batch-size", "2"]
    assert main([*map(str, words), "--output", str(tmp_path / "bar"), "--progress", "bar"]) == 0
    assert "validation after 4 steps: loss" in capsys.readouterr().err
    assert main([*map(str, words), "--output", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["output"] == str(tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").exists()
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (record["kind"], record["configuration"]["loss"]) == ("distill", "reverse_kl")


def test_settings_of_both_kinds_may_be_whole(data: Path, tmp_path: Path) -> None:
    training = TrainingConfig(model_path=str(STUDENT), data=str(data), output=str(tmp_path / "out"), iters=1)
    result = distill(training, DistillConfig(teacher=str(TEACHER)), method="lora")
    assert result.adapter_path == tmp_path / "out"
