"""Virtual tokens against values that PEFT computed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from efficientai_toolkit import _core
from efficientai_toolkit.exceptions import ConfigError, ToolkitError
from support.engine import FIXTURES, MODELS, continuation, largest, logits, tensors, train
from support.rows import write_words

if TYPE_CHECKING:
    import numpy as np

    from support.figures import Check

PROMPTS = FIXTURES / "prompts"
MODEL = MODELS / "llama_gqa"
KINDS = ("prompt_tuning", "p_tuning", "prefix_tuning", "prefix_projection")
LOGITS, LOSSES = 1e-4, 1e-4


@pytest.fixture(scope="module")
def rows() -> dict[str, np.ndarray]:
    return tensors(PROMPTS / "rows.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_logits(rows: dict[str, np.ndarray], kind: str, figure: Check) -> None:
    want = tensors(PROMPTS / kind / "expected.safetensors")
    ids = rows["ids"][:2, :12]
    ours = logits(MODEL, ids, PROMPTS / kind)
    assert largest(ours, logits(MODEL, ids)) > 0.1
    figure(f"peft {kind} logits", largest(ours, want["logits"]), LOGITS)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_continuation(rows: dict[str, np.ndarray], kind: str) -> None:
    want = tensors(PROMPTS / kind / "expected.safetensors")["continuation"].tolist()
    assert continuation(MODEL, rows["prompt"].tolist(), len(want), PROMPTS / kind) == want


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning"])
def test_loss_curve(rows: dict[str, np.ndarray], method: str, tmp_path: Path, figure: Check) -> None:
    want = tensors(PROMPTS / method / "expected.safetensors")["losses"]
    run = train(
        MODEL,
        write_words(tmp_path / "data", rows["ids"][:, :-1].tolist()),
        tmp_path / "run",
        iters=len(want),
        lr=1e-2,
        method=method,
        init_adapter=str(PROMPTS / method),
    )
    assert want[0] - want[-1] > 0.1, "the fixture must learn something"
    figure(f"peft {method} losses", largest(list(run.losses.values()), want), LOSSES)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_what_peft_writes(kind: str, tmp_path: Path) -> None:
    method = "prefix_tuning" if kind == "prefix_projection" else kind
    data = write_words(tmp_path / "data", [[5, 6, 7]])
    settings: dict[str, Any] = {"iters": 1, "method": method, "num_virtual_tokens": 5}
    if kind in {"p_tuning", "prefix_projection"}:
        settings["encoder_hidden_size"] = 20
    run = train(MODEL, data, tmp_path / "run", **settings, prefix_projection=kind == "prefix_projection")
    theirs = json.loads((PROMPTS / kind / "adapter_config.json").read_text())
    ours = json.loads((run.output / "adapter_config.json").read_text())
    # What computed the virtual tokens is not needed any more, and only keys have heads and layers.
    free = {"base_model_name_or_path", "encoder_hidden_size", "prefix_projection"}
    if method != "prefix_tuning":
        free |= {"num_attention_heads", "num_layers"}
    assert {key: ours[key] for key in ours.keys() & theirs.keys() - free} == {
        key: theirs[key] for key in ours.keys() & theirs.keys() - free
    }
    [name] = tensors(run.output / "adapter_model.safetensors")
    ours = tensors(run.output / "adapter_model.safetensors")[name]
    theirs = tensors(PROMPTS / kind / "adapter_model.safetensors")[name]
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)


def edited(folder: Path, kind: str = "prompt_tuning", **changes: Any) -> Path:
    """A fixture with other entries in its configuration."""
    shutil.copytree(PROMPTS / kind, folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_virtual_tokens": 4_000_000_000}, 'has 5 rows, but .* "num_virtual_tokens": 4000000000'),
        ({"num_virtual_tokens": -1}, "num_virtual_tokens: invalid value"),
        ({"num_virtual_tokens": "5"}, "num_virtual_tokens: invalid type"),
        ({"num_transformer_submodules": 2}, "num_transformer_submodules.* is 2, expected 1"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save.* not supported"),
        ({"peft_type": "IA3"}, '"peft_type" is "IA3", expected "LORA", "ADALORA", "PROMPT_TUNING"'),
        ({"peft_type": "PREFIX_TUNING"}, "has 48 numbers per virtual token, expected"),
    ],
)
def test_a_configuration_that_lies_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ToolkitError, match=message):
        _core.models.load(str(MODEL), str(edited(tmp_path / "adapter", **changes)), "float32")


def test_virtual_tokens_stay_with_their_model(tmp_path: Path) -> None:
    path = str(PROMPTS / "prompt_tuning")
    with pytest.raises(ConfigError, match="virtual tokens, not low-rank matrices: there is nothing to merge"):
        _core.adapters.fuse(str(MODEL), path, str(tmp_path / "fused"))
    with pytest.raises(ConfigError, match="virtual tokens, which only PEFT's format knows"):
        _core.adapters.convert(path, str(tmp_path / "converted"))
    model, _ = _core.models.load(str(MODEL), None, "float32")
    with pytest.raises(ConfigError, match="virtual tokens: load the model with it"):
        model.load_adapter(path, "soft")
    model, _ = _core.models.load(str(MODEL), path, "float32")
    with pytest.raises(ConfigError, match="the model has virtual tokens, which cannot be exchanged"):
        model.load_adapter(str(FIXTURES / "lora" / "initial"), "hard")
    assert not (tmp_path / "fused").exists()
    assert not (tmp_path / "converted").exists()
