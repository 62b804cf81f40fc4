"""Adapters, logits, training and generation against mlx-lm, live."""

# ruff: noqa: PLR0917, because pytest passes fixtures by name
from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest
from mlx import nn
from mlx.optimizers import AdamW
from mlx.utils import tree_flatten

from efficientai_toolkit.adapters import fuse
from efficientai_toolkit.exceptions import ModelLoadingError
from support.engine import FIXTURES, MODELS, continuation, largest, logits, tensors, train
from support.rows import EOS, random_ids, write_words

if TYPE_CHECKING:
    from support.figures import Check

# mlx-lm reads RoPE settings where transformers 4 wrote them, so only these fixtures fit both.
MODEL = MODELS / "llama_gqa"
READABLE = ["llama_gqa", "llama_bias", "llama_head_dim", "llama_fp16_old"]

LOGITS, LOSSES = 1e-4, 1e-3
STEPS = 20


@pytest.fixture
def ids() -> np.ndarray:
    return np.array(random_ids(3, [17], seed=5), dtype=np.int32)


@pytest.fixture
def rows() -> list[list[int]]:
    """One batch of rows of one length: the order of an epoch then changes nothing."""
    return random_ids(4, [24], seed=6)


def their_logits(model: Any, ids: np.ndarray) -> np.ndarray:
    model.eval()
    return np.array(model(mx.array(ids)))


def with_their_lora(
    mlx_lm: ModuleType, parameters: dict[str, Any], num_layers: int, b_std: float, dora: bool = False
) -> Any:
    """mlx-lm's model with its own LoRA layers; its B is zero unless ``b_std`` is not."""
    model, _ = mlx_lm.load(str(MODEL))
    model.freeze()
    mx.random.seed(7)
    mlx_lm.tuner.utils.linear_to_lora_layers(model, num_layers, parameters, use_dora=dora)
    noise = {
        name: b_std * mx.random.normal(value.shape)
        for name, value in tree_flatten(model.trainable_parameters())
        if name.endswith("lora_b")
    }
    model.load_weights(list(noise.items()), strict=False)
    return model


def save_theirs(
    mlx_lm: ModuleType,
    model: Any,
    folder: Path,
    parameters: dict[str, Any],
    num_layers: int,
    kind: str = "lora",
) -> Path:
    """The files that ``mlx_lm.lora`` leaves behind: the adapter and a dump of all its settings."""
    folder.mkdir()
    adapter = dict(tree_flatten(model.trainable_parameters()))
    mx.save_safetensors(str(folder / "adapters.safetensors"), adapter)
    settings = {
        **mlx_lm.lora.CONFIG_DEFAULTS,
        "lora_parameters": parameters,
        "num_layers": num_layers,
        "fine_tune_type": kind,
        "adapter_path": str(folder),
    }
    mlx_lm.utils.save_config(settings, folder / "adapter_config.json")
    return folder


@pytest.mark.parametrize("name", READABLE)
def test_logits(mlx_lm: ModuleType, name: str, ids: np.ndarray, figure: Check) -> None:
    model, _ = mlx_lm.load(str(MODELS / name))
    model.set_dtype(mx.float32)
    figure(f"mlx-lm {name} logits", largest(logits(MODELS / name, ids), their_logits(model, ids)), LOGITS)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lora_rank": 4, "lora_alpha": 12.0, "num_layers": 1},
        {"target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.1},
        {"use_rslora": True},
        {"method": "dora"},
        {"method": "dora", "lora_rank": 4, "num_layers": 1, "lora_dropout": 0.1},
    ],
    ids=["every layer", "last block", "chosen layers", "rsLoRA", "DoRA", "DoRA of the last block"],
)
def test_mlx_lm_reads_our_adapter(
    mlx_lm: ModuleType,
    settings: dict[str, Any],
    rows: list[list[int]],
    ids: np.ndarray,
    tmp_path: Path,
    figure: Check,
) -> None:
    data = write_words(tmp_path / "data", rows)
    run = train(MODEL, data, tmp_path / "adapter", iters=5, lr=1e-2, **settings)
    assert all(np.abs(value).max() > 0 for value in run.adapter.values())

    model, _ = mlx_lm.load(str(MODEL), adapter_path=str(run.output))
    ours = logits(MODEL, ids, run.output)
    assert largest(ours, logits(MODEL, ids)) > 0.05
    what = ", ".join(settings) or "defaults"
    figure(f"mlx-lm reads our adapter ({what})", largest(ours, their_logits(model, ids)), LOGITS)

    # load_adapters names every tensor it does not know, so nothing was left out silently.
    plain, _ = mlx_lm.load(str(MODEL))
    again = mlx_lm.tuner.utils.load_adapters(plain, str(run.output))
    assert largest(their_logits(again, ids), their_logits(model, ids)) == 0


