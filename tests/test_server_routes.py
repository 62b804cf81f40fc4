"""The server's own routes, embeddings and metrics."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit._engine.core import core
from efficientai_toolkit.server.config import ServeConfig
from support.server import Running, adapter, chat_model, running

QUESTION: Any = [{"role": "user", "content": "Who goes there?"}]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_model(tmp_path_factory.mktemp("models") / "chat")


@pytest.fixture(scope="module")
def server(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    pirate = adapter(tmp_path_factory.mktemp("adapters") / "pirate", 1)
    config = ServeConfig(models={"chat": str(model_path)}, adapters={"pirate": str(pirate)})
    with running(config) as found:
        yield found


@pytest.fixture(scope="module")
def loaded(model_path: Path) -> Any:
    return eat.load(model_path)


def test_own_routes(server: Running, loaded: Any) -> None:
    model, tokenizer = loaded
    body = {"prompt": "To be", "max_tokens": 6}
    done = server.post("/generate", body).json()
    assert done["text"] == eat.generate(model, tokenizer, "To be", max_tokens=6)
    assert (done["finish_reason"], done["generated_tokens"]) == ("length", 6)
    prompts: Any = ["To be", [20, 30]]
    batch = server.post("/generate/batch", {"prompts": prompts, "max_tokens": 6}).json()
    expected = eat.generate(model, tokenizer, prompts, max_tokens=6)
    assert [row["text"] for row in batch["results"]] == expected
    lines = server.post("/generate", {**body, "stream": True}).text.split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert "".join(event.get("text", "") for event in events) == done["text"]
    assert events[-1]["finish_reason"] == "length"
    info = server.client.get("/model/info").json()
    assert (info["num_parameters"], info["context_length"]) == (model.num_parameters, 512)
    assert info["adapters"] == ["pirate"]


def test_tokens_and_back(server: Running, loaded: Any) -> None:
    _, tokenizer = loaded
    done = server.post("/tokenize", {"prompt": "To be, é", "return_token_strs": True}).json()
    assert done["tokens"] == tokenizer.encode("To be, é")
    assert done["count"] == len(done["tokens"]) == len(done["token_strs"])
    assert done["max_model_len"] == 512
    back = {"tokens": done["tokens"], "skip_special_tokens": True}
    assert server.post("/detokenize", back).json()["prompt"] == "To be, é"
    info = server.client.get("/tokenizer_info").json()
    assert (info["bos_token"], info["eos_token"], info["vocab_size"]) == (
        "<|endoftext|>",
        "<|endoftext|>",
        2048,
    )
    chat = server.post("/tokenize", {"messages": QUESTION}).json()
    assert tokenizer.decode(chat["tokens"]) == tokenizer.apply_chat_template(QUESTION)
    assert server.post("/tokenize", {}).status_code == 400


def test_embeddings_are_pooled_states(server: Running, loaded: Any) -> None:
    model, tokenizer = loaded
    texts = ["To be", "or not to be"]
    for pooling in ("mean", "last"):
        body = {"input": texts, "encoding_format": "float", "pooling": pooling}
        done = server.post("/v1/embeddings", body).json()
        vectors = np.array([row["embedding"] for row in done["data"]])
        assert vectors.shape == (2, 256)
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        expected = core.generate.embed(model, tokenizer, texts, pooling)
        assert np.abs(vectors - np.array([vector for vector, _ in expected])).max() < 1e-6
        assert done["usage"]["prompt_tokens"] == sum(count for _, count in expected)
    short = server.post("/v1/embeddings", {"input": "To be", "dimensions": 8}).json()
    assert len(short["data"][0]["embedding"]) == 8
    assert server.post("/v1/embeddings", {"input": "To be", "dimensions": 999}).status_code == 400


def test_metrics_count(server: Running) -> None:
    before = {
        name: server.metric(name) for name in ("model_prompt_tokens_total", "model_generated_tokens_total")
    }
    count = len(server.post("/tokenize", {"prompt": "To be"}).json()["tokens"])
    server.post("/generate", {"prompt": "To be", "max_tokens": 5})
    assert server.metric("model_prompt_tokens_total") - before["model_prompt_tokens_total"] == count
    assert server.metric("model_generated_tokens_total") - before["model_generated_tokens_total"] == 5
    for name in ("model_time_to_first_token_seconds_count", "model_inference_duration_seconds_count"):
        assert server.metric(name) > 0
    assert server.metric("mlx_active_memory_bytes") > 1e6
    assert server.metric("model_requests_running") == 0
    text = server.client.get("/metrics").text
    assert 'http_requests_total{method="POST",route="/generate",status="200"}' in text
