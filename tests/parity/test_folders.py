"""Exported folders, read and run by transformers."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import efficientai_toolkit as eat
from support.affine import affine_decoder
from support.decoders import FAMILIES, random_decoder
from support.engine import largest, logits

if TYPE_CHECKING:
    from support.figures import Check

pytestmark = [pytest.mark.parity, pytest.mark.timeout(600)]

IDS = np.random.default_rng(3).integers(1, 2048, size=(2, 21))


def theirs(ref: ModuleType, folder: Path, **settings: Any) -> np.ndarray:
    """Logits of transformers in float32, of a folder without unknown or missing tensors."""
    model, report = ref.AutoModelForCausalLM.from_pretrained(
        folder, dtype=ref.torch.float32, attn_implementation="eager", output_loading_info=True, **settings
    )
    assert not any(report.values()), report
    found: np.ndarray = ref.logits(model.eval(), ref.torch.from_numpy(IDS)).numpy()
    return found


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"llama_linear"}))
def test_safetensors(ref: ModuleType, family: str, tmp_path: Path, figure: Check) -> None:
    source = random_decoder(tmp_path / "model", family)
    eat.export(source, format="safetensors", output=tmp_path / "out")
    figure(
        f"transformers on exported {family}", largest(theirs(ref, tmp_path / "out"), logits(source, IDS)), 1e-4
    )


@pytest.mark.parametrize("kind", ["int4", "int8"])
@pytest.mark.parametrize("differ", [False, True], ids=["alike", "mixed"])
def test_compressed_tensors(
    ref: ModuleType, kind: str, differ: bool, tmp_path: Path, figure: Check
) -> None:
    pytest.importorskip("compressed_tensors")
    bits = int(kind.removeprefix("int"))
    affine_decoder(
        tmp_path / "model",
        lambda path: (4, 64) if differ and "o_proj" in path else (bits, 32),
    )
    result = eat.export(tmp_path / "model", format="compressed-tensors", output=tmp_path / "out")
    assert result.exact is True
    config = ref.transformers.CompressedTensorsConfig(run_compressed=False)
    found = theirs(ref, tmp_path / "out", quantization_config=config)
    figure(f"transformers on {kind}", largest(found, logits(tmp_path / "model", IDS)), 5e-3)


def test_configurations_of_gptq_and_awq(ref: ModuleType, tmp_path: Path) -> None:
    affine_decoder(tmp_path / "model")
    for kind, of in (("awq", "AwqConfig"), ("gptq", "GPTQConfig")):
        eat.export(tmp_path / "model", format=kind, output=tmp_path / kind)
        config = ref.AutoConfig.from_pretrained(tmp_path / kind).quantization_config
        read = getattr(ref.transformers, of).from_dict(config)
        assert (read.bits, read.group_size) == (4, 32)
        assert read.format == ("gemm" if kind == "awq" else "gptq")
