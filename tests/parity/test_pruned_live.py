"""Models with fewer blocks or channels in transformers."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from efficientai_toolkit.prune import prune
from support.engine import largest, logits
from test_depth_pruning import FAMILIES, four_blocks, removed
from test_quantization import make_model
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
