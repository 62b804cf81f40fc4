"""Hostile inputs of every reader: whole files, damaged at random but the same for the same seed."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save

from efficientai_toolkit.benchmark.comparison import compare_runs
from efficientai_toolkit.benchmark.report import to_html
from efficientai_toolkit.benchmark.result import Result
from efficientai_toolkit.benchmark.store import Store
from efficientai_toolkit.benchmark.suite import Suite
from support.engine import FIXTURES, MODELS
from support.gguf_damage import damaged_gguf
from support.gguf_files import byte_level, family_config, random_weights, sentencepiece, write_gguf
from support.rows import write_words

MODEL = MODELS / "llama_gqa"
CHAT_MODEL = MODELS / "chat"
ADAPTER = FIXTURES / "lora" / "gradient"

NUMBERS: list[Any] = [0, -1, 1, 2**16, 2**31, 2**32 + 1, 2**53, 2**63, -(2**63), 1e308, -1e-308, 1e999]
VALUES: list[Any] = [*NUMBERS, None, True, "", "x" * 70_000, "\x00", "\ud800", [], {}, [[]] * 9, {"": {}}]
TEMPLATES = [
    "{% for i in range(10 ** 9) %}{{ i }}{% endfor %}",
    "{% for i in range(10 ** 5) %}{% for j in range(10 ** 5) %}{% endfor %}{% endfor %}",
    "{{ 'a' * 10 ** 10 }}",
    "{{ (10 ** 10) ** (10 ** 7) }}",
    "{{ messages.__class__.__mro__ }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% include 'config.json' %}",
    "{{ [1] * 10 ** 9 }}",
    "{{ '%1000000000d' % 1 }}",
    "{% for",
    "{{ messages[99].content }}",
    "{{ raise_exception('x' * 10 ** 6) }}",
]


class Case(NamedTuple):
    """One file of one reader, and the bytes that it is made of."""

    reader: str
    name: str
    content: bytes


def seeds() -> dict[str, list[tuple[str, bytes]]]:
    """Good files by reader, as names and contents."""
    chat = FIXTURES / "parquet"
    rows = [{"text": "t5 t6 t7"}, {"prompt": "t5", "completion": "t6 t7"}]
    messages = [{"role": "user", "content": "t5"}, {"role": "assistant", "content": "t6"}]
    settings = {"lr": 1e-3, "iters": 3, "method": "lora", "num_layers": 2}
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    table = "prompt,completion\n" + 'a,"b\nc"\n' * 3
    config = json.loads((MODELS / "qwen3_moe" / "config.json").read_text())
    return {
        "safetensors": [("model.safetensors", (MODEL / "model.safetensors").read_bytes())],
        "config": [
            ("config.json", (MODEL / "config.json").read_bytes()),
            ("config.json", json.dumps(config).encode()),
        ],
        "tokenizer": [("tokenizer.json", (MODEL / "tokenizer.json").read_bytes())],
        "tokenizer_config": [
            ("tokenizer_config.json", (MODEL / "tokenizer_config.json").read_bytes()),
            ("generation_config.json", (MODEL / "generation_config.json").read_bytes()),
            ("special_tokens_map.json", b'{"eos_token": "<eos>", "pad_token": {"content": "<pad>"}}'),
        ],
        "index": [("model.safetensors.index.json", json.dumps(index).encode())],
        "adapter": [(file.name, file.read_bytes()) for file in sorted(ADAPTER.iterdir())],
        "jsonl": [("a.jsonl", "\n".join(map(json.dumps, [*rows[:1], {"messages": messages}])).encode())],
        "json": [("a.json", json.dumps([rows[0], {"messages": messages}]).encode())],
        "csv": [("a.csv", table.encode()), ("a.tsv", table.replace(",", "\t").encode())],
        "parquet": [(file.name, file.read_bytes()) for file in sorted(chat.glob("*.parquet"))],
        "tokens": [("a.safetensors", token_ids())],
        "settings": [
            ("a.json", json.dumps(settings).encode()),
            ("a.yaml", b"lr: &a 1e-3\niters: 3\nlr_min_ratio: *a\n"),
            ("a.toml", b'lr = 1e-3\niters = 3\nmethod = "lora"\n'),
        ],
        "template": [("chat_template.jinja", template.encode()) for template in TEMPLATES],
        "results": [("r.sqlite", results_of_benchmarks())],
        "gguf": gguf_files(),
        "checkpoint": [("state.json", b""), ("parameters.safetensors", b""), ("optimizer.safetensors", b"")],
    }


def _same(kind: str, _name: str) -> str:
    return kind


def gguf_files() -> list[tuple[str, bytes]]:
    """A file of blocks of 32 with byte-level BPE, and one of blocks of 256 with SentencePiece's."""
    files = []
    wide: dict[str, Any] = {
        "hidden_size": 256,
        "intermediate_size": 256,
        "head_dim": 64,
        "num_hidden_layers": 1,
    }
    for family, sizes, kind, tokenizer in (
        ("llama", {}, "Q5_0", byte_level),
        ("gemma3", wide, "Q3_K", sentencepiece()),
    ):
        config = family_config(family, **sizes)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.gguf"
            weights = random_weights(Path(folder) / "original", config)
            write_gguf(path, family, config, weights, partial(_same, kind), tokenizer)
            files.append((path.name, path.read_bytes()))
    return files


