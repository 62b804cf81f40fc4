"""A rank for each layer: settings, allocation, short runs, and all of it on a model of two small blocks."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit._engine.core import core
from efficientai_toolkit.cli import main
from efficientai_toolkit.exceptions import ConfigError, TrainingError
from efficientai_toolkit.lora import TrainingConfig
from efficientai_toolkit.lora.analysis import AnalysisConfig, Layer, ShortRun, allocate, analyze
from efficientai_toolkit.lora.analysis.allocation import allocate_uniformly, count_parameters
from efficientai_toolkit.lora.analysis.candidates import propose_candidates, propose_references
from efficientai_toolkit.lora.analysis.information import bound_mean_rank, estimate_information
from support.engine import MODELS, train
from support.rows import random_ids, write_words

MODEL = MODELS / "llama_gqa"
PNG = b"\x89PNG\r\n"


def layer(path: str, inputs: int, outputs: int, sigma: list[float]) -> Layer:
    energy = sum(s * s for s in sigma)
    return Layer(
        path=path,
        inputs=inputs,
        outputs=outputs,
        singular_values=sigma,
        energy=energy,
        stable_rank=energy / sigma[0] ** 2,
        effective_rank=1.0,
    )


def energy(layers: list[Layer], ranks: dict[str, int]) -> float:
    return sum(s * s for one in layers for s in one.singular_values[: ranks[one.path]])


def brute_force(layers: list[Layer], budget: int) -> float:
    best = 0.0
    for counts in itertools.product(*(range(one.most + 1) for one in layers)):
        ranks = {one.path: count for one, count in zip(layers, counts, strict=True)}
        if count_parameters(layers, ranks) <= budget:
            best = max(best, energy(layers, ranks))
    return best


@pytest.mark.parametrize("seed", range(20))
def test_allocation_is_the_best_there_is(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = [(4, 4), (4, 12), (12, 4), (9, 7)]
    layers = [
        layer(f"l{i}", inputs, outputs, sorted(rng.exponential(1, 4).tolist(), reverse=True))
        for i, (inputs, outputs) in enumerate(sizes)
    ]
    # Where all layers cost the same, for every budget.
    alike = [layer(one.path, 8, 8, one.singular_values) for one in layers]
    for budget in range(0, 300, 20):
        ranks = allocate(alike, budget)
        assert count_parameters(alike, ranks) <= budget
        assert energy(alike, ranks) == pytest.approx(brute_force(alike, budget))
    # Where they do not, for what is spent until the first layer is closed.
    offers = sorted(
        ((s * s / one.cost, one) for one in layers for s in one.singular_values), key=lambda o: -o[0]
    )
    for count in range(len(offers) + 1):
        budget = sum(one.cost for _, one in offers[:count])
        ranks = allocate(layers, budget)
        assert count_parameters(layers, ranks) == budget
        assert energy(layers, ranks) == pytest.approx(brute_force(layers, budget))


def test_what_is_left_goes_to_narrower_layers() -> None:
    layers = [layer("wide", 50, 50, [9.0, 8.0]), layer("narrow", 2, 2, [0.5, 0.4])]
    assert allocate(layers, 150) == {"wide": 1, "narrow": 2}
    assert allocate(layers, 0) == {"wide": 0, "narrow": 0}
    assert allocate_uniformly(layers, 250) == {"wide": 2, "narrow": 2}
    assert allocate_uniformly(layers, 1) == {"wide": 1, "narrow": 1}


STATISTICS = {
    "rows": 100,
    "tokens": 1000,
    "kept_tokens": 1000,
    "trained_tokens": 500,
    "entropy": 6.0,
    "near_duplicates": 20,
    "compressed_bytes": 800,
}


def test_information_is_the_smaller_bound() -> None:
    # 1000 tokens of 6 bits, a fifth of the rows repeated, a half of the tokens learned.
    assert estimate_information(STATISTICS) == pytest.approx(1000 * 6 * 0.8 * 0.5)
    assert estimate_information(STATISTICS | {"compressed_bytes": 100}) == pytest.approx(100 * 8 * 0.5)
    # Twice the parameters that hold them at two bits each.
    assert bound_mean_rank(STATISTICS, 300, 16.0) == pytest.approx(8.0)
    assert bound_mean_rank(STATISTICS, 300, 6.0) == 6.0
    assert bound_mean_rank(STATISTICS, 10_000, 6.0) == 1.0


def test_candidates_keep_the_scale_of_the_run() -> None:
    layers = [layer("x.a", 8, 8, [4.0, 3.0, 2.0, 1.0]), layer("x.b", 8, 8, [0.1] * 4)]
    base = TrainingConfig(lora_rank=4, lora_alpha=8.0)
    budgets = propose_candidates(layers, base, 2.0)
    first = budgets[0][0]
    assert (first.form, first.ranks, first.parameters) == ("spectrum", {"x.a": 4, "x.b": 0}, 64)
    run = first.apply(base)
    # 8/4 at rank 4, by alpha/√rank.
    assert run.lora_alpha / run.lora_rank**0.5 == pytest.approx(2.0)
    assert (run.use_rslora, run.lora_rank, run.rank_pattern) == (True, 4, {"x.b": 0})
    assert run.adapter_format == "peft"
    even = next(c for c in budgets[0] if c.form == "uniform")
    assert even.apply(base).rank_pattern is None
    assert even.apply(base).adapter_format == "mlx"
    # The same ranks are not tried twice.
    ranks = [tuple(c.ranks.values()) for budget in budgets for c in budget if c.gain == 1.0]
    assert len(ranks) == len(set(ranks))


@pytest.mark.parametrize("rslora", [False, True])
def test_references_are_the_run_with_the_usual_ranks(rslora: bool) -> None:
    layers = [layer("x.a", 8, 8, [1.0]), layer("x.b", 8, 4, [1.0])]
    base = TrainingConfig(lora_rank=16, lora_alpha=32.0, use_rslora=rslora)
    for rank, reference in zip((4, 8, 16, 32), propose_references(layers, base), strict=True):
        run = reference.apply(base)
        assert (run.lora_rank, run.rank_pattern, reference.parameters) == (rank, None, 28 * rank)
        scale = 32.0 / (rank**0.5 if rslora else rank)
        assert run.lora_alpha / run.lora_rank**0.5 == pytest.approx(scale)


@pytest.fixture
def training(tmp_path: Path) -> TrainingConfig:
    rows = random_ids(12, [6, 9, 12], seed=1)
    data = write_words(tmp_path / "data", rows, rows[:4])
    return TrainingConfig(
        model_path=str(MODEL), data=str(data), output=str(tmp_path / "analysis"), iters=4, lr=1e-3
    )


def test_an_analysis_gives_settings_that_train_takes(training: TrainingConfig) -> None:
    seen: list[ShortRun] = []
    plans: list[list[int]] = []
    analysis = analyze(
        training, batches=2, width=8, max_rank=4.0, steps=1, on_run=seen.append, on_plan=plans.append
    )
    [planned] = plans
    # In four steps no longer runs are left that would depend on the results.
    assert planned == [run.steps for run in seen]
    assert analysis.runs == seen
    assert len(analysis.layers) == len(analysis.choice.ranks) == 14
    assert all(one.most == 8 and one.singular_values[0] > 0 for one in analysis.layers)
    assert all(1 <= one.stable_rank <= one.most for one in analysis.layers)
    assert analysis.data["rows"] == 12
    config = TrainingConfig.from_file(analysis.output / "ranked.yaml")
    assert config.iters == 4
    result = eat.lora.MLXTrainer(config.with_values({"output": str(analysis.output / "run")})).train()
    assert result.metrics["trainable_parameters"] == analysis.choice.parameters
    report = json.loads((analysis.output / "analysis.json").read_text())
    assert report["choice"]["ranks"] == analysis.choice.ranks
    assert (analysis.output / "ranks.png").read_bytes().startswith(PNG)
    assert not (analysis.output / "short-run").exists()
    with pytest.raises(
        TrainingError, match="holds an analysis; choose another --output, or give --overwrite"
    ):
        analyze(training)


def test_the_command(training: TrainingConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["lora-finetuning-mlx:analyze", "--model-path", str(MODEL), "--data", str(training.data)]
    words += ["--output", str(tmp_path / "out"), "--batches", "1", "--width", "4", "--max-rank", "2"]
    assert main([*words, "--steps", "1", "--no-plots"]) == 0
    out, err = capsys.readouterr()
    assert "train with it" in out
    assert "ranked.yaml" in out
    told = re.findall(r"run (\d+) of about (\d+)(?:, about \d+:\d\d left)?: \d+ steps  loss", err)
    assert [int(number) for number, _ in told] == list(range(1, len(told) + 1))
    assert all(int(number) <= int(total) for number, total in told)
    assert f"{len(told)} in 0:" in out
    assert main([*words, "--json", "--overwrite", "--steps", "1", "--no-plots"]) == 0
    assert json.loads(capsys.readouterr().out)["choice"]["parameters"] > 0
    assert main([*words, "--batches", "0"]) == 2
    assert capsys.readouterr().err == "error: `batches` must be at least 1, not 0\n"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "full"}, "`method` is full, but ranks by layer are for lora and dora"),
        ({"objective": "orpo"}, "`objective` is orpo, but ranks by layer are found for sft"),
        ({"rank_pattern": {"q_proj": 2}}, "`rank_pattern` says what the ranks are"),
        ({"init_adapter": "x"}, "`init_adapter` says what the ranks are"),
        ({"resume": True}, "an analysis cannot be resumed"),
        ({"target_modules": ["w_proj"]}, 'target_modules names "w_proj"'),
    ],
)
def test_runs_without_ranks_to_find(training: TrainingConfig, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        analyze(training.with_values(settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "`steps` must be at least 1, not 0"),
        ({"max_rank": 0.5}, "`max_rank` must be at least 1, not 0.5"),
        ({"width": 8}, r"`width` must be at least `max_rank` \(16\), not 8"),
        ({"tolerance": -1.0}, "`tolerance` must not be below 0, but is -1.0"),
        ({"nope": 1}, "unknown key `nope`"),
    ],
)
def test_impossible_analyses(training: TrainingConfig, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        analyze(training, AnalysisConfig(), **settings)


def test_nothing_to_validate_on(training: TrainingConfig, tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text('{"text": "t5 t6 t7"}\n')
    with pytest.raises(ConfigError, match="there are no validation rows"):
        analyze(training.with_values({"data": str(tmp_path / "one.jsonl")}))


def ranks_of(adapter: dict[str, np.ndarray]) -> dict[str, int]:
    return {
        name.removesuffix(".lora_a"): x.shape[1] for name, x in adapter.items() if name.endswith(".lora_a")
    }


def test_a_pattern_gives_ranks_and_none(training: TrainingConfig, tmp_path: Path) -> None:
    pattern = {"layers.1.self_attn.q_proj": 3, "q_proj": 0, "(k|v)_proj": 1}
    run = train(MODEL, Path(str(training.data)), tmp_path / "run", iters=2, lora_rank=2, rank_pattern=pattern)
    report = run.report["rank_pattern"]
    assert "model.layers.0.self_attn.q_proj" not in report
    assert report["model.layers.1.self_attn.q_proj"] == 3
    assert report["model.layers.1.self_attn.v_proj"] == 1
    assert report["model.layers.0.mlp.up_proj"] == 2
    # The format of mlx-lm has one rank: the others are filled up with zeros.
    assert set(ranks_of(run.adapter).values()) == {3}
    assert "model.layers.0.self_attn.q_proj.lora_a" not in run.adapter


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank_pattern": {"w_proj": 2}}, 'rank_pattern has "w_proj", which decides the rank of no layer'),
        ({"rank_pattern": {"q_proj": 2}, "target_modules": ["v_proj"]}, 'rank_pattern has "q_proj"'),
        ({"rank_pattern": {"proj": 2}}, 'rank_pattern has "proj"'),
        ({"rank_pattern": {".*": 0}}, "rank_pattern leaves no layer with a rank above 0"),
        ({"rank_pattern": {"(q": 2}}, '"rank_pattern" has a pattern that cannot be used'),
        ({"rank_pattern": {"q_proj": 70000}}, 'rank_pattern has 70000 for "q_proj", expected 0'),
        ({"rank_pattern": {"q_proj": -1}}, "-1"),
        ({"rank_pattern": {"q_proj": 2}, "method": "adalora"}, 'rank_pattern is for method "lora" or "dora"'),
        ({"rank_pattern": {"q_proj": 2}, "init_adapter": "x"}, "rank_pattern and init_adapter exclude"),
        ({"rank_pattern": {"q_proj": 500}, "lora_init": "pissa"}, "has only"),
    ],
)
def test_patterns_that_cannot_be(
    training: TrainingConfig, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    import re

    with pytest.raises(ValueError, match=re.escape(message)):
        train(MODEL, Path(str(training.data)), tmp_path / "run", iters=1, **settings)


def test_patterns_in_files_and_options(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("rank_pattern:\n  q_proj: 2\n  layers.0.mlp.(up|gate)_proj: 4\n")
    expected = {"q_proj": 2, "layers.0.mlp.(up|gate)_proj": 4}
    assert TrainingConfig.from_file(tmp_path / "run.yaml").rank_pattern == expected
    text = "q_proj=2, layers.0.mlp.(up|gate)_proj=4"
    assert TrainingConfig().with_values({"rank_pattern": text}).rank_pattern == expected
    for value, message in [
        ("q_proj", "`rank_pattern` must have names before its values, not ''"),
        ("q_proj=x", "`rank_pattern` must be a whole number, not 'x'"),
        ({"q_proj": 1.5}, "`rank_pattern` must be a whole number, not 1.5"),
        ({1: 2}, "`rank_pattern` must have names before its values, not 1"),
        ([4], "`rank_pattern` must be pairs of a name and a value, not \\[4\\]"),
    ]:
        with pytest.raises(ConfigError, match=message):
            TrainingConfig().with_values({"rank_pattern": value})


def test_the_engine_refuses_a_probe_of_nothing(training: TrainingConfig) -> None:
    model, tokenizer = core.models.load(str(MODEL), None, "float32")
    for probe in ({"batches": 0, "width": 4}, {"batches": 1, "width": 0}):
        with pytest.raises(ConfigError, match="expected both above 0"):
            core.lora.analyze(model, tokenizer, training.to_json(), json.dumps(probe))
    found = core.lora.analyze(model, tokenizer, training.to_json(), json.dumps({"batches": 1, "width": 4}))
    assert all(math.isfinite(one["energy"]) for one in json.loads(found)["layers"])