@pytest.mark.parametrize(
    ("parameters", "num_layers", "kind"),
    [
        ({"rank": 4, "scale": 20.0, "dropout": 0.0}, 2, "lora"),
        ({"rank": 8, "scale": 2.0, "dropout": 0.1}, 1, "lora"),
        (
            {"rank": 2, "scale": 10.0, "dropout": 0.0, "keys": ["self_attn.q_proj", "mlp.down_proj"]},
            2,
            "lora",
        ),
        ({"rank": 4, "scale": 20.0, "dropout": 0.0}, 2, "dora"),
    ],
    ids=["every layer", "last block", "chosen layers", "DoRA"],
)
def test_we_read_an_adapter_of_mlx_lm(
    mlx_lm: ModuleType,
    parameters: dict[str, Any],
    num_layers: int,
    kind: str,
    ids: np.ndarray,
    tmp_path: Path,
    figure: Check,
) -> None:
    model = with_their_lora(mlx_lm, parameters, num_layers, b_std=0.02, dora=kind == "dora")
    folder = save_theirs(mlx_lm, model, tmp_path / "adapter", parameters, num_layers, kind)
    ours = logits(MODEL, ids, folder)
    assert largest(ours, logits(MODEL, ids)) > 0.05
    what = "keys" if "keys" in parameters else f"last {num_layers}"
    figure(f"we read mlx-lm's {kind} adapter ({what})", largest(ours, their_logits(model, ids)), LOGITS)


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_we_read_configurations_of_older_versions(
    mlx_lm: ModuleType, dora: bool, ids: np.ndarray, tmp_path: Path, figure: Check
) -> None:
    """Those of 0.14.2 to 0.18, and nulls for what nobody reads."""
    parameters = {"rank": 4, "alpha": 16, "dropout": 0.0, "scale": 10.0}
    model = with_their_lora(mlx_lm, parameters, 1, b_std=0.02, dora=dora)
    folder = save_theirs(mlx_lm, model, tmp_path / "adapter", parameters, 1)
    old = {"lora_layers": 1, "lora_parameters": parameters, "use_dora": dora, "lr_schedule": None}
    want = their_logits(model, ids)
    assert largest(want, logits(MODEL, ids)) > 0.05
    for name, changes in (
        ("old", {}),
        ("nulls", {"num_layers": None, "model": None, "fine_tune_type": None, "rank_pattern": None}),
        ("inner nulls", {"lora_parameters": parameters | {"rank": None, "dropout": None, "keys": None}}),
    ):
        (folder / "adapter_config.json").write_text(json.dumps(old | changes))
        kind = "dora" if dora else "lora"
        figure(f"mlx-lm's {name} configuration, {kind}", largest(logits(MODEL, ids, folder), want), LOGITS)
    (folder / "adapter_config.json").write_text(json.dumps(old | {"lora_parameters": {"rank": 4}}))
    with pytest.raises(ModelLoadingError, match=r"adapter_config.*scale"):
        logits(MODEL, ids, folder)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_loss_curve(
    mlx_lm: ModuleType, rows: list[list[int]], kind: str, tmp_path: Path, figure: Check
) -> None:
    parameters = {"rank": 8, "scale": 2.0, "dropout": 0.0}
    model = with_their_lora(mlx_lm, parameters, num_layers=2, b_std=0.0, dora=kind == "dora")
    initial = save_theirs(mlx_lm, model, tmp_path / "initial", parameters, 2, kind)

    batch = mx.array([[*row, EOS] for row in rows])
    # The mask of default_loss ends after target number `length`. Their batches are padded to one
    # more column than that, so one target of padding counts; this batch has no padding at all.
    lengths = mx.array([[0, batch.shape[1]]] * len(rows))
    optimizer = AdamW(1e-3, betas=[0.9, 0.999], eps=1e-8, weight_decay=0.01, bias_correction=True)
    step = nn.value_and_grad(model, mlx_lm.tuner.trainer.default_loss)
    theirs = []
    model.train()
    for _ in range(STEPS):
        (loss, tokens), gradients = step(model, batch, lengths)
        assert tokens.item() == batch[:, 1:].size
        optimizer.update(model, gradients)
        mx.eval(model.parameters(), optimizer.state)
        theirs.append(loss.item())

    data = write_words(tmp_path / "data", rows)
    run = train(
        MODEL,
        data,
        tmp_path / "run",
        iters=STEPS,
        weight_decay=0.01,
        method=kind,
        init_adapter=str(initial),
    )
    assert theirs[0] - theirs[-1] > 1
    figure(f"mlx-lm {kind} loss, {STEPS} steps", largest(list(run.losses.values()), theirs), LOSSES)
    trained = dict(tree_flatten(model.trainable_parameters()))
    stray = np.mean([np.abs(value - np.array(trained[name])).mean() for name, value in run.adapter.items()])
    figure(f"mlx-lm {kind} matrices after training, mean", stray, LOGITS)