def token_ids() -> bytes:
    """A file with two rows of token ids."""
    values: dict[str, np.ndarray] = {
        "ids": np.array([5, 6, 7, 8, 1], np.uint16),
        "offsets": np.array([0, 3, 5], np.uint64),
        "learned": np.array([0b11100], np.uint8),
    }
    return save(values, {"format": "efficientai-tokens", "version": "1", "tokenizer": "0123456789abcdef"})


def results_of_benchmarks() -> bytes:
    """A file with a run of two cases."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "r.sqlite", create=True)
        run = store.start(Suite(source="x.py"), {"repeats": 5}, {"packages": {"mlx": "1"}})
        for case in ("a", "b"):
            metrics = {"seconds": [0.5, 0.25]}
            store.add(run, Result(case=case, process=0, status="ok", metrics=metrics, memory=7, group="g"))
        store.finish(run, "main")
        return store.path.read_bytes()


def cases(reader: str, count: int, seed: int, files: list[tuple[str, bytes]]) -> Iterator[Case]:
    """``count`` damaged copies of ``files``; the files of ``template`` come first as they are."""
    draw = random.Random(f"{reader} {seed}")
    for number in range(count):
        name, content = files[number % len(files)]
        if reader == "template" and number < len(files):
            yield Case(reader, name, content)
            continue
        match reader:
            case "gguf":
                yield Case(reader, name, damaged_gguf(draw, content))
            case "checkpoint":
                # What a checkpoint holds is known only where there is one; its damage is drawn there.
                yield Case(reader, name, draw.randbytes(8))
            case _:
                yield Case(reader, name, damaged(draw, name, content))


def damaged(draw: random.Random, name: str, content: bytes) -> bytes:
    """A copy of ``content`` with one or a few faults of one kind."""
    if name.endswith(".json") and draw.random() < 0.6:
        try:
            return json.dumps(changed(draw, json.loads(content))).encode("utf-8", "surrogatepass")
        except ValueError:
            pass
    return draw.choice([flipped, cut, repeated, inserted, numbered])(draw, content)


def flipped(draw: random.Random, content: bytes) -> bytes:
    """Some other bytes, half of them in the beginning, where headers are."""
    changed = bytearray(content or b"x")
    for _ in range(draw.choice([1, 2, 16])):
        limit = min(len(changed), 400) if draw.random() < 0.5 else len(changed)
        changed[draw.randrange(limit)] = draw.randrange(256)
    return bytes(changed)


def cut(draw: random.Random, content: bytes) -> bytes:
    """Only the beginning."""
    return content[: draw.randrange(len(content) + 1)]


def repeated(draw: random.Random, content: bytes) -> bytes:
    """A part of the beginning once more."""
    at = draw.randrange(len(content) + 1)
    return content[:at] + cut(draw, content) + content[at:]


def inserted(draw: random.Random, content: bytes) -> bytes:
    """Noise, deep nesting or one thing many times."""
    at = draw.randrange(len(content) + 1)
    noise = draw.randbytes(draw.choice([1, 8, 4096]))
    nesting = draw.choice([b"[", b'{"a":', b"- ", b"[[a.", b"{"]) * 20_000
    many = draw.choice([b"x", b",", b"1,", b'"', b"\n", b"\x00", b"."]) * 300_000
    return content[:at] + draw.choice([noise, nesting, many]) + content[at:]


def numbered(draw: random.Random, content: bytes) -> bytes:
    """Another number in place of a digit."""
    places = [i for i, byte in enumerate(content) if chr(byte).isdigit()] or [0]
    at = draw.choice(places)
    return content[:at] + str(draw.choice(NUMBERS)).encode() + content[at + 1 :]


def changed(draw: random.Random, value: Any) -> Any:
    """``value`` with one part replaced, removed or repeated."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        rest = dict(value)
        if draw.random() < 0.1:
            del rest[key]
        else:
            rest[key] = changed(draw, value[key])
        return rest
    if isinstance(value, list) and value and draw.random() < 0.8:
        at = draw.randrange(len(value))
        if draw.random() < 0.2:
            return value * draw.choice([2, 1000])
        return [*value[:at], changed(draw, value[at]), *value[at + 1 :]]
    return draw.choice(VALUES)


