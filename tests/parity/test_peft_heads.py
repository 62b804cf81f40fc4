"""Adapters of the output head and whole modules, with PEFT at hand: read, trained further, written."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from efficientai_toolkit.adapters import fuse
from parity.seed import SEED
from support.engine import MODELS, largest, logits, train
from support.rows import write_words

if TYPE_CHECKING:
    from support.figures import Check

pytestmark = [
    pytest.mark.parity,
    pytest.mark.timeout(600),
    # PEFT warns of tied heads, and calls what transformers is about to rename.
    pytest.mark.filterwarnings("default::FutureWarning", "default::UserWarning"),
]

CLOSE = 1e-4
LOSSES = 1e-3
BOTH = pytest.mark.parametrize("model", [MODELS / "llama_gqa", MODELS / "llama_tied"], ids=["apart", "tied"])

BASE: dict[str, Any] = {"r": 3, "lora_alpha": 6}
CASES: dict[str, dict[str, Any]] = {
    "head": {"target_modules": ["lm_head"]},
    "head and layers": {"target_modules": ["lm_head", "q_proj", "down_proj"], "use_rslora": True},
    "dora head": {"target_modules": ["lm_head"], "use_dora": True},
    "head by pattern": {"target_modules": r"lm_head|.*\.(?!.*k_)\w+_proj"},
    "saved head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "saved embeddings": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "saved both": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "saved and tied": {
        "target_modules": ["q_proj"],
        "modules_to_save": ["embed_tokens"],
        "ensure_weight_tying": True,
    },
    "saved norm": {"target_modules": ["q_proj"], "modules_to_save": ["input_layernorm"]},
    "head over saved embeddings": {"target_modules": ["lm_head"], "modules_to_save": ["embed_tokens"]},
    "patterns that look around": {
        "target_modules": r".*layers\.(?!0\.)\d+\..*(?<!down)_proj",
        "rank_pattern": {r"layers\.\d+\.self_attn\.(?!q)\w_proj": 5},
        "alpha_pattern": {r"(?!.*k_proj).*self_attn.*": 9},
    },
}


def made(ref: ModuleType, model: Path, settings: dict[str, Any], folder: Path) -> None:
    """An adapter of PEFT whose matrices and whole modules are random."""
    import torch

    from parity import peft_reference

    adapted = peft_reference.make(ref.load(model), BASE | settings, SEED)
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in sorted(adapted.named_parameters()):
            if ".modules_to_save." in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    peft_reference.save(adapted, folder)


def read(ref: ModuleType, model: Path, adapter: Path, *, trainable: bool = False) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(ref.load(model), str(adapter), is_trainable=trainable).eval()


@BOTH
@pytest.mark.parametrize("case", CASES)
def test_both_ways(ref: ModuleType, model: Path, case: str, tmp_path: Path, figure: Check) -> None:
    made(ref, model, CASES[case], tmp_path / "theirs")
    ids = ref.random_ids((2, 16), 256, SEED)
    want = ref.logits(read(ref, model, tmp_path / "theirs"), ids).numpy()
    label = f"live peft {case}, {model.name}"
    assert largest(want, logits(model, ids.numpy())) > 0.05
    figure(f"{label}, read", largest(logits(model, ids.numpy(), tmp_path / "theirs"), want), CLOSE)
    fuse(model, tmp_path / "theirs", tmp_path / "merged")
    merged = ref.logits(ref.load(tmp_path / "merged"), ids).numpy()
    figure(f"{label}, merged and read by transformers", largest(merged, want), CLOSE)
    data = write_words(tmp_path / "data", ids.tolist())
    method = "dora" if CASES[case].get("use_dora") else "lora"
    run = train(
        model,
        data,
        tmp_path / "run",
        iters=1,
        lr=1e-9,
        method=method,
        init_adapter=str(tmp_path / "theirs"),
        adapter_format="peft",
    )
    back = ref.logits(read(ref, model, run.output), ids).numpy()
    figure(f"{label}, there and back", largest(back, want), CLOSE)


@BOTH
@pytest.mark.parametrize("case", ["head", "head and layers", "dora head"])
def test_losses(ref: ModuleType, model: Path, case: str, tmp_path: Path, figure: Check) -> None:
    """A head that is trained further learns what it learns in PyTorch."""
    made(ref, model, CASES[case], tmp_path / "theirs")
    ids = ref.rows(4, 24, 256, seed=SEED)
    steps = 10
    want = ref.fit(read(ref, model, tmp_path / "theirs", trainable=True), ids, steps).numpy()
    data = write_words(tmp_path / "data", [row[:-1] for row in ids.tolist()])
    run = train(
        model,
        data,
        tmp_path / "run",
        iters=steps,
        method="dora" if "dora" in case else "lora",
        init_adapter=str(tmp_path / "theirs"),
        adapter_format="peft",
    )
    found = [run.losses[step] for step in sorted(run.losses)]
    assert found[-1] < found[0]
    figure(f"live losses of {case}, {model.name}", largest(found, want), LOSSES)


@BOTH
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_peft_reads_a_head_that_we_trained(
    ref: ModuleType, model: Path, method: str, tmp_path: Path, figure: Check
) -> None:
    ids = ref.random_ids((2, 16), 256, SEED)
    data = write_words(tmp_path / "data", ids.tolist())
    run = train(
        model,
        data,
        tmp_path / "run",
        iters=5,
        lr=1e-2,
        method=method,
        adapter_format="peft",
        target_modules=["lm_head", "v_proj"],
    )
    ours = logits(model, ids.numpy(), run.output)
    assert largest(ours, logits(model, ids.numpy())) > 0.05
    theirs = ref.logits(read(ref, model, run.output), ids).numpy()
    figure(f"live peft reads our {method} head of {model.name}", largest(theirs, ours), CLOSE)