def test_a_full_model_of_ours(
    mlx_lm: ModuleType, rows: list[list[int]], ids: np.ndarray, tmp_path: Path, figure: Check
) -> None:
    data = write_words(tmp_path / "data", rows)
    run = train(MODEL, data, tmp_path / "run", method="full", iters=3)
    ours = logits(run.output, ids)
    assert largest(ours, logits(MODEL, ids)) > 0.01
    model, _ = mlx_lm.load(str(run.output))
    # Missing or unexpected tensors would have been an error: mlx-lm loads strictly.
    assert all(value.dtype == mx.float32 for _, value in tree_flatten(model.parameters()))
    figure("mlx-lm reads our full model", largest(ours, their_logits(model, ids)), LOGITS)


@pytest.mark.parametrize("adapter", [None, FIXTURES / "lora" / "gradient"], ids=["base", "adapter"])
def test_greedy_generation(mlx_lm: ModuleType, adapter: Path | None, figure: Check) -> None:
    from mlx_lm.generate import generate_step

    prompt = tensors(FIXTURES / "expected" / "llama_gqa.safetensors")["prompt"].tolist()
    model, _ = mlx_lm.load(str(MODEL), adapter_path=str(adapter) if adapter else None)
    steps = list(generate_step(mx.array(prompt), model, max_tokens=32))
    theirs = [int(token) for token, _ in steps]
    leads = [float(np.diff(np.sort(np.array(scores))[-2:])[0]) for _, scores in steps]
    # No near ties, and none of the special tokens that our generation would stop at or leave out.
    assert min(leads) > 10 * LOGITS
    assert min(theirs) > EOS + 1
    ours = continuation(MODEL, prompt, 32, adapter)
    different = sum(a != b for a, b in zip(ours, theirs, strict=True))
    figure(f"mlx-lm greedy tokens that differ of 32 ({'adapter' if adapter else 'base'})", different, 0)


