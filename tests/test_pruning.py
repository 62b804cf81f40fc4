"""Pruned models: exact sparsity and patterns, what calibration wins, resuming, and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit._engine.core import core
from efficientai_toolkit.exceptions import ConfigError, DatasetError, ToolkitError, TrainingError
from efficientai_toolkit.prune import PruneConfig, PruneResult, prune
from support.command import PROGRAM, run
from support.engine import logits, tensors
from support.rows import random_ids, write_words
from test_quantization import make_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

FAMILIES = ["llama_tied", "mixtral", "qwen2", "qwen3_moe", "gemma3_text", "phi3", "lfm2", "gpt_oss"]
IDS = np.array([[5, 6, 7, 8, 30, 31]])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_words(tmp_path / "data", random_ids(24, [40], seed=1))


@pytest.fixture
def make(tmp_path: Path, data: Path) -> Callable[..., PruneResult]:
    """Prune with a little calibration text."""

    def prune_model(model: Path, **settings: Any) -> PruneResult:
        chosen: dict[str, Any] = {
            "calibration": str(data),
            "calibration_sequences": 8,
            "sequence_length": 32,
            "output": str(tmp_path / "out"),
        }
        return prune(model, **chosen | settings)

    return prune_model


def pruned_weights(result: PruneResult) -> dict[str, np.ndarray]:
    """The weights of the pruned layers that the checkpoint holds under their own names."""
    stored = tensors(result.output / "model.safetensors")
    names = [f"{layer.path}.weight" for layer in result.layers]
    return {name: np.asarray(stored[name], np.float32) for name in names if name in stored}


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "taylor", "random", "auto"])
def test_every_method_removes_what_was_asked_for(
    make: Callable[..., PruneResult], tmp_path: Path, method: str
) -> None:
    model = make_model("llama_tied", tmp_path / "model")
    original = tensors(model / "model.safetensors")
    result = make(model, method=method, sparsity=0.5)
    weights = pruned_weights(result)
    assert len(weights) == len(result.layers) == 21
    for name, weight in weights.items():
        assert abs((weight == 0).mean() - 0.5) < 0.01, name
        if method in {"magnitude", "wanda", "taylor", "random"}:
            kept = weight != 0
            assert np.array_equal(weight[kept], original[name][kept])
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    assert result.nonzero == result.parameters - zeros
    assert result.sparsity == pytest.approx(zeros / sum(weight.size for weight in weights.values()))
    untouched = set(original) - set(weights)
    stored = tensors(result.output / "model.safetensors")
    assert untouched
    assert all(np.array_equal(stored[name], original[name]) for name in untouched)


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "taylor"])
def test_groups_keep_as_many_as_they_say(
    make: Callable[..., PruneResult], tmp_path: Path, method: str
) -> None:
    model = make_model("llama_tied", tmp_path / "model")
    for keep, of in [(2, 4), (1, 4), (4, 8)]:
        result = make(model, method=method, pattern=f"{keep}:{of}", overwrite=True)
        for name, weight in pruned_weights(result).items():
            assert ((weight.reshape(-1, of) != 0).sum(axis=1) == keep).all(), name


def test_magnitude_removes_the_smallest_of_a_layer(make: Callable[..., PruneResult], tmp_path: Path) -> None:
    model = make_model("llama_tied", tmp_path / "model")
    original = tensors(model / "model.safetensors")
    for name, weight in pruned_weights(make(model, method="magnitude", sparsity=0.3)).items():
        assert np.abs(original[name][weight == 0]).max() <= np.abs(original[name][weight != 0]).min()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(make: Callable[..., PruneResult], tmp_path: Path, name: str) -> None:
    model = make_model(name, tmp_path / "model")
    result = make(model)
    assert result.sparsity == pytest.approx(0.5, abs=0.01)
    assert not any(layer.path.endswith((".gate", ".router")) for layer in result.layers)
    dense, sparse = logits(model, IDS), logits(result.output, IDS)
    assert np.isfinite(sparse).all()
    assert not np.array_equal(dense, sparse)


def test_mlx_lm_reads_the_result(
    make: Callable[..., PruneResult], tmp_path: Path, mlx_lm: ModuleType
) -> None:
    import mlx.core as mx

    result = make(make_model("llama_gqa", tmp_path / "model"))
    model, _ = mlx_lm.load(str(result.output))
    theirs = np.asarray(model(mx.array(IDS)).astype(mx.float32))
    ours = logits(result.output, IDS)
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


def test_calibration_wins_back_what_magnitude_loses(tmp_path: Path) -> None:
    text = tmp_path / "text.jsonl"
    data = Path(eat.__file__).parent / "assets/instructions/train.jsonl"
    rows = data.read_text().splitlines()
    text.write_text("\n".join(rows[100:]) + "\n")
    reference, tokenizer = eat.load()
    held_out = [tokenizer.encode("\n".join(json.loads(row).values())) for row in rows[:30]]
    held_out = [ids for ids in held_out if len(ids) > 8]

    little: dict[str, Any] = {"calibration_sequences": 16, "sequence_length": 128}

    def divergence(**settings: Any) -> float:
        result = prune(
            output=str(tmp_path / "out"), overwrite=True, calibration=str(text), **little, **settings
        )
        model, _ = eat.load(result.output)
        return float(json.loads(core.evaluate.divergence(model, reference, held_out))["mean_kl"])

    magnitude = divergence(method="magnitude")
    wanda, sparsegpt = divergence(method="wanda"), divergence(method="sparsegpt")
    repaired = divergence(method="wanda", repair="least_squares")
    assert wanda < magnitude, (wanda, magnitude)
    assert sparsegpt < 0.5 * magnitude, (sparsegpt, magnitude)
    assert repaired < 0.6 * wanda, (repaired, wanda)


@pytest.mark.parametrize("allocation", ["owl", "sensitivity"])
def test_allocations_keep_the_mean(make: Callable[..., PruneResult], tmp_path: Path, allocation: str) -> None:
    model = make_model("llama_tied", tmp_path / "model", num_hidden_layers=4)
    result = make(model, method="wanda", sparsity=0.6, allocation=allocation, owl_threshold=2.0)
    blocks = [
        np.mean([layer.sparsity for layer in result.layers if f".layers.{block}." in layer.path])
        for block in range(4)
    ]
    assert np.mean(blocks) == pytest.approx(0.6, abs=0.01)
    assert 0.02 < max(blocks) - min(blocks) < 0.18


@pytest.mark.parametrize("name", ["llama_tied", "qwen3_moe"])
def test_an_interrupted_run_is_resumed(make: Callable[..., PruneResult], tmp_path: Path, name: str) -> None:
    model = make_model(name, tmp_path / "model", "bfloat16")
    whole = make(model, output=str(tmp_path / "whole"), allocation="owl")

    def stop(event: eat.callbacks.Event) -> None:
        if isinstance(event, eat.callbacks.Progress) and event.stage == "prune":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(model, callback=stop, allocation="owl")
    out = tmp_path / "out"
    assert not (out / "config.json").exists()
    with pytest.raises(TrainingError, match="--resume"):
        make(model)
    with pytest.raises(ConfigError, match=r"started with sparsity null, not 0\.4"):
        make(model, resume=True, sparsity=0.4, allocation="owl")
    result = make(model, resume=True, allocation="owl")
    assert result.layers == whole.layers
    ours, expected = tensors(out / "model.safetensors"), tensors(whole.output / "model.safetensors")
    assert ours.keys() == expected.keys()
    assert all(np.array_equal(ours[key], expected[key]) for key in ours)


def test_skipped_layers_stay(make: Callable[..., PruneResult], tmp_path: Path) -> None:
    result = make(make_model("llama_tied", tmp_path / "model"), skip=["*.layers.0.*", "*.down_proj"])
    paths = {layer.path for layer in result.layers}
    assert len(paths) == 12
    assert not any("layers.0" in path or "down_proj" in path for path in paths)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"sparsity": 1.2}, ConfigError, "sparsity is 1.2, expected a value between 0 and 1"),
        ({"pattern": "3:7"}, ConfigError, "rows of .* have 64 weights, which is not a multiple of 7"),
        ({"pattern": "diagonal"}, ConfigError, 'pattern is "diagonal"'),
        ({"method": "owl"}, ConfigError, "method"),
        ({"skip": ["*.nothing"]}, ConfigError, 'no layer matches "\\*.nothing"'),
        ({"skip": ["*"]}, ConfigError, "nothing to prune"),
        ({"sequence_length": 4096}, DatasetError, "too few for one calibration sequence of 4096"),
        ({"calibration": "nowhere.jsonl"}, DatasetError, r"nowhere\.jsonl"),
        ({"resume": True}, TrainingError, "no run to resume"),
    ],
)
def test_bad_settings_are_named(
    make: Callable[..., PruneResult],
    tmp_path: Path,
    settings: dict[str, Any],
    error: type[ToolkitError],
    message: str,
) -> None:
    model = make_model("llama_tied", tmp_path / "model")
    with pytest.raises(error, match=message):
        make(model, **settings)
    assert not (tmp_path / "out").exists()


def test_quantized_models_are_refused(make: Callable[..., PruneResult], tmp_path: Path) -> None:
    model = make_model("llama_tied", tmp_path / "model")
    eat.quantize.quantize(model, technique="rtn", group_size=32, output=str(tmp_path / "4bit"))
    with pytest.raises(ConfigError, match="is quantized: prune the original model"):
        make(tmp_path / "4bit")


def test_the_command(tmp_path: Path, data: Path) -> None:
    model = make_model("llama_tied", tmp_path / "model")
    common = ["--model-path", str(model), "--calibration", str(data), "--sequence-length", "32"]
    common += ["--output", str(tmp_path / "out")]
    checked = run([str(PROGRAM), "cpu-model-compression:validate", *common])
    assert checked.returncode == 0, checked.stderr
    assert "21 layers to prune" in checked.stdout
    command = [str(PROGRAM), "cpu-model-compression:prune", *common, "--pattern", "2:4"]
    pruned = run([*command, "--json", "--progress", "silent"])
    assert pruned.returncode == 0, pruned.stderr
    report = json.loads(pruned.stdout)
    assert report["sparsity"] == pytest.approx(0.5)
    again = run(command)
    assert again.returncode == 2
    assert "--overwrite" in again.stderr


def test_a_configuration_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "prune.yaml"
    path.write_text("method: wanda\nsparsity: 0.6\nskip: ['*.0.*']\n")
    config = PruneConfig.from_file(path)
    assert (config.method, config.sparsity, config.skip) == ("wanda", 0.6, ["*.0.*"])
