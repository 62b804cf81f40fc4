"""Models with fewer blocks or channels in transformers."""

# ruff: noqa: PLR0917, because pytest passes fixtures by name

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from efficientai_toolkit.prune import prune
from support.engine import largest, logits
from test_depth_pruning import FAMILIES, four_blocks, removed
from test_quantization import make_model
from test_width_parts import FAMILIES as WITH_HEADS
from test_width_pruning import FAMILIES as NARROWABLE

if TYPE_CHECKING:
    from support.figures import Check

pytestmark = [pytest.mark.parity, pytest.mark.timeout(600)]


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_reads_the_result(
    ref: ModuleType, seed: int, tmp_path: Path, figure: Check, name: str
) -> None:
    changes = dict(FAMILIES[name])
    contiguous = changes.pop("contiguous", False)
    model = four_blocks(name, tmp_path / "model", **changes)
    result = prune(
        model,
        pattern="depth",
        method="random",
        sparsity=0.5,
        contiguous=contiguous,
        seed=seed,
        output=str(tmp_path / "out"),
    )
    ids = ref.random_ids((2, 24), 256, seed)
    want = ref.logits(ref.load(result.output), ids).numpy()
    figure(f"depth {name} without {removed(result)}", largest(logits(result.output, ids.numpy()), want), 1e-4)


@pytest.mark.parametrize("name", NARROWABLE)
def test_transformers_reads_fewer_channels(
    ref: ModuleType, seed: int, tmp_path: Path, figure: Check, name: str
) -> None:
    model = make_model(name, tmp_path / "model", **NARROWABLE[name])
    result = prune(model, pattern="width", method="random", seed=seed, output=str(tmp_path / "out"))
    ids = ref.random_ids((2, 24), 256, seed)
    want = ref.logits(ref.load(result.output), ids).numpy()
    figure(f"width {name}", largest(logits(result.output, ids.numpy()), want), 1e-4)


@pytest.mark.parametrize("parts", [["heads"], ["hidden"], ["heads", "hidden"]])
@pytest.mark.parametrize("name", WITH_HEADS)
def test_transformers_reads_fewer_heads_and_a_smaller_hidden_size(
    ref: ModuleType, seed: int, tmp_path: Path, figure: Check, name: str, parts: list[str]
) -> None:
    model = make_model(name, tmp_path / "model", **WITH_HEADS[name])
    result = prune(
        model,
        pattern="width",
        width=parts,
        method="random",
        sparsity=0.4,
        seed=seed,
        output=str(tmp_path / "out"),
    )
    ids = ref.random_ids((2, 24), 256, seed)
    want = ref.logits(ref.load(result.output), ids).numpy()
    figure(f"{'+'.join(parts)} {name}", largest(logits(result.output, ids.numpy()), want), 1e-4)


def test_transformers_reads_width_and_depth(
    ref: ModuleType, seed: int, tmp_path: Path, figure: Check
) -> None:
    model = four_blocks("llama_tied", tmp_path / "model", **WITH_HEADS["llama_tied"])
    result = prune(
        model,
        pattern="width+depth",
        width=["mlp", "heads", "hidden"],
        method="random",
        sparsity=0.44,
        output=str(tmp_path / "out"),
    )
    ids = ref.random_ids((2, 24), 256, seed)
    want = ref.logits(ref.load(result.output), ids).numpy()
    figure("width+depth llama_tied", largest(logits(result.output, ids.numpy()), want), 1e-4)
