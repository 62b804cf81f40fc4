"""Broken models, adapters, data and settings: the class of the error, and the culprit in its message."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest

from efficientai_toolkit import GenerateConfig, _core, generate
from efficientai_toolkit.exceptions import ConfigError, DatasetError, ModelLoadingError, ToolkitError
from efficientai_toolkit.lora import MLXTrainer, TrainingConfig
from support import damage
from support.engine import FIXTURES, MODELS, train
from support.rows import write_jsonl, write_words

if TYPE_CHECKING:
    from support.damage import Damage

MODEL = MODELS / "llama_gqa"
ADAPTER = FIXTURES / "lora" / "gradient"

UP = "model.layers.1.mlp.up_proj.weight"
K = "model.layers.0.self_attn.k_proj.weight"
EXTRA = "model.layers.0.self_attn.q_norm.weight"
QUERY = "model.layers.0.self_attn.q_proj"


def message_without(path: Path, error: pytest.ExceptionInfo[BaseException]) -> str:
    """The message, without a path whose name might hold what is looked for."""
    return str(error.value).replace(str(path), "")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MODEL, tmp_path / "model"))


@pytest.mark.parametrize(
    ("change", "culprits"),
    [
        pytest.param(damage.truncated(damage.WEIGHTS, 0.5), [damage.WEIGHTS], id="truncated weights"),
        pytest.param(damage.truncated(damage.WEIGHTS, 0.001), [damage.WEIGHTS], id="truncated header"),
        pytest.param(damage.overwritten(damage.WEIGHTS, b""), [damage.WEIGHTS], id="empty weights"),
        pytest.param(
            damage.overwritten(damage.WEIGHTS, b"\x08" + bytes(7) + b"not json"),
            [damage.WEIGHTS],
            id="header is not JSON",
        ),
        pytest.param(damage.header_length(2**62), [damage.WEIGHTS], id="huge header"),
        pytest.param(damage.header_length(2**64 - 1), [damage.WEIGHTS], id="header length overflows"),
        pytest.param(damage.header_entry(K, data_offsets=[0, 2**60]), [damage.WEIGHTS], id="offsets outside"),
        pytest.param(damage.header_entry(K, shape=[2**40, 2**40]), [damage.WEIGHTS], id="size overflows"),
        pytest.param(damage.header_entry(K, dtype="F13"), [damage.WEIGHTS], id="unknown dtype"),
        pytest.param(damage.removed(damage.WEIGHTS), ["safetensors"], id="no weights"),
        pytest.param(damage.tensor(UP, lambda _: None), [UP], id="missing tensor"),
        pytest.param(damage.tensor(EXTRA, lambda _: mx.ones((12,))), [EXTRA], id="unexpected tensor"),
        pytest.param(damage.tensor(K, lambda w: w[:23]), [K, "23", "24"], id="wrong shape"),
        pytest.param(damage.tensor(K, lambda w: w.astype(mx.int32)), [K], id="integer weights"),
        pytest.param(damage.setting(model_type="rwkv9"), ["rwkv9"], id="unknown model_type"),
        pytest.param(damage.setting(model_type=None), ["model_type"], id="no model_type"),
        pytest.param(
            damage.overwritten("config.json", b"{'hidden': 1"), ["config.json"], id="config no JSON"
        ),
        pytest.param(damage.overwritten("config.json", b"[]"), ["config.json"], id="config no object"),
        pytest.param(damage.overwritten("config.json", b"\xff\xfe{}"), ["config.json"], id="config no UTF-8"),
        pytest.param(damage.removed("config.json"), ["config.json"], id="no config"),
        pytest.param(damage.setting(hidden_size=None), ["hidden_size"], id="key missing"),
        pytest.param(damage.setting(hidden_size="48"), ['hidden_size|"48"'], id="string for a number"),
        pytest.param(damage.setting(hidden_size=-48), ["hidden_size"], id="negative size"),
        pytest.param(damage.setting(num_hidden_layers=0), ["num_hidden_layers"], id="no layers"),
        pytest.param(damage.setting(num_attention_heads=0), ["num_attention_heads"], id="no heads"),
        pytest.param(
            damage.setting(num_key_value_heads=3), ["num_key_value_heads"], id="heads do not divide"
        ),
        pytest.param(damage.setting(head_dim=11), ["head_dim"], id="odd head_dim"),
        pytest.param(
            damage.setting(vocab_size=10**15), ["10{15}|embed_tokens|vocab_size"], id="huge vocabulary"
        ),
        pytest.param(damage.setting(hidden_size=2**40), ["hidden_size|1099511627776"], id="huge size"),
        pytest.param(
            damage.setting(num_hidden_layers=10**9), ["num_hidden_layers|layers.2"], id="huge depth"
        ),
        pytest.param(
            damage.setting(rope_parameters={"rope_type": "spiral", "rope_theta": 1e4}),
            ["spiral"],
            id="unknown RoPE",
        ),
        pytest.param(
            damage.setting(rope_parameters={"rope_type": "llama3", "rope_theta": 1e4}),
            ["factor"],
            id="incomplete RoPE",
        ),
        pytest.param(damage.setting(hidden_act="tanh"), ["tanh"], id="unknown activation"),
        pytest.param(damage.removed("tokenizer.json"), ["tokenizer.json"], id="no tokenizer"),
        pytest.param(damage.overwritten("tokenizer.json", b"{}"), ["tokenizer.json"], id="broken tokenizer"),
        pytest.param(
            damage.overwritten("tokenizer_config.json", b"{"),
            ["tokenizer_config.json"],
            id="broken tokenizer settings",
        ),
    ],
)
def test_model(model: Path, change: Damage, culprits: list[str]) -> None:
    change(model)
    with pytest.raises(ModelLoadingError) as error:
        _core.models.load(str(model), None, "float32")
    for culprit in culprits:
        assert re.search(culprit, str(error.value)), str(error.value)


def test_all_missing_tensors_are_named_at_once(model: Path) -> None:
    damage.tensor(UP, lambda _: None)(model)
    damage.tensor(K, lambda _: None)(model)
    with pytest.raises(ModelLoadingError, match=re.escape(K)) as error:
        _core.models.load(str(model), None, "float32")
    assert UP in str(error.value)


@pytest.mark.parametrize("name", ["model-00002-of-00005.safetensors", "model.safetensors.index.json"])
def test_shards(tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(MODELS / "llama_bf16_sharded", tmp_path / "model"))
    (folder / name).write_bytes(b"{")
    with pytest.raises(ModelLoadingError, match=re.escape(name)):
        _core.models.load(str(folder), None, "float32")


def test_a_missing_shard(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(MODELS / "llama_bf16_sharded", tmp_path / "model"))
    name = "model-00002-of-00005.safetensors"
    (folder / name).unlink()
    with pytest.raises(ModelLoadingError, match=rf"lacks 1 of the 5 files .*{re.escape(name)}"):
        _core.models.load(str(folder), None, "float32")


def test_no_such_model(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadingError, match="nowhere"):
        _core.models.load(str(tmp_path / "nowhere"), None, None)


@pytest.mark.parametrize(
    ("change", "culprits"),
    [
        (damage.removed("adapters.safetensors"), ["adapters.safetensors"]),
        (damage.removed("adapter_config.json"), ["adapter_config.json"]),
        (damage.overwritten("adapter_config.json", b"{"), ["adapter_config.json"]),
        (damage.overwritten("adapter_config.json", b"{}"), ["num_layers|lora_parameters|rank"]),
        (damage.truncated("adapters.safetensors", 0.5), ["adapters.safetensors"]),
        (damage.tensor(f"{QUERY}.lora_a", lambda a: a[:47], "adapters.safetensors"), [QUERY, "47", "48"]),
        (
            damage.tensor(
                "model.layers.9.mlp.up_proj.lora_a", lambda _: mx.ones((48, 8)), "adapters.safetensors"
            ),
            ["layers.9"],
        ),
    ],
    ids=[
        "no tensors",
        "no settings",
        "settings no JSON",
        "settings empty",
        "truncated",
        "shape",
        "unknown layer",
    ],
)
def test_adapter(tmp_path: Path, change: Damage, culprits: list[str]) -> None:
    folder = Path(shutil.copytree(ADAPTER, tmp_path / "adapter"))
    change(folder)
    with pytest.raises(ModelLoadingError) as error:
        _core.models.load(str(MODEL), str(folder), "float32")
    for culprit in culprits:
        assert re.search(culprit, str(error.value)), str(error.value)


GOOD = json.dumps({"text": "t5 t6"})


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        ([], None),
        (["", "  "], None),
        ([GOOD, GOOD, '{"text": 1'], 3),
        ([GOOD, "", "[1, 2]"], 3),
        ([GOOD, '{"question": "t5"}'], 2),
        ([GOOD, "{}"], 2),
        ([GOOD, '{"text": 7}'], 2),
        ([GOOD, '{"text": null}'], 2),
        ([GOOD, '{"prompt": "t5"}'], 2),
        ([GOOD, '{"messages": []}'], 2),
        ([GOOD, '{"messages": [{"content": "t5"}]}'], 2),
        ([GOOD, '{"messages": "t5"}'], 2),
        ([GOOD, GOOD, GOOD, b'{"text": "t5 \xff"}'], 4),
    ],
    ids=[
        "empty",
        "blank",
        "not JSON",
        "not an object",
        "no known key",
        "no key",
        "number",
        "null",
        "no completion",
        "no messages",
        "no role",
        "messages no list",
        "not UTF-8",
    ],
)
@pytest.mark.parametrize("door", ["validate", "train"])
def test_data(tmp_path: Path, lines: list[str | bytes], line: int | None, door: str) -> None:
    data = write_words(tmp_path / "data", [[5, 6]])
    content = [text if isinstance(text, bytes) else text.encode() for text in lines]
    (data / "train.jsonl").write_bytes(b"\n".join(content) + b"\n")
    doors: dict[str, Callable[[], object]] = {
        "train": lambda: train(MODEL, data, tmp_path / "run", iters=1),
        "validate": lambda: _core.lora.validate(
            *_core.models.load(str(MODEL), None, None), json.dumps({"data": str(data)})
        ),
    }
    with pytest.raises(DatasetError, match=r"train\.jsonl") as error:
        doors[door]()
    if line is not None:
        assert re.search(rf"\b{line}\b", message_without(data, error)), str(error.value)
    assert not (tmp_path / "run" / "adapters.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.json", "[]", "the file holds no rows"),
        ("train.json", '[{"text": "t5"}, {"text": 5}]', 'row 2: "text" must be a string'),
        ("train.json", '[{"text": "t5"}', r"invalid JSON \(EOF"),
        ("train.csv", "text,label\nt5\n", ": row 1: the row has 1 cells but the first line names 2 columns"),
        ("train.csv", "a,b\n1,2\n", ': row 1: found keys "a", "b"; a row needs "text"'),
        ("train.tsv", "text\ttext\n1\t2\n", 'two columns are called "text"'),
        ("train.parquet", "PAR1", "cannot be read"),
        ("train.jsonl", '{"instruction": "a", "output": 1}', ':1: "output" must be a string, found a number'),
        (
            "train.jsonl",
            '{"conversations": [{"from": "bot", "value": ""}]}',
            r':1: conversations\[0\] is from "bot"',
        ),
    ],
)
def test_data_of_other_formats(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_text(content, encoding="utf-8")
    with pytest.raises(DatasetError, match=f"{re.escape(name)}.*{message}"):
        train(MODEL, tmp_path / "data", tmp_path / "run", iters=1)


def test_mixed_data(tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "a.jsonl", [{"text": "t5"}])
    pair = (*_core.models.load(str(MODEL), None, None),)
    with pytest.raises(ConfigError, match=r"a\.jsonl=0.*weight above 0"):
        _core.lora.validate(*pair, json.dumps({"data": f"{rows}=0"}))
    with pytest.raises(DatasetError, match="nowhere"):
        _core.lora.validate(*pair, json.dumps({"data": f"{rows},nowhere"}))
    with pytest.raises(DatasetError, match="nowhere"):
        TrainingConfig(data=f"{rows}=2,nowhere").with_defaults_filled()
    with pytest.raises(ConfigError, match=r"columns holds .*answer=text.*rows are made of text, prompt"):
        _core.lora.validate(*pair, json.dumps({"data": str(rows), "columns": ["answer=text"]}))


def test_wrong_validation_rows_are_found_before_training(tmp_path: Path) -> None:
    data = write_words(tmp_path / "data", [[5, 6]])
    write_jsonl(data / "valid.jsonl", [{"text": "t5"}, {"txt": "t5"}])
    events = []
    with pytest.raises(DatasetError, match=r"valid\.jsonl") as error:
        train(MODEL, data, tmp_path / "run", lambda _, event: events.append(event), iters=1)
    assert re.search(r"\b2\b", message_without(data, error))
    assert not events


def test_no_training_split(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data" / "valid.jsonl", [{"text": "t5"}])
    with pytest.raises(DatasetError, match=r"train\.jsonl"):
        train(MODEL, tmp_path / "data", tmp_path / "run", iters=1)


def test_no_such_data(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere"):
        train(MODEL, tmp_path / "nowhere", tmp_path / "run", iters=1)


@pytest.mark.parametrize(
    "setting",
    [
        {"lr": -1.0},
        {"lr": float("nan")},
        {"batch_size": 0},
        {"batch_size": -1},
        {"epochs": 0.0},
        {"iters": 0},
        {"grad_accumulation": 0},
        {"max_seq_length": 1},
        {"lora_rank": 0},
        {"lora_dropout": 1.0},
        {"lora_dropout": -0.1},
        {"target_modules": ["gate_keeper"]},
        {"target_modules": []},
        {"num_layers": 3},
        {"num_layers": 0},
        {"dtype": "float8"},
        {"method": "magic"},
        {"schedule": "zigzag"},
        {"warmup_ratio": 1.5},
        {"beta1": 1.0},
        {"eps": -1.0},
        {"max_grad_norm": -1.0},
        {"weight_decay": -0.1},
        {"keep_checkpoints": 0},
        {"learning_rate": 1e-3},
    ],
    ids=str,
)
def test_training_setting(tmp_path: Path, setting: dict[str, Any]) -> None:
    data = write_words(tmp_path / "data", [[5, 6]])
    [name] = setting
    given = {"model_path": str(MODEL), "data": str(data), "output": str(tmp_path / "run"), "iters": 1}
    with pytest.raises(ConfigError, match=name):
        MLXTrainer(TrainingConfig().with_values({**given, **setting})).train()


@pytest.mark.parametrize(
    "setting",
    [{"lr": -1.0}, {"epochs": 0.0}, {"target_modules": ["gate_keeper"]}, {"num_layers": 99}],
    ids=str,
)
def test_settings_are_checked_before_a_run(tmp_path: Path, setting: dict[str, Any]) -> None:
    data = write_words(tmp_path / "data", [[5, 6]])
    [name] = setting
    with pytest.raises(ConfigError, match=name):
        _core.lora.validate(
            *_core.models.load(str(MODEL), None, None), json.dumps({"data": str(data), **setting})
        )


@pytest.mark.parametrize(
    "setting",
    [
        {"max_tokens": -1},
        {"temperature": -0.5},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"min_p": -0.1},
        {"repetition_penalty": 0.0},
        {"top_k": -1},
        {"temprature": 1.0},
    ],
    ids=str,
)
def test_generation_setting(setting: dict[str, Any]) -> None:
    model, tokenizer = _core.models.load(str(MODEL), None, "float32")
    [name] = setting
    with pytest.raises(ConfigError, match=name):
        generate(model, tokenizer, "t5", config=GenerateConfig().with_values(setting))


@pytest.mark.parametrize("token", [256, 99999, -1])
def test_ids_outside_the_vocabulary(token: int) -> None:
    model, _ = _core.models.load(str(MODEL), None, "float32")
    with pytest.raises(ToolkitError, match=str(token)):
        model(np.array([[5, token]]))


def test_a_chat_without_a_template(tmp_path: Path) -> None:
    """Not a defect of the rows: the tokenizer has no template."""
    rows = [{"messages": [{"role": "user", "content": "t5"}, {"role": "assistant", "content": "t6"}]}]
    write_jsonl(tmp_path / "data" / "train.jsonl", rows)
    with pytest.raises(ToolkitError, match="template"):
        train(MODEL, tmp_path / "data", tmp_path / "run", iters=1)


def test_a_tokenizer_of_another_model(model: Path, tmp_path: Path) -> None:
    """A token beyond the embedding must not be read from memory that is not its own."""
    file = model / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["model"]["vocab"]["t5"] = 5000
    file.write_text(json.dumps(tokenizer))
    loaded, words = _core.models.load(str(model), None, "float32")
    with pytest.raises(ModelLoadingError, match="5000"):
        _core.generate.generate(loaded, words, "t5", "{}", None)
    data = write_words(tmp_path / "data", [[5, 6]])
    config = {"data": str(data), "output": str(tmp_path / "run"), "iters": 1}
    with pytest.raises(ModelLoadingError, match="5000"):
        _core.lora.train(loaded, words, json.dumps(config), lambda _: None)
