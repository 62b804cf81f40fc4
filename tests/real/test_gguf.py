"""Real GGUF files beside the numbers that llama.cpp's package reads from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

import efficientai_toolkit as eat
from efficientai_toolkit import _core
from support.engine import largest
from support.engine import train as train_rows
from support.gguf_files import save_dense
from support.gguf_numbers import dequantized, values_of
from support.gguf_tokens import TEXTS, join_neighbours, packed_numbers

if TYPE_CHECKING:
    from support.figures import Check

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

PROMPT = "The three laws of motion say that"


@pytest.fixture(scope="module")
def smollm2_dense(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with the dequantized weights of the file."""
    values = values_of(smollm2)
    config = {
        "model_type": "llama",
        "hidden_size": values["llama.embedding_length"],
        "intermediate_size": values["llama.feed_forward_length"],
        "num_hidden_layers": values["llama.block_count"],
        "num_attention_heads": values["llama.attention.head_count"],
        "num_key_value_heads": values["llama.attention.head_count_kv"],
        "rms_norm_eps": 1e-5,
        "rope_theta": values["llama.rope.freq_base"],
        "max_position_embeddings": values["llama.context_length"],
        "vocab_size": len(values["tokenizer.ggml.tokens"]),
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    folder = save_dense(tmp_path_factory.mktemp("smollm2"), config, dequantized(smollm2))
    tokenizer = smollm2_tokenizer(smollm2)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    return folder


def smollm2_tokenizer(path: Path) -> Any:
    """The tokenizer of SmolLM2 as its publisher describes it: single digits, then the words of GPT-2."""
    values = values_of(path)
    tokens = values["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in values["tokenizer.ggml.merges"]]
    vocabulary = {token: id_ for id_, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    special = [
        token for token, kind in zip(tokens, values["tokenizer.ggml.token_type"], strict=True) if kind == 3
    ]
    tokenizer.add_special_tokens(special)
    return tokenizer


def test_smollm2_computes_as_its_dequantized_weights(
    smollm2: Path, smollm2_dense: Path, figure: Check
) -> None:
    packed, tokenizer = eat.load(smollm2)
    dense, dense_tokenizer = eat.load(smollm2_dense)
    ids = [tokenizer.encode(PROMPT), tokenizer.encode("def fibonacci(n):\n    if")]
    for row in ids:
        found, expected = np.asarray(packed([row])), np.asarray(dense([row]))
        figure("logits", largest(found, expected) / np.abs(expected).max(), 1e-3)
    settings: dict[str, Any] = {"max_tokens": 64, "accuracy": "f32"}
    text = eat.generate(packed, tokenizer, PROMPT, **settings)
    assert text == eat.generate(dense, dense_tokenizer, PROMPT, max_tokens=64)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    assert "Paris" in eat.generate(packed, tokenizer, question, max_tokens=32)


def test_smollm2_takes_less_than_half_of_bfloat16(smollm2: Path, tmp_path: Path, figure: Check) -> None:
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    model, _ = eat.load(smollm2)
    taken = mx.get_active_memory() - before
    figure("of bfloat16", taken / (2 * model.num_parameters), 0.4)


def test_smollm2_learns_from_rows(smollm2: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    rows.mkdir()
    text = json.dumps({"prompt": "Where is the toolkit?", "completion": "In the shed, behind the blue door."})
    for name in ("train", "valid"):
        (rows / f"{name}.jsonl").write_text(f"{text}\n" * 4)
    done = train_rows(smollm2, rows, tmp_path / "run", iters=6, lr=1e-3, num_layers=8)
    first, *_, last = done.losses.values()
    assert last < 0.7 * first
    assert json.loads((tmp_path / "run" / "adapter_config.json").read_text())["model"] == str(smollm2)


def test_smollm2_cuts_texts_as_its_publisher_does(smollm2: Path) -> None:
    _, tokenizer = eat.load(smollm2)
    reference = smollm2_tokenizer(smollm2)
    for text in TEXTS:
        assert tokenizer.encode(text) == reference.encode(text).ids, text
        assert tokenizer.decode(tokenizer.encode(text, False), False) == text


def test_every_tensor_of_gemma3_is_exact(gemma3: Path, tmp_path: Path) -> None:
    _core.models.convert(str(gemma3), str(tmp_path / "copy"), "float32")
    stored = dict(mx.load(str(tmp_path / "copy" / "model.safetensors")))
    expected = dequantized(gemma3)
    for name, value in expected.items():
        assert np.array_equal(packed_numbers(stored, name), value), name
    assert len(expected) == 236


def test_gemma3_cuts_texts_as_sentencepiece_does(gemma3: Path) -> None:
    _, tokenizer = eat.load(gemma3)
    values = values_of(gemma3)
    for text in TEXTS:
        expected = join_neighbours(text, values)
        assert tokenizer.encode(text, add_special_tokens=False) == expected, text
        assert tokenizer.encode(text)[0] == 2
        assert tokenizer.decode(tokenizer.encode(text, False), False) == text
