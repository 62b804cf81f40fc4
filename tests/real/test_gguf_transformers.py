"""Real GGUF files beside transformers, on the weights that the package ``gguf`` reads from them."""

# pyright: basic
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import efficientai_toolkit as eat
from support.gguf_numbers import dequantized, values_of
from support.gguf_tokens import TEXTS

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("default::DeprecationWarning", "default::FutureWarning"),
]

COUNT = 64


@pytest.fixture(scope="module")
def transformers() -> Any:
    pytest.importorskip("torch", reason="torch is missing: uv run --group parity pytest -m real")
    return pytest.importorskip("transformers")


def test_gemma3_goes_on_as_in_transformers(gemma3: Path, transformers: Any) -> None:
    import torch

    values = values_of(gemma3)
    config = transformers.Gemma3TextConfig(
        vocab_size=len(values["tokenizer.ggml.tokens"]),
        hidden_size=values["gemma3.embedding_length"],
        intermediate_size=values["gemma3.feed_forward_length"],
        num_hidden_layers=values["gemma3.block_count"],
        num_attention_heads=values["gemma3.attention.head_count"],
        num_key_value_heads=values["gemma3.attention.head_count_kv"],
        head_dim=values["gemma3.attention.key_length"],
        query_pre_attn_scalar=values["gemma3.attention.key_length"],
        sliding_window=values["gemma3.attention.sliding_window"],
        max_position_embeddings=values["gemma3.context_length"],
    )
    peer = transformers.Gemma3ForCausalLM(config).eval()
    weights = {
        name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in dequantized(gemma3).items()
    }
    missing, unexpected = peer.load_state_dict(weights, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    peer.tie_weights()
    model, tokenizer = eat.load(gemma3)
    for prompt in ("The capital of France is", "Once upon a time, in a small village"):
        ids = tokenizer.encode(prompt)
        with torch.no_grad():
            expected = peer.generate(torch.tensor([ids]), max_new_tokens=COUNT, do_sample=False)[
                0, len(ids) :
            ]
        text = eat.generate(model, tokenizer, ids, max_tokens=COUNT, accuracy="f32")
        assert text == tokenizer.decode(expected.tolist()), prompt


@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
def test_texts_are_cut_as_by_transformers(
    name: str, request: pytest.FixtureRequest, transformers: Any
) -> None:
    path: Path = request.getfixturevalue(name)
    peer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    _, tokenizer = eat.load(path)
    # In runs longer than any token transformers joins pairs; SentencePiece begins with the longest token.
    for text in TEXTS if name == "smollm2" else TEXTS[:-1]:
        expected = peer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.encode(text, add_special_tokens=False) == expected, text
