"""Adapters in PEFT's format, and several on one model."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit import _core
from efficientai_toolkit.adapters import convert_adapter, fuse
from efficientai_toolkit.cli.app import main
from efficientai_toolkit.exceptions import ConfigError, ModelLoadingError, ToolkitError
from support.damage import overwritten, tensor
from support.engine import FIXTURES, MODELS, largest, logits, stored, tensors, train
from support.rows import write_words

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.figures import Check

MODEL = MODELS / "llama_gqa"
PEFT = FIXTURES / "peft"
MLX = FIXTURES / "lora" / "gradient"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model.model.layers"
QUERY = f"{PREFIX}.0.self_attn.q_proj"
IDS = np.arange(3, 19)[None]
CASES = ["lora", "rslora", "patterns", "regex", "dora", "last_layer", "adalora"]
CLOSE = 1e-4


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return tensors(PEFT / "expected.safetensors")


@pytest.mark.parametrize("name", CASES)
def test_an_adapter_of_peft_gives_its_logits(
    name: str, expected: dict[str, np.ndarray], figure: Check
) -> None:
    ids = expected["ids"]
    assert largest(expected[name], logits(MODEL, ids)) > 0.05
    figure(f"peft {name} logits", largest(logits(MODEL, ids, PEFT / name), expected[name]), CLOSE)


@pytest.mark.parametrize("with_model", [True, False], ids=["with model", "without model"])
@pytest.mark.parametrize("name", CASES)
def test_conversions_there_and_back(
    name: str, with_model: bool, expected: dict[str, np.ndarray], tmp_path: Path, figure: Check
) -> None:
    model = str(MODEL) if with_model else None
    there = convert_adapter(PEFT / name, tmp_path / "mlx", model_path=model)
    assert (there.source, there.adapter_format) == ("peft", "mlx")
    back = convert_adapter(tmp_path / "mlx", tmp_path / "peft", model_path=model)
    assert (back.source, back.adapter_format, back.layers) == ("mlx", "peft", there.layers)
    for folder in ("mlx", "peft"):
        got = logits(MODEL, expected["ids"], tmp_path / folder)
        figure(f"peft {name} as {folder}", largest(got, expected[name]), CLOSE)


def test_a_conversion_keeps_number_formats_and_tensors(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(PEFT / "lora", tmp_path / "half"))
    arrays = {name: value.astype(mx.bfloat16) for name, value in mx.load(str(folder / WEIGHTS)).items()}
    mx.eval(arrays)
    mx.save_safetensors(str(folder / WEIGHTS), arrays)
    convert_adapter(folder, tmp_path / "mlx")
    convert_adapter(tmp_path / "mlx", tmp_path / "peft", model_path=MODEL)
    back = mx.load(str(tmp_path / "peft" / WEIGHTS))
    assert back.keys() == arrays.keys()
    assert all(value.dtype == mx.bfloat16 for value in back.values())
    assert all(mx.array_equal(value, arrays[name]) for name, value in back.items())
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (4, 6, {})
    assert config["target_modules"] == sorted(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )


def test_training_from_an_adapter_of_peft_to_one(tmp_path: Path) -> None:
    data = write_words(tmp_path / "data", [[5, 6, 7, 8]])
    start = PEFT / "patterns"
    run = train(
        MODEL, data, tmp_path / "run", iters=1, lr=1e-9, init_adapter=str(start), adapter_format="peft"
    )
    assert not (run.output / "adapters.safetensors").exists()
    before, after = tensors(start / WEIGHTS), tensors(run.output / WEIGHTS)
    assert before.keys() == after.keys()
    assert largest(logits(MODEL, IDS, run.output), logits(MODEL, IDS, start)) < CLOSE
    config = json.loads((run.output / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert config["base_model_name_or_path"] == str(MODEL)


def setting(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


@pytest.mark.parametrize(
    ("change", "culprits"),
    [
        (setting(peft_type="IA3"), ["peft_type", "IA3"]),
        (setting(modules_to_save=["lm_head"]), ["modules_to_save", "lm_head", "no tensors"]),
        (setting(lora_bias=True), ["lora_bias"]),
        (setting(use_dora=True), ["down_proj", "no magnitude", "use_dora"]),
        (setting(bias="all"), ["bias", "all"]),
        (setting(trainable_token_indices=[1]), ["trainable_token_indices"]),
        (setting(target_parameters=["experts.w"]), ["target_parameters"]),
        (setting(init_lora_weights="pissa"), ["init_lora_weights", "pissa"]),
        (setting(r=10**9), ["layers.0.mlp.down_proj", "1000000000", "rank 4"]),
        (setting(r=0), ["rank 4", "0"]),
        (setting(r=-1), ["r", "-1"]),
        (setting(lora_alpha=1e308), ["scaled by inf"]),
        (setting(rank_pattern={"q_proj": "x"}), ["rank_pattern", "q_proj"]),
        (setting(alpha_pattern={"(": 1}), ["alpha_pattern"]),
        (setting(target_modules=["v_proj"]), ["down_proj", "target_modules"]),
        (setting(target_modules="("), ["target_modules"]),
        (overwritten("adapter_config.json", b'{"peft_type": "LORA", "lora_alpha": NaN}'), ["adapter_config"]),
        (tensor(f"{QUERY}.lora_B.weight", lambda _: None, WEIGHTS), ["q_proj", "only one of"]),
        (tensor(f"{QUERY}.lora_A.weight", lambda a: a[:, :47], WEIGHTS), ["q_proj", "47", "48"]),
        (tensor(f"{QUERY}.lora_A.weight", lambda a: a[:3], WEIGHTS), ["q_proj", "rank 3"]),
        (tensor(f"{QUERY}.lora_A.weight", lambda a: a[0], WEIGHTS), ["q_proj", "[48]"]),
        (tensor(f"{QUERY}.lora_A.weight", lambda a: a.astype(mx.int32), WEIGHTS), ["q_proj", "Int32"]),
        (
            tensor(
                "base_model.model.model.embed_tokens.lora_embedding_A", lambda _: mx.ones((4, 9)), WEIGHTS
            ),
            ["embed_tokens", "embedding"],
        ),
        (
            tensor("base_model.model.lm_head.weight", lambda _: mx.ones((4, 9)), WEIGHTS),
            ["lm_head.weight", "modules_to_save"],
        ),
        (
            tensor(f"{QUERY}.lora_magnitude_vector", lambda _: mx.ones(48), WEIGHTS),
            ["q_proj", "a magnitude", "use_dora"],
        ),
        (tensor(f"{QUERY}.lora_B.bias", lambda _: mx.ones(4), WEIGHTS), ["lora_bias"]),
        (
            lambda folder: (folder / WEIGHTS).rename(folder / "adapter_model.bin"),
            ["adapter_model.bin", "safe_serialization"],
        ),
    ],
)
def test_adapters_of_peft_that_are_refused(
    change: Callable[[Path], None], culprits: list[str], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(PEFT / "lora", tmp_path / "adapter"))
    change(folder)
    with pytest.raises(ModelLoadingError) as error:
        _core.models.load(str(MODEL), str(folder), "float32")
    message = str(error.value)
    assert all(culprit in message for culprit in culprits), message


@pytest.mark.parametrize(
    "change",
    [
        setting(target_modules=r"model\.layers\.(?!9\.)\d+\.(self_attn|mlp)\.(?!rotary)\w+(?<!norm)"),
        setting(rank_pattern={r"layers\.(?!0|1)\d+\..*": 2}, alpha_pattern={r".*(?<!_proj)": 1}),
        setting(
            lora_dropout=None, use_dora=None, use_rslora=None, init_r=None, layers_pattern=None, bias=None
        ),
    ],
    ids=["look-ahead", "patterns", "nulls"],
)
def test_what_peft_may_write_otherwise(
    change: Callable[[Path], None], expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(PEFT / "lora", tmp_path / "adapter"))
    change(folder)
    assert largest(logits(MODEL, expected["ids"], folder), expected["lora"]) < CLOSE


def test_patterns_that_look_around_choose_the_scale(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(PEFT / "lora", tmp_path / "adapter"))
    setting(alpha_pattern={r".*\.(?!q_|v_)\w+_proj": 9, r"(?<=self_attn\.)q_proj": 3})(folder)
    plain = Path(shutil.copytree(PEFT / "lora", tmp_path / "plain"))
    others = ["k_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    setting(alpha_pattern=dict.fromkeys(others, 9) | {"q_proj": 3})(plain)
    assert largest(logits(MODEL, IDS, folder), logits(MODEL, IDS, plain)) == 0
    setting(alpha_pattern={r"(?=m)(\w|\w\w|\.)+(?!x)!": 1})(folder)
    with pytest.raises(ModelLoadingError, match=r"alpha_pattern.*cannot be evaluated"):
        logits(MODEL, IDS, folder)


def test_names_that_reach_outside_are_no_layers(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(PEFT / "lora", tmp_path / "adapter"))
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    for leaf, matrix in (("A", mx.ones((4, 48))), ("B", mx.ones((48, 4)))):
        add = partial(lambda x, _: x, matrix)
        tensor(f"base_model.model.../../x.lora_{leaf}.weight", add, WEIGHTS)(folder)
    with pytest.raises(ModelLoadingError, match=r"no layer \"\.\./\.\./x\""):
        _core.models.load(str(MODEL), str(folder), "float32")


def test_a_named_adapter_of_peft_lies_in_a_folder_of_its_own(tmp_path: Path) -> None:
    shutil.copytree(PEFT / "lora", tmp_path / "saved" / "poems")
    with pytest.raises(ModelLoadingError, match=r"did you mean .*poems"):
        _core.models.load(str(MODEL), str(tmp_path / "saved"), "float32")


def test_a_conversion_that_cannot_be(tmp_path: Path) -> None:
    convert_adapter(MLX, tmp_path / "peft")
    with pytest.raises(ToolkitError, match="overwrite"):
        convert_adapter(MLX, tmp_path / "peft")
    convert_adapter(MLX, tmp_path / "peft", overwrite=True)
    with pytest.raises(ConfigError, match="own folder"):
        convert_adapter(tmp_path / "peft", tmp_path / "peft", overwrite=True)
    with pytest.raises(ModelLoadingError, match="does not fit"):
        convert_adapter(MLX, tmp_path / "other", model_path=MODELS / "llama_tied")
    with pytest.raises(ConfigError, match="gguf"):
        convert_adapter(MLX, tmp_path / "other", adapter_format="gguf")  # type: ignore[arg-type]


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = "lora-finetuning-mlx"
    adapter, output = str(PEFT / "lora"), str(tmp_path / "mlx")
    assert main([f"{space}:convert", "--adapter-path", adapter, "--output", output, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["source"], report["adapter_format"], report["layers"]) == ("peft", "mlx", 14)
    merged = ["--model-path", str(MODEL), "--adapter-path", output, "--output", str(tmp_path / "merged")]
    assert main([f"{space}:fuse", *merged]) == 0
    assert "14 layers" in capsys.readouterr().out
    assert main([f"{space}:fuse", *merged]) == 2
    assert "overwrite" in capsys.readouterr().err


def test_adapters_are_exchanged_on_a_loaded_model() -> None:
    model, _ = eat.load(MODEL)
    plain = np.asarray(model(IDS))
    model.load_adapter(PEFT / "patterns", "one")
    model.load_adapter(MLX, "two")
    assert model.adapters == {"one": 0.0, "two": 0.0}
    assert largest(model(IDS), plain) == 0
    for name, folder in (("one", PEFT / "patterns"), ("two", MLX), ("one", PEFT / "patterns")):
        model.set_adapter(name)
        assert largest(model(IDS), logits(MODEL, IDS, folder)) == 0
    model.set_adapter({"one": 0.5, "two": -2.0})
    assert model.adapters == {"one": 0.5, "two": -2.0}
    model.unload_adapter("two")
    assert model.adapters == {"one": 0.5}
    model.set_adapter("one")
    assert largest(model(IDS), logits(MODEL, IDS, PEFT / "patterns")) == 0
    model.set_adapter(None)
    assert largest(model(IDS), plain) == 0


def deltas(folder: Path) -> dict[str, np.ndarray]:
    """``s · B·A`` of each layer in float64, ``[out, in]``, of an adapter of PEFT with one rank and alpha."""
    config = json.loads((folder / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / (config["r"] ** 0.5 if config["use_rslora"] else config["r"])
    found = {name: value.astype(np.float64) for name, value in tensors(folder / WEIGHTS).items()}
    paths = [name.removesuffix(".lora_A.weight") for name in found if name.endswith(".lora_A.weight")]
    return {p: scale * found[f"{p}.lora_B.weight"] @ found[f"{p}.lora_A.weight"] for p in paths}


def test_a_blend_is_the_sum_of_its_parts(tmp_path: Path, figure: Check) -> None:
    model, _ = eat.load(MODEL)
    model.load_adapter(PEFT / "lora", "one")
    model.load_adapter(PEFT / "rslora", "two")
    model.set_adapter({"one": 0.7, "two": -0.4})
    weights = {name: np.asarray(value, dtype=np.float64) for name, value in stored(MODEL).items()}
    for folder, weight in ((PEFT / "lora", 0.7), (PEFT / "rslora", -0.4)):
        for path, delta in deltas(folder).items():
            weights[f"{path.removeprefix('base_model.model.')}.weight"] += weight * delta
    shutil.copytree(MODEL, tmp_path / "sum")
    arrays = {name: mx.array(value.astype(np.float32)) for name, value in weights.items()}
    mx.save_safetensors(str(tmp_path / "sum" / "model.safetensors"), arrays)
    want = logits(tmp_path / "sum", IDS)
    assert largest(want, logits(MODEL, IDS)) > 0.05
    figure("blend beside the sum of its parts", largest(model(IDS), want), CLOSE)


def test_adapters_that_cannot_be_exchanged(tmp_path: Path) -> None:
    model, _ = eat.load(MODEL, MLX)
    assert model.adapters == {"default": 1.0}
    model.load_adapter(PEFT / "lora", "one")
    before = np.asarray(model(IDS))
    with pytest.raises(ConfigError, match=r'no adapter is called "two".*"default", "one"'):
        model.set_adapter("two")
    with pytest.raises(ConfigError, match="two"):
        model.set_adapter({"one": 1.0, "two": 1.0})
    with pytest.raises(ConfigError, match="weight"):
        model.set_adapter({"one": float("nan")})
    with pytest.raises(ConfigError, match="two"):
        model.unload_adapter("two")
    with pytest.raises(ConfigError, match="already"):
        model.load_adapter(PEFT / "lora", "one")
    with pytest.raises(ConfigError, match="empty"):
        model.load_adapter(PEFT / "lora", "")
    with pytest.raises(ModelLoadingError, match="nowhere"):
        model.load_adapter(tmp_path / "nowhere", "three")
    assert model.adapters == {"default": 1.0, "one": 0.0}
    assert largest(model(IDS), before) == 0
    other, _ = eat.load(MODELS / "llama_tied")
    with pytest.raises(ModelLoadingError, match="does not fit the model"):
        other.load_adapter(MLX, "one")


def test_an_adapter_with_magnitudes_stands_alone() -> None:
    model, _ = eat.load(MODEL)
    model.load_adapter(PEFT / "dora", "one")
    model.load_adapter(MLX, "two")
    model.set_adapter("two")
    model.set_adapter("one")
    assert largest(model(IDS), logits(MODEL, IDS, PEFT / "dora")) == 0
    with pytest.raises(ConfigError, match="DoRA"):
        model.set_adapter({"one": 0.5})
    with pytest.raises(ConfigError, match="DoRA"):
        model.set_adapter({"one": 1.0, "two": 1.0})
    model.set_adapter("two")
    assert largest(model(IDS), logits(MODEL, IDS, MLX)) == 0


EXPERTS = {
    "gpt_oss": ("mlp.experts.up_proj", "mlp.experts.{}.up_proj"),
    "lfm2_moe": ("feed_forward.switch_mlp.up_proj", "feed_forward.experts.{}.w3"),
    "mixtral": ("block_sparse_moe.switch_mlp.up_proj", "block_sparse_moe.experts.{}.w3"),
    "qwen3_moe": ("mlp.switch_mlp.up_proj", "mlp.experts.{}.up_proj"),
}
"""What mlx-lm calls a stack, and what transformers 4 calls its parts."""


@pytest.mark.parametrize("family", EXPERTS)
def test_adapters_of_experts(family: str, tmp_path: Path, figure: Check) -> None:
    """Stacked by mlx-lm, apart in PEFT, and the same function; merged into the model too."""
    model, (stacked, apart) = MODELS / family, EXPERTS[family]
    data = write_words(tmp_path / "data", [[5, 6, 7, 8]])
    target = apart.rpartition(".")[2]
    run = train(model, data, tmp_path / "run", iters=3, lr=1e-2, target_modules=[target])
    name = next(name for name in run.adapter if stacked in name and name.endswith(".lora_a"))
    experts, rank, _ = run.adapter[name].shape
    convert_adapter(run.output, tmp_path / "peft", model_path=model)
    parts = tensors(tmp_path / "peft" / WEIGHTS)
    for i in range(experts):
        path = name.replace(stacked, apart.format(i)).removesuffix(".lora_a")
        part = parts[f"base_model.model.{path}.lora_A.weight"]
        assert largest(part, run.adapter[name][i]) == 0
        assert part.shape[0] == rank
    want = logits(model, IDS, run.output)
    assert largest(want, logits(model, IDS)) > 1e-3
    assert largest(logits(model, IDS, tmp_path / "peft"), want) == 0
    convert_adapter(tmp_path / "peft", tmp_path / "mlx", model_path=model)
    assert {n: v.tolist() for n, v in tensors(tmp_path / "mlx" / "adapters.safetensors").items()} == {
        n: v.tolist() for n, v in run.adapter.items()
    }
    # The fixtures are in bfloat16, so merged weights are rounded to it.
    figure(
        f"effect that merged {family} loses", abs(1 - fuse(model, run.output, tmp_path / "merged").kept), 0.02
    )
    merged = logits(tmp_path / "merged", IDS)
    assert largest(merged, want) < 0.2 * largest(logits(model, IDS), want)
    with pytest.raises(ConfigError, match="give model_path"):
        convert_adapter(tmp_path / "peft", tmp_path / "none")
    with pytest.raises(ModelLoadingError, match="give model_path"):
        convert_adapter(run.output, tmp_path / "none")


def test_a_trained_adapter_is_the_default(tmp_path: Path) -> None:
    data = write_words(tmp_path / "data", [[5, 6, 7, 8]])
    model, tokenizer = eat.load(MODEL)
    model.load_adapter(MLX, "one")
    config = {"data": str(data), "output": str(tmp_path / "run"), "iters": 1}
    _core.lora.train(model, tokenizer, json.dumps(config), lambda _: None)
    assert model.adapters == {"default": 1.0}
