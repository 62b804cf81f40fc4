"""Models with many zeros: held and stored without them, with the same answers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import efficientai_toolkit as eat
from efficientai_toolkit import kernels
from efficientai_toolkit._engine.core import core
from efficientai_toolkit.exceptions import ConfigError, ModelLoadingError
from efficientai_toolkit.prune import prune
from support.command import run
from test_quantization import make_model

if TYPE_CHECKING:
    from collections.abc import Callable

IDS = np.array([[5, 6, 7, 8, 30, 31]])
PARTS = ("bitmask", "compressed", "row_offsets", "shape")


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sparse")
    model = make_model("llama_tied", folder / "model")
    prune(model, method="magnitude", sparsity=0.6, output=str(folder / "dense"))
    return folder / "dense"


@pytest.fixture(scope="module")
def stored(dense: Path) -> Path:
    folder = dense.parent / "stored"
    prune(
        dense.parent / "model", method="magnitude", sparsity=0.6, format="sparse-bitmask", output=str(folder)
    )
    return folder


def weights(folder: Path) -> Path:
    return folder / "model.safetensors"


def test_a_folder_without_zeros_is_smaller_and_loads_as_the_same_model(dense: Path, stored: Path) -> None:
    with_zeros, without = load_file(weights(dense)), load_file(weights(stored))
    config = json.loads((stored / "config.json").read_text())
    assert config["quantization_config"]["sparsity_config"]["format"] == "sparse-bitmask"
    masked = [name.removesuffix(".bitmask") for name in without if name.endswith(".bitmask")]
    assert len(masked) == 21
    for layer in masked:
        assert f"{layer}.weight" not in without
        weight = with_zeros[f"{layer}.weight"]
        mask = np.unpackbits(without[f"{layer}.bitmask"], axis=1, bitorder="little")
        assert np.array_equal(mask[:, : weight.shape[1]] == 1, weight != 0)
        assert np.array_equal(without[f"{layer}.shape"], weight.shape)
        assert np.array_equal(without[f"{layer}.row_offsets"][1:], np.cumsum((weight != 0).sum(axis=1))[:-1])
        size = sum(without[f"{layer}.{part}"].nbytes for part in PARTS)
        expected = (
            (weight != 0).sum() * weight.itemsize + weight.shape[0] * (-(-weight.shape[1] // 8) + 8) + 16
        )
        assert size == expected < weight.nbytes
    assert weights(stored).stat().st_size < weights(dense).stat().st_size
    models = [eat.load(folder, sparse="never")[0] for folder in (dense, stored)]
    assert np.array_equal(models[0](IDS), models[1](IDS))


def test_copies_have_their_zeros_again(dense: Path, stored: Path, tmp_path: Path) -> None:
    core.models.convert(str(stored), str(tmp_path / "again"), "float32")
    again = load_file(weights(tmp_path / "again"))
    assert "quantization_config" not in json.loads((tmp_path / "again" / "config.json").read_text())
    for name, tensor in load_file(weights(dense)).items():
        assert np.array_equal(np.asarray(again[name], np.float32), np.asarray(tensor, np.float32)), name


@pytest.mark.parametrize("bits", [None, 8])
def test_layers_are_held_without_zeros_where_that_is_faster(dense: Path, bits: int | None) -> None:
    model, tokenizer = eat.load(dense, bits=bits, group_size=32)
    plain, _ = eat.load(dense, bits=bits, group_size=32, sparse="never")
    assert not plain.sparse_layers
    for sparsity, size, whole in model.sparse_layers.values():
        assert sparsity > 0.45
        assert size < whole
    # The same to all who look, whatever the processor is better at.
    assert model.num_parameters == plain.num_parameters
    assert model.parameter_shapes == plain.parameter_shapes
    assert model.quantized_layers == plain.quantized_layers
    name = "model.layers.0.mlp.up_proj.weight"
    assert np.array_equal(model.parameter(name), plain.parameter(name))
    assert np.allclose(model(IDS), plain(IDS), atol=1e-4)
    answers = [eat.generate(each, tokenizer, "a", max_tokens=8) for each in (model, plain)]
    assert answers[0] == answers[1]


def damage(stored: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    folder.mkdir()
    for file in stored.iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    found = load_file(weights(stored))
    change(found)
    save_file(found, weights(folder), metadata={"format": "pt"})
    return folder


LAYER = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{LAYER}.bitmask"), "lacks the other parts"),
        (lambda t: t.update({f"{LAYER}.shape": np.array([1 << 40, 2])}), "above 0"),
        (lambda t: t.update({f"{LAYER}.compressed": t[f"{LAYER}.compressed"][:-1]}), "places"),
        (lambda t: t.update({f"{LAYER}.row_offsets": t[f"{LAYER}.row_offsets"] + 1}), "row_offsets"),
        (lambda t: t.update({f"{LAYER}.bitmask": t[f"{LAYER}.bitmask"][:-1]}), "bitmask is"),
    ],
)
def test_parts_that_do_not_fit_are_refused_by_name(
    stored: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    folder = damage(stored, tmp_path / "damaged", change)
    with pytest.raises(ModelLoadingError, match=f"(?s){LAYER}.*{message}|{message}.*{LAYER}"):
        eat.load(folder)


def test_bad_settings_are_refused(dense: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='sparse is "always", expected "auto" or "never"'):
        eat.load(dense, sparse="always")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="format"):
        prune(dense, pattern="depth", format="sparse-bitmask", output=str(tmp_path / "out"))
    with pytest.raises(ConfigError, match="sparsity"):
        kernels.measure("linear", rows=1, inputs=64, outputs=64, sparsity=1.5)
    with pytest.raises(ConfigError, match="bits"):
        kernels.measure("quantized_linear", rows=1, inputs=64, outputs=64, bits=3, sparsity=0.5)


def test_the_command_stores_models_without_zeros(dense: Path, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "efficientai_toolkit"]
    command = [*program, "cpu-model-compression:prune", "--model-path", str(dense.parent / "model")]
    options = ["--method", "magnitude", "--format", "sparse-bitmask", "--output", str(tmp_path / "out")]
    done = run([*command, *options])
    assert done.returncode == 0, done.stderr
    assert any(name.endswith(".bitmask") for name in load_file(weights(tmp_path / "out")))
