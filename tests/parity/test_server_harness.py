"""lm-evaluation-harness through the server, against its adapter in this process; it needs no PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import efficientai_toolkit as eat
from efficientai_toolkit.server.config import ServeConfig
from support.server import Running, running

pytestmark = [pytest.mark.parity, pytest.mark.timeout(600)]

PAIRS = [
    ("Question: What is tea?\nAnswer:", " Tea is a drink."),
    ("To be ", "or not"),
    ("To be, or not to", " be"),
    ("KING RICHARD", " III:\nNow is the winter of our discontent, made glorious summer"),
    ("a " * 100, "b"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(ServeConfig(accuracy="f32")) as found:
        yield found


def requests() -> list[Any]:
    return [SimpleNamespace(args=args) for args in PAIRS]


@pytest.mark.filterwarnings("ignore")
def test_the_server_gives_the_log_probabilities_of_the_adapter(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    from efficientai_toolkit.evaluation.harness import HarnessModel

    remote = LocalCompletionsAPI(base_url=f"{server.url}/v1/completions", model="embedded", batch_size=2)
    assert remote.tokenizer_backend == "remote"
    local = HarnessModel(*eat.load())
    # The remote tokenizer adds no token before a text.
    encode = local._tokenizer.encode
    monkeypatch.setattr(local, "tok_encode", lambda text, **_: encode(text, False))
    through = remote.loglikelihood(requests(), disable_tqdm=True)
    here = local.loglikelihood(requests(), disable_tqdm=True)
    for (found, is_greedy), (expected, was_greedy) in zip(through, here, strict=True):
        assert found == pytest.approx(expected, abs=1e-4)
        assert is_greedy == was_greedy
