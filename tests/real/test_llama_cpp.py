"""Files that the engine writes, in llama.cpp itself, and its quantizers beside the engine's.

``LLAMA_CPP`` is a checkout of llama.cpp, such as ``vendor/llama.cpp`` of llama-cpp-python's sources;
``LLAMA_CPP_BUILD`` is a build of it with ``-DBUILD_SHARED_LIBS=OFF``.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import mlx.core as mx
import numpy as np
import pytest

import efficientai_toolkit as eat
from support.gguf_models import File

if TYPE_CHECKING:
    from support.figures import Check

pytestmark = [pytest.mark.real, pytest.mark.timeout(1200)]

SOURCE = Path(__file__).with_name("llama.cpp")
PROMPTS = ("Once upon a time", "The capital of France is")
COUNT = 64
TYPES = ("q4_K", "q5_K", "q6_K", "q4_0", "q4_1", "q5_0", "q5_1")
CALIBRATION: dict[str, Any] = {"calibration_sequences": 4, "sequence_length": 256}
NEAR = 1e-2
"""Logits of two tokens that are as likely as each other."""


def folder_of(variable: str) -> Path:
    value = os.environ.get(variable)
    if value is None:
        pytest.skip(f"{variable} is not set; see the first lines of this file")
    return Path(value)


class Peer:
    """The program beside this file."""

    def __init__(self, program: Path) -> None:
        self._program = program

    def run(self, *words: object, given: bytes) -> bytes:
        return subprocess.run(
            [self._program, *map(str, words)], input=given, stdout=subprocess.PIPE, check=True
        ).stdout

    def continue_greedily(self, model: Path, ids: list[int], *more: object) -> list[tuple[int, float]]:
        """Each token with how far its logit is above the second largest."""
        lines = self.run("greedy", model, COUNT, *more, given=" ".join(map(str, ids)).encode()).split(b"\n")
        rows = [line.split() for line in lines if line]
        return [(int(token), float(first) - float(second)) for token, first, second in rows]

    def quantize(self, kind: str, values: np.ndarray, importance: np.ndarray | None) -> bytes:
        weights = b"" if importance is None else importance.astype("<f4").tobytes()
        given = weights + values.astype("<f4").tobytes()
        return self.run("quantize", kind, *values.shape, int(importance is not None), given=given)


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Peer:
    source, build = folder_of("LLAMA_CPP"), folder_of("LLAMA_CPP_BUILD")
    program = tmp_path_factory.mktemp("peer") / "llama"
    parts = ("src/libllama.a", *(f"ggml/src/lib{name}.a" for name in ("ggml", "ggml-cpu", "ggml-base")))
    headers = [f"-I{source / name}" for name in ("include", "ggml/include")]
    libraries = [str(build / part) for part in parts]
    words = ["c++", "-std=c++17", "-O1", *headers, str(SOURCE), "-o", str(program), *libraries]
    subprocess.run([*words, "-fopenmp", "-lpthread", "-ldl"], check=True)
    return Peer(program)


@pytest.fixture(scope="module")
def exported(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("exported") / "model.gguf"
    assert eat.export(smollm2, type="f32", output=output).exact
    return output


def choose(loaded: tuple[Any, Any], ids: list[int], theirs: list[tuple[int, float]]) -> list[int]:
    """The token that the engine chooses in the place of each of theirs, in float32."""
    given = [*ids, *(token for token, _ in theirs)]
    logits = loaded[0]([given[:-1]])[0, len(ids) - 1 :]
    return [int(token) for token in np.argmax(logits, axis=-1)]


def compare(ours: list[int], theirs: list[tuple[int, float]], figure: Check, what: str) -> None:
    """The same tokens, up to a place where two tokens are equally likely."""
    pairs = enumerate(zip(ours, theirs, strict=True))
    first = next((at for at, (our, (their, _)) in pairs if our != their), COUNT)
    margin = theirs[first][1] if first < COUNT else 0.0
    figure(f"{what}: {first} tokens of {COUNT} are equal, distance of the next two", margin, NEAR)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_text_is_the_engines(
    prompt: str, smollm2: Path, exported: Path, peer: Peer, figure: Check
) -> None:
    loaded = eat.load(smollm2, dtype="float32")
    ids = loaded[1].encode(prompt)
    assert [int(line) for line in peer.run("tokens", exported, given=prompt.encode()).split()] == ids
    theirs = peer.continue_greedily(exported, ids)
    compare(choose(loaded, ids, theirs), theirs, figure, prompt)


def test_an_adapter_beside_its_model_is_the_engines(
    smollm2: Path, exported: Path, peer: Peer, tmp_path: Path, figure: Check
) -> None:
    rng = np.random.default_rng(2)
    folder = tmp_path / "adapter"
    folder.mkdir()
    arrays: dict[str, Any] = {}
    hidden, keys, inner = 576, 192, 1536
    sizes = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    for layer in range(30):
        for name, (outputs, inputs) in sizes.items():
            path = f"model.layers.{layer}.{name}"
            arrays[f"{path}.lora_a"] = mx.array(rng.normal(size=(inputs, 4)) / inputs**0.5, mx.float32)
            arrays[f"{path}.lora_b"] = mx.array(rng.normal(size=(4, outputs)) / 50, mx.float32)
    mx.save_safetensors(str(folder / "adapters.safetensors"), arrays)
    (folder / "adapter_config.json").write_text(json.dumps({"lora_parameters": {"rank": 4, "scale": 2.0}}))
    output = tmp_path / "adapter.gguf"
    assert eat.export(smollm2, adapter_path=folder, merge_adapter=False, output=output).exact
    loaded = eat.load(smollm2, folder, dtype="float32")
    ids = loaded[1].encode(PROMPTS[0])
    theirs = peer.continue_greedily(exported, ids, output)
    compare(choose(loaded, ids, theirs), theirs, figure, "with an adapter")
    assert choose(eat.load(smollm2, dtype="float32"), ids, theirs) != [token for token, _ in theirs]


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A model with calibration text, and how much its columns count there."""

    model: Path
    text: Path
    tensors: dict[str, np.ndarray]
    importance: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def calibrated(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    folder = tmp_path_factory.mktemp("calibrated")
    text, output = folder / "data.jsonl", folder / "quantized"
    lines = [{"text": f"Sentence number {i} tells of {i * 7} birds and {i % 5} cats."} for i in range(400)]
    text.write_text("".join(json.dumps(line) + "\n" for line in lines))
    # As a quantization to 8 bits measures it.
    eat.quantize.quantize(
        exported, technique="rtn", bits=8, group_size=32, dequantize=True, save_importance=True,
        calibration=str(text), output=str(output), **CALIBRATION,
    )  # fmt: skip
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 30)
    found = mx.load(str(output / "importance.safetensors"))
    importance = {f"{names.get_name(path)}.weight": np.array(values) for path, values in found.items()}
    return Calibrated(model=exported, text=text, tensors=File(exported).tensors, importance=importance)


