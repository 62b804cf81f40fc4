"""Adapters between the toolkit and PEFT, with PEFT at hand: read, trained further, written, converted."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from efficientai_toolkit.adapters import convert_adapter
from parity.seed import SEED
from support.engine import MODELS, largest, logits, train
from support.rows import write_words

if TYPE_CHECKING:
    from support.figures import Check

pytestmark = [
    pytest.mark.parity,
    pytest.mark.timeout(600),
    # PEFT calls what transformers is about to rename, and looks for the base model on the hub.
    pytest.mark.filterwarnings("default::FutureWarning", "default::UserWarning"),
]

MODEL = MODELS / "llama_gqa"
CLOSE = 1e-4


@pytest.fixture(scope="module")
def peft_reference(ref: ModuleType) -> ModuleType:
    from parity import peft_reference

    return peft_reference


def theirs(ref: ModuleType, model: Path, adapter: Path, ids: Any) -> Any:
    from peft import PeftModel

    return ref.logits(PeftModel.from_pretrained(ref.load(model), str(adapter)).eval(), ids).numpy()


CASES = ["lora", "rslora", "patterns", "regex", "dora", "last_layer", "adalora"]


@pytest.mark.parametrize("name", CASES)
def test_both_ways(
    ref: ModuleType, peft_reference: ModuleType, name: str, tmp_path: Path, figure: Check
) -> None:
    assert set(CASES) == peft_reference.CASES.keys()
    adapted = peft_reference.make(ref.load(MODEL), peft_reference.CASES[name], SEED)
    peft_reference.save(adapted, tmp_path / "theirs")
    ids = ref.random_ids((2, 16), 256, SEED)
    want = ref.logits(adapted, ids).numpy()
    figure(f"live peft {name}, read", largest(logits(MODEL, ids.numpy(), tmp_path / "theirs"), want), CLOSE)
    convert_adapter(tmp_path / "theirs", tmp_path / "mlx", model_path=MODEL)
    convert_adapter(tmp_path / "mlx", tmp_path / "back", model_path=MODEL)
    figure(
        f"live peft {name}, there and back",
        largest(theirs(ref, MODEL, tmp_path / "back", ids), want),
        CLOSE,
    )


DENSE = ["llama_gqa", "mistral_window", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "lfm2", "smollm3"]
SPARSE = ["mixtral", "qwen3_moe", "gpt_oss", "lfm2_moe"]


@pytest.mark.parametrize("case", DENSE + SPARSE)
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_peft_reads_what_training_writes(
    ref: ModuleType, case: str, method: str, tmp_path: Path, figure: Check
) -> None:
    model = MODELS / case
    # transformers 5 keeps the experts of a layer in one tensor, which is no layer that PEFT could adapt.
    targets = ["q_proj", "k_proj", "v_proj"] if case in SPARSE else None
    vocab = json.loads((model / "config.json").read_text())["vocab_size"]
    ids = ref.random_ids((2, 16), vocab, SEED)
    data = write_words(tmp_path / "data", ids.tolist())
    run = train(
        model,
        data,
        tmp_path / "run",
        iters=3,
        lr=1e-2,
        method=method,
        adapter_format="peft",
        target_modules=targets,
    )
    ours = logits(model, ids.numpy(), run.output)
    assert largest(ours, logits(model, ids.numpy())) > 0.05
    figure(
        f"live peft reads our {method} of {case}", largest(theirs(ref, model, run.output, ids), ours), CLOSE
    )


@pytest.mark.parametrize(
    "case", ["llama_gqa", "mistral_window", "qwen3", "gemma2", "phi3", "smollm3", "mixtral"]
)
@pytest.mark.parametrize("kind", ["prompt_tuning", "p_tuning", "prefix_tuning"])
def test_virtual_tokens(ref: ModuleType, case: str, kind: str, tmp_path: Path, figure: Check) -> None:
    import torch
    from peft import PeftModel

    from parity import prompts

    model = MODELS / case
    rng = random.Random(SEED)
    rows = [[rng.randrange(3, 90) for _ in range(12)] for _ in range(4)]
    data = write_words(tmp_path / "data", rows)
    settings: dict[str, Any] = {"iters": 5, "lr": 1e-2, "num_virtual_tokens": 6}
    run = train(model, data, tmp_path / "run", method=kind, **settings)
    reader = PeftModel.from_pretrained(ref.load(model), str(run.output)).eval()
    ours, peft = logits(model, rows, run.output), prompts.logits(reader, torch.tensor(rows)).numpy()
    assert largest(ours, logits(model, rows)) > 0.1
    figure(f"peft reads our {kind} of {case}", largest(ours, peft), CLOSE)
