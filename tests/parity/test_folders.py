"""Exported folders, read and run by transformers."""

from __future__ import annotations

import json
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
    # transformers has a default beyond the vocabulary for some.
    source = random_decoder(tmp_path / "model", family, pad_token_id=0)
    eat.export(source, format="safetensors", output=tmp_path / "out")
    figure(
        f"transformers on exported {family}",
        largest(theirs(ref, tmp_path / "out"), logits(source, IDS)),
        1e-4,
    )


@pytest.mark.filterwarnings("ignore:You passed `quantization_config`")
@pytest.mark.parametrize("bits", [4, 8])
def test_compressed_tensors(ref: ModuleType, bits: int, tmp_path: Path, figure: Check) -> None:
    import transformers

    pytest.importorskip("compressed_tensors")
    affine_decoder(tmp_path / "model", lambda _: (bits, 32))
    eat.export(tmp_path / "model", format="compressed-tensors", output=tmp_path / "out")
    config = transformers.CompressedTensorsConfig(dequantize=True)
    found = theirs(ref, tmp_path / "out", quantization_config=config)
    figure(f"transformers on {bits} bits", largest(found, logits(tmp_path / "model", IDS)), 1e-4)


@pytest.mark.parametrize("kind", ["int4", "w8a8"])
def test_schemes_of_compressed_tensors(ref: ModuleType, kind: str, tmp_path: Path, figure: Check) -> None:
    """Its decompression of each layer, by the scheme whose target it is: transformers takes one for all."""
    compressors = pytest.importorskip("compressed_tensors.compressors")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    from safetensors.torch import load_file

    layers = affine_decoder(tmp_path / "model", lambda path: (4, 64) if "o_proj" in path else (4, 32))
    eat.export(tmp_path / "model", format="compressed-tensors", type=kind, output=tmp_path / "out")
    settings = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    config = quantization.QuantizationConfig.model_validate(settings)
    compressor = compressors.BaseCompressor.get_value_from_registry(config.format)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    for path, layer in layers.items():
        scheme = next(
            (group for group in config.config_groups.values() if {path, "Linear"} & set(group.targets)), None
        )
        if path in config.ignore or scheme is None:
            assert path == "lm_head"
            continue
        parts = {
            name.removeprefix(f"{path}."): tensor
            for name, tensor in stored.items()
            if name.startswith(f"{path}.")
        }
        found = compressor.decompress(parts, scheme)["weight"].float().numpy()
        size = layer.codes.shape[1] // layer.scales.shape[1]
        steps = layer.codes - np.repeat(layer.zeros, size, axis=1)
        expected = np.repeat(layer.scales, size, axis=1) * steps
        figure(f"{kind} of {path}", largest(found, expected), 1e-6 if kind == "int4" else 5e-3)


def test_configurations_of_gptq_and_awq(ref: ModuleType, tmp_path: Path) -> None:
    affine_decoder(tmp_path / "model")
    import transformers

    for kind, of in (("awq", "AwqConfig"), ("gptq", "GPTQConfig")):
        eat.export(tmp_path / "model", format=kind, output=tmp_path / kind)
        config = ref.AutoConfig.from_pretrained(tmp_path / kind).quantization_config
        read = getattr(transformers, of).from_dict(config)
        assert (read.bits, read.group_size) == (4, 32)
        assert read.format == ("gemm" if kind == "awq" else "gptq")