@pytest.mark.parametrize("case", [*product(TYPES, (False, True))], ids=lambda case: f"{case[0]}-{case[1]}")
def test_errors_are_no_larger_than_llama_cpps(
    case: tuple[str, bool], calibrated: Calibrated, peer: Peer, tmp_path: Path, figure: Check
) -> None:
    """The same tensors, and the same importance of columns; errors are weighted by it."""
    kind, is_weighted = case
    settings: dict[str, Any] = {"calibration": calibrated.text, **CALIBRATION} if is_weighted else {}
    output = tmp_path / "model.gguf"
    eat.export(calibrated.model, type=kind.lower(), output=output, verify="off", **settings)
    file = File(output)
    ours = theirs = 0.0
    for name in (f"blk.{layer}.{part}.weight" for layer in (3, 17) for part in ("ffn_down", "attn_v")):
        if file.types[name].lower() != kind.lower():
            continue
        want = calibrated.tensors[name]
        weights = calibrated.importance[name] if is_weighted else None
        blocks = np.frombuffer(peer.quantize(kind, want, weights), np.uint8).reshape(want.shape[0], -1)
        peers = gguf.dequantize(blocks, gguf.GGMLQuantizationType[kind.upper()])
        factor = np.ones(want.shape[1]) if weights is None else weights
        ours += float((np.square(file.tensors[name] - want) * factor).sum())
        theirs += float((np.square(peers - want) * factor).sum())
    figure(f"squared error of {kind}, of llama.cpp's", ours / theirs, 1.01)
