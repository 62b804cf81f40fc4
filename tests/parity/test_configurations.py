"""``config.json`` is read as transformers reads it, where its keys compete: stored values, and live ones."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np
import pytest

from efficientai_toolkit.exceptions import ModelLoadingError
from parity.configurations import BASES, EARLIER, FAMILIES, GROWING, POSITIONS, REFUSED, WORDS, write
from parity.rotations import LENGTH
from parity.seed import SEED
from support.engine import FIXTURES, MODELS, continuation, largest, logits, tensors

if TYPE_CHECKING:
    from support.figures import Check

STORED = FIXTURES / "configurations"
LOGITS = 1e-4


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return tensors(STORED / "expected.safetensors")


def test_every_family_has_configurations(expected: dict[str, np.ndarray]) -> None:
    families = {json.loads(path.read_text())["model_type"] for path in MODELS.glob("*/config.json")}
    assert FAMILIES.keys() == BASES.keys() == families
    counts = {family: len(expected[f"{family}.logits"]) for family in FAMILIES}
    assert counts == {family: len(configurations) for family, configurations in FAMILIES.items()}
    _, metadata = mx.load(str(STORED / "expected.safetensors"), return_metadata=True)
    assert {"torch", "transformers"} <= json.loads(metadata["made_with"]).keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_logits(family: str, expected: dict[str, np.ndarray], tmp_path: Path, figure: Check) -> None:
    ids, want = expected[f"{family}.ids"], expected[f"{family}.logits"]
    differences = {}
    for i, (name, edits) in enumerate(FAMILIES[family].items()):
        got = logits(write(MODELS / BASES[family], edits, tmp_path / str(i)), ids)[0, POSITIONS, :WORDS]
        differences[name] = largest(got, want[i])
    worst = max(differences, key=lambda name: differences[name])
    figure(f"{family}, {len(differences)} configurations, worst: {worst}", differences[worst], LOGITS)


@pytest.mark.parametrize("name", GROWING)
def test_continuation_with_a_rotation_that_grows(name: str, tmp_path: Path, figure: Check) -> None:
    family, edits, _ = GROWING[name]
    want = tensors(STORED / f"{name}.safetensors")
    assert want["margins"].min() > 10 * LOGITS
    count = len(want["continuation"])
    got = continuation(
        write(MODELS / BASES[family], edits, tmp_path / "model"), want["prompt"].tolist(), count
    )
    different = sum(a != b for a, b in zip(got, want["continuation"].tolist(), strict=True))
    figure(f"{name} the trained length, greedy tokens that differ of {count}", different, 0)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_named(name: str, tmp_path: Path) -> None:
    family, edits, key = REFUSED[name]
    with pytest.raises(ModelLoadingError, match=key):
        logits(write(MODELS / BASES[family], edits, tmp_path / "model"), [[3]])


@pytest.mark.parametrize("name", EARLIER)
def test_what_earlier_versions_read(name: str, tmp_path: Path) -> None:
    family, edits, same = EARLIER[name]
    ids = np.arange(3, 15)[None]
    models = [write(MODELS / BASES[family], each, tmp_path / str(i)) for i, each in enumerate([edits, same])]
    assert largest(logits(models[0], ids), logits(models[1], ids)) == 0


LIVE = [pytest.mark.parity, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def ref() -> ModuleType:
    for name in ("torch", "transformers"):
        pytest.importorskip(name, reason=f"{name} is missing: uv run --group parity pytest -m parity")
    from parity import configuration_reference

    return configuration_reference


class TestLive:
    """On fresh weights, with transformers at hand; ``PARITY_SEED`` repeats a run."""

    pytestmark = LIVE

    @pytest.mark.parametrize("seed", [SEED])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_logits(self, ref: ModuleType, family: str, seed: int, tmp_path: Path, figure: Check) -> None:
        base = ref.shuffled(MODELS / BASES[family], tmp_path / "base", seed)
        ids = np.random.default_rng(seed).integers(3, 96, (1, LENGTH))
        differences = {}
        for i, (name, edits) in enumerate(FAMILIES[family].items()):
            want = ref.compute(base, edits)(ref.torch.tensor(ids)).numpy()
            # Relative: on some random weights, single positions differ from float64 by 1e-4 of logits of 8.
            got = logits(write(base, edits, tmp_path / str(i)), ids)
            differences[name] = largest(got, want) / float(np.abs(want).max())
        worst = max(differences, key=lambda name: differences[name])
        figure(
            f"live {family}, {len(differences)} configurations, worst: {worst}", differences[worst], LOGITS
        )

    @pytest.mark.parametrize("name", [*REFUSED, *EARLIER])
    def test_transformers_refuses_too(self, ref: ModuleType, name: str) -> None:
        family, edits, _ = REFUSED.get(name) or EARLIER[name]
        # It fails in any way that a wrong key leads to.
        with pytest.raises(Exception):  # noqa: B017, PT011
            ref.compute(MODELS / BASES[family], edits)(ref.torch.tensor([[3, 4, 5]]))
