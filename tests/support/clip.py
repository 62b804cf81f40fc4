"""Small image–text models with random weights, and what they compute, in float64 with numpy."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

Tensors = dict[str, np.ndarray]
Numbers = Any
"""Arrays in float64."""

TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def byte_vocabulary() -> dict[str, int]:
    """All bytes as CLIP writes them, in the middle and at the end of words, and the special tokens."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}


def write_tokenizer(folder: Path) -> None:
    """CLIP's tokenizer without merges: a token per byte."""
    (folder / "vocab.json").write_text(json.dumps(byte_vocabulary()), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")


def config(kind: str, **changes: Any) -> dict[str, Any]:
    """The ``config.json`` of a small model; ``changes`` are of both towers."""
    vocab = len(byte_vocabulary())
    act, eps = ("quick_gelu", 1e-5) if kind == "clip" else ("gelu_pytorch_tanh", 1e-6)
    shared = TOWER | {"hidden_act": act, "layer_norm_eps": eps} | changes
    text: dict[str, Any] = shared | {
        "vocab_size": vocab,
        "max_position_embeddings": 16,
        "eos_token_id": vocab - 1,
    }
    vision = shared | {"image_size": 32, "patch_size": 8}
    return {"model_type": kind, "projection_dim": 24, "text_config": text, "vision_config": vision}


def write_model(folder: Path, kind: str = "clip", *, seed: int = 0, **changes: Any) -> Path:
    """Write a small model with random weights in Hugging Face's format."""
    folder.mkdir(parents=True, exist_ok=True)
    described = config(kind, **changes)
    (folder / "config.json").write_text(json.dumps(described))
    save_file(random_weights(described, seed), folder / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(folder)
    return folder


def random_weights(described: dict[str, Any], seed: int) -> Tensors:
    """Weights for a configuration, under Hugging Face's names."""
    rng = np.random.default_rng(seed)
    is_clip = described["model_type"] == "clip"
    text, vision = described["text_config"], described["vision_config"]
    tensors: Tensors = {}

    def matrix(name: str, *shape: int, bias: bool = True) -> None:
        tensors[f"{name}.weight"] = rng.normal(size=shape) / math.sqrt(math.prod(shape[1:]))
        if bias:
            tensors[f"{name}.bias"] = rng.normal(size=shape[0]) * 0.1

    def norm(name: str, width: int) -> None:
        tensors[f"{name}.weight"] = 1 + rng.normal(size=width) * 0.1
        tensors[f"{name}.bias"] = rng.normal(size=width) * 0.1

    for tower, settings in (("text_model", text), ("vision_model", vision)):
        width = settings["hidden_size"]
        for i in range(settings["num_hidden_layers"]):
            layer = f"{tower}.encoder.layers.{i}"
            for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
                matrix(f"{layer}.self_attn.{name}", width, width)
            matrix(f"{layer}.mlp.fc1", settings["intermediate_size"], width)
            matrix(f"{layer}.mlp.fc2", width, settings["intermediate_size"])
            norm(f"{layer}.layer_norm1", width)
            norm(f"{layer}.layer_norm2", width)
    width, patch = vision["hidden_size"], vision["patch_size"]
    positions = (vision["image_size"] // patch) ** 2 + is_clip
    embeddings = "vision_model.embeddings"
    matrix(f"{embeddings}.patch_embedding", width, 3, patch, patch, bias=not is_clip)
    tensors[f"{embeddings}.position_embedding.weight"] = rng.normal(size=(positions, width)) * 0.5
    norm("vision_model.post_layernorm", width)
    embeddings = "text_model.embeddings"
    tensors[f"{embeddings}.token_embedding.weight"] = rng.normal(
        size=(text["vocab_size"], text["hidden_size"])
    )
    shape = (text["max_position_embeddings"], text["hidden_size"])
    tensors[f"{embeddings}.position_embedding.weight"] = rng.normal(size=shape) * 0.5
    norm("text_model.final_layer_norm", text["hidden_size"])
    if is_clip:
        tensors["vision_model.embeddings.class_embedding"] = rng.normal(size=width)
        norm("vision_model.pre_layrnorm", width)
        matrix("visual_projection", described["projection_dim"], width, bias=False)
        matrix("text_projection", described["projection_dim"], text["hidden_size"], bias=False)
        tensors["logit_scale"] = np.array(2.6592)
    else:
        tensors["vision_model.head.probe"] = rng.normal(size=(1, 1, width))
        tensors["vision_model.head.attention.in_proj_weight"] = rng.normal(
            size=(3 * width, width)
        ) / math.sqrt(width)
        tensors["vision_model.head.attention.in_proj_bias"] = rng.normal(size=3 * width) * 0.1
        matrix("vision_model.head.attention.out_proj", width, width)
        norm("vision_model.head.layernorm", width)
        matrix("vision_model.head.mlp.fc1", vision["intermediate_size"], width)
        matrix("vision_model.head.mlp.fc2", width, vision["intermediate_size"])
        matrix("text_model.head", width, text["hidden_size"])
        tensors["logit_scale"] = np.array([2.0])
        tensors["logit_bias"] = np.array([-3.0])
    return {name: np.asarray(value, np.float32) for name, value in tensors.items()}


class Reference:
    """A model in float64, from its folder in Hugging Face's format."""

    def __init__(self, folder: Path) -> None:
        self.config = json.loads((folder / "config.json").read_text())
        loaded = load_file(folder / "model.safetensors")
        self.weights = {name: np.asarray(value, np.float64) for name, value in loaded.items()}
        self.is_clip = self.config["model_type"] == "clip"

    def image_features(self, pixels: Numbers) -> Numbers:
        """``pixels`` ``[n, 3, height, width]`` → ``[n, dim]``."""
        vision = self.config["vision_config"]
        patch, n = vision["patch_size"], len(pixels)
        grid = vision["image_size"] // patch
        cut = np.asarray(pixels, np.float64)[:, :, : grid * patch, : grid * patch]
        patches = (
            cut.reshape(n, 3, grid, patch, grid, patch).transpose(0, 2, 4, 1, 3, 5).reshape(n, grid**2, -1)
        )
        kernel = self.weights["vision_model.embeddings.patch_embedding.weight"]
        x = patches @ kernel.reshape(len(kernel), -1).T
        x += self.weights.get("vision_model.embeddings.patch_embedding.bias", 0.0)
        if self.is_clip:
            token = np.broadcast_to(
                self.weights["vision_model.embeddings.class_embedding"], (n, 1, x.shape[-1])
            )
            x = np.concatenate([token, x], axis=1)
        x += self.weights["vision_model.embeddings.position_embedding.weight"]
        if self.is_clip:
            x = self._norm(x, "vision_model.pre_layrnorm", vision)
        x = self._norm(self._encode(x, "vision_model", vision), "vision_model.post_layernorm", vision)
        if self.is_clip:
            return x[:, 0] @ self.weights["visual_projection.weight"].T
        head = "vision_model.head"
        width = x.shape[-1]
        matrices = np.split(self.weights[f"{head}.attention.in_proj_weight"], 3)
        biases = np.split(self.weights[f"{head}.attention.in_proj_bias"], 3)
        probe = np.broadcast_to(self.weights[f"{head}.probe"], (n, 1, width))
        q, k, v = (
            y @ matrix.T + bias for y, matrix, bias in zip((probe, x, x), matrices, biases, strict=True)
        )
        pooled = self._linear(_attend(q, k, v, vision["num_attention_heads"]), f"{head}.attention.out_proj")
        return (pooled + self._mlp(self._norm(pooled, f"{head}.layernorm", vision), f"{head}.mlp", vision))[
            :, 0
        ]

    def text_features(self, ids: Numbers) -> Numbers:
        """``ids`` ``[n, length]`` → ``[n, dim]``."""
        text = self.config["text_config"]
        x = self.weights["text_model.embeddings.token_embedding.weight"][ids]
        x = x + self.weights["text_model.embeddings.position_embedding.weight"][: ids.shape[1]]
        x = self._encode(x, "text_model", text, is_causal=self.is_clip)
        x = self._norm(x, "text_model.final_layer_norm", text)
        if not self.is_clip:
            return self._linear(x[:, -1], "text_model.head")
        eos = text["eos_token_id"]
        ends = ids.argmax(axis=1) if eos == 2 else (ids == eos).argmax(axis=1)
        return x[np.arange(len(ids)), ends] @ self.weights["text_projection.weight"].T

    def _encode(self, x: Numbers, tower: str, settings: Any, *, is_causal: bool = False) -> Numbers:
        for i in range(settings["num_hidden_layers"]):
            layer = f"{tower}.encoder.layers.{i}"
            y = self._norm(x, f"{layer}.layer_norm1", settings)
            q, k, v = (self._linear(y, f"{layer}.self_attn.{name}_proj") for name in "qkv")
            y = _attend(q, k, v, settings["num_attention_heads"], is_causal=is_causal)
            x = x + self._linear(y, f"{layer}.self_attn.out_proj")
            x = x + self._mlp(self._norm(x, f"{layer}.layer_norm2", settings), f"{layer}.mlp", settings)
        return x

    def _linear(self, x: Numbers, name: str) -> Numbers:
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def _norm(self, x: Numbers, name: str, settings: Any) -> Numbers:
        centered = x - x.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centered**2).mean(axis=-1, keepdims=True) + settings["layer_norm_eps"])
        return centered / deviation * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def _mlp(self, x: Numbers, name: str, settings: Any) -> Numbers:
        return self._linear(
            ACTIVATIONS[settings["hidden_act"]](self._linear(x, f"{name}.fc1")), f"{name}.fc2"
        )


def _attend(q: Numbers, k: Numbers, v: Numbers, heads: int, *, is_causal: bool = False) -> Numbers:
    def split(x: Numbers) -> Numbers:
        return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)

    q, k, v = split(q), split(k), split(v)
    scores = q @ k.transpose(0, 1, 3, 2) / math.sqrt(q.shape[-1])
    if is_causal:
        scores = np.where(np.tri(scores.shape[-1], dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    y = weights / weights.sum(axis=-1, keepdims=True) @ v
    return y.transpose(0, 2, 1, 3).reshape(y.shape[0], y.shape[2], -1)


ACTIVATIONS = {
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "gelu": lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "gelu_pytorch_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
}