def ignore(event: str) -> None:
    """Takes the events of a run."""


class Readers:
    """Reads cases in ``folder``; an error is as good as success, if it is one of the toolkit's."""

    def __init__(self, folder: Path) -> None:
        from efficientai_toolkit import _core
        from efficientai_toolkit.lora import TrainingConfig

        self.core = _core
        self.settings = TrainingConfig
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.loaded = _core.models.load(str(CHAT_MODEL), None, "float32")
        self.rows = write_words(folder / "rows", [[5, 6, 7, 8]] * 4)
        self.chat = folder / "chat.jsonl"
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        self.chat.write_text(json.dumps({"messages": messages}) + "\n")

    def read(self, case: Case) -> None:
        """Write the file and read it as a user would."""
        name = "settings_file" if case.reader == "settings" else case.reader
        reader: Callable[[Case], None] = getattr(self, name, self.model)
        reader(case)

    def beside(self, origin: Path, case: Case) -> Path:
        """A copy of the folder ``origin`` with the case's file."""
        target = self.folder / "case"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for file in origin.iterdir():
            if file.name != case.name:
                (target / file.name).symlink_to(file.resolve())
        (target / case.name).write_bytes(case.content)
        return target

    def model(self, case: Case) -> None:
        """Every file of a model folder."""
        target = self.beside(MODEL, case)
        if case.reader == "index":
            (target / "model.safetensors").unlink()
        model, tokenizer = self.core.models.load(str(target), None, "float32")
        tokenizer.decode(tokenizer.encode("t5 t6 é</s>" + "a" * 50_000))
        model([[5, 6, 7]])

    def gguf(self, case: Case) -> None:
        """A model in a single file."""
        path = self.folder / case.name
        path.write_bytes(case.content)
        model, tokenizer = self.core.models.load(str(path), None, "float32")
        tokenizer.decode(tokenizer.encode("the cat <|im_end|>\n\n é" + "a" * 5_000))
        model([[5, 6, 7]])

    def adapter(self, case: Case) -> None:
        """Both files of an adapter folder."""
        self.core.models.load(str(MODEL), str(self.beside(ADAPTER, case)), "float32")

    def data(self, case: Case) -> None:
        """A data file, read for training."""
        path = self.folder / case.name
        path.write_bytes(case.content)
        self.validate(CHAT_MODEL, path, self.loaded)

    jsonl = json = csv = parquet = tokens = data

    def results(self, case: Case) -> None:
        """A file of results of benchmarks, read and written to."""
        path = self.folder / case.name
        path.write_bytes(case.content)
        store = Store(path)
        for run in store.runs():
            to_html(store.load(run.id), compare_runs(store.load(run.id), store.load(run.id)))
        store.add(1, Result(case="c", process=0, status="failed", reason="why"))

    def template(self, case: Case) -> None:
        """A chat template, with one conversation."""
        target = self.beside(CHAT_MODEL, case)
        self.validate(target, self.chat, self.core.models.load(str(target), None, "float32"))

    def validate(self, model: Path, data: Path, loaded: Any) -> None:
        """Reads ``data``."""
        config: dict[str, Any] = {"model_path": str(model), "data": str(data)}
        config["output"] = str(self.folder / "unused")
        if data.name == "questions.parquet":
            config["columns"] = ["prompt=question", "completion=answer"]
        loaded_model, tokenizer = loaded
        self.core.lora.validate(loaded_model, tokenizer, json.dumps(config))

    def settings_file(self, case: Case) -> None:
        """A configuration file."""
        path = self.folder / case.name
        path.write_bytes(case.content)
        self.settings.from_file(path)

    def checkpoint(self, case: Case) -> None:
        """A file of a checkpoint, of which a run goes on."""
        output = self.folder / "run"
        config = {"model_path": str(MODEL), "data": str(self.rows), "output": str(output), "save_every": 1}
        config |= {"iters": 2, "batch_size": 1, "eval_batches": 0}
        if not output.exists():
            model, tokenizer = self.core.models.load(str(MODEL), None, "float32")
            self.core.lora.train(model, tokenizer, json.dumps(config), ignore)
            shutil.copytree(output, self.folder / "whole")
        shutil.rmtree(output)
        shutil.copytree(self.folder / "whole", output)
        (output / "training.json").unlink(missing_ok=True)
        for file in output.glob(f"checkpoints/step-*/{case.name}"):
            draw = random.Random(case.content)
            file.write_bytes(damaged(draw, case.name, file.read_bytes()))
        model, tokenizer = self.core.models.load(str(MODEL), None, "float32")
        config |= {"iters": 3, "resume": True}
        self.core.lora.train(model, tokenizer, json.dumps(config), ignore)