# Families that mlx-lm computes as these fixtures ask for, and what it misses in their configurations.
FAMILIES: dict[str, dict[str, Any]] = {
    "lfm2": {"block_dim": 32, "block_ff_dim": 48, "block_ffn_dim_multiplier": 1.0, "conv_dim": 32},
    "mixtral": {},
    "phi3": {},
    "qwen3_moe": {"num_experts": 6},
    "smollm3": {},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_as_mlx_lm_stores_them(
    mlx_lm: ModuleType, family: str, tmp_path: Path, figure: Check
) -> None:
    """With experts in stacks and convolutions turned around; where it can, in 8 bits too."""
    config = json.loads((MODELS / family / "config.json").read_text())
    config |= FAMILIES[family] | {"rope_theta": config["rope_parameters"]["rope_theta"]}
    model, _ = mlx_lm.utils.load_model(MODELS / family, model_config=config)
    model.set_dtype(mx.float32)
    expected = tensors(FIXTURES / "expected" / f"{family}.safetensors")
    ids, want = expected["ids"], expected["logits"]
    figure(f"mlx-lm {family} logits", largest(their_logits(model, ids), want), LOGITS)

    def stored(config: dict[str, Any]) -> Path:
        folder = shutil.copytree(MODELS / family, tmp_path / f"model{len(config)}")
        mlx_lm.utils.save_model(folder, model)
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    figure(f"mlx-lm stores {family}", largest(logits(stored(config), ids), want), LOGITS)
    if "experts" in str(config):
        return
    nn.quantize(model, group_size=32, bits=8, class_predicate=lambda _, m: fits(m))
    packed = stored(config | {"quantization": {"group_size": 32, "bits": 8}})
    figure(
        f"mlx-lm stores {family} in 8 bits", largest(logits(packed, ids), their_logits(model, ids)), LOGITS
    )


def fits(module: Any) -> bool:
    """Whether the rows of a layer are whole groups of 32."""
    return hasattr(module, "to_quantized") and module.weight.shape[-1] % 32 == 0


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_adapters_of_experts_both_ways(
    mlx_lm: ModuleType, family: str, ids: np.ndarray, tmp_path: Path, figure: Check
) -> None:
    ids %= 90
    config = json.loads((MODELS / family / "config.json").read_text())
    config |= {"rope_theta": config["rope_parameters"]["rope_theta"], "num_experts": 6, **FAMILIES["lfm2"]}
    data = write_words(tmp_path / "data", [[5, 6, 7, 8]])
    run = train(MODELS / family, data, tmp_path / "run", iters=3, lr=1e-2)
    model, _ = mlx_lm.utils.load_model(MODELS / family, model_config=config)
    model.set_dtype(mx.float32)
    model = mlx_lm.tuner.utils.load_adapters(model, str(run.output))
    ours = logits(MODELS / family, ids, run.output)
    assert largest(ours, logits(MODELS / family, ids)) > 1e-2
    figure(f"mlx-lm reads our adapter of {family}", largest(ours, their_logits(model, ids)), LOGITS)

    noise = {
        name: 0.02 * mx.random.normal(value.shape)
        for name, value in tree_flatten(model.trainable_parameters())
        if name.endswith("lora_b")
    }
    model.load_weights(list(noise.items()), strict=False)
    changed = {
        name: value
        for name, value in tree_flatten(model.parameters())
        if name.rpartition(".")[2] in {"lora_a", "lora_b"}
    }
    folder = tmp_path / "theirs"
    shutil.copytree(run.output, folder)
    mx.save_safetensors(str(folder / "adapters.safetensors"), changed)
    figure(
        f"we read mlx-lm's adapter of {family}",
        largest(logits(MODELS / family, ids, folder), their_logits(model, ids)),
        LOGITS,
    )


@pytest.mark.parametrize("bits", [None, 8, 4])
def test_mlx_lm_reads_a_merged_model(
    mlx_lm: ModuleType, bits: int | None, ids: np.ndarray, tmp_path: Path, figure: Check
) -> None:
    base = MODEL
    if bits:
        base = Path(shutil.copytree(MODEL, tmp_path / "base"))
        model, _ = mlx_lm.load(str(MODEL))
        nn.quantize(model, group_size=32, bits=bits, class_predicate=lambda _, m: fits(m))
        mlx_lm.utils.save_model(base, model)
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(
            json.dumps(config | {"quantization": {"group_size": 32, "bits": bits}})
        )
    adapter = FIXTURES / "lora" / "gradient"
    fuse(base, adapter, tmp_path / "merged")
    model, _ = mlx_lm.load(str(tmp_path / "merged"))
    theirs = their_logits(model, ids)
    figure(f"mlx-lm reads a merged model ({bits})", largest(logits(tmp_path / "merged", ids), theirs), LOGITS)
    effect = largest(logits(base, ids), logits(base, ids, adapter))
    assert largest(theirs, logits(base, ids, adapter)) < (0.3 * effect if bits else LOGITS)
