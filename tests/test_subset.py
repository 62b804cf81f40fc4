"""Data-set quantization: which rows are chosen, how they are stored, calibration on them, and bad input."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from efficientai_toolkit.exceptions import ConfigError, DatasetError, ModelLoadingError, TrainingError
from efficientai_toolkit.quantize import QuantizeResult, SubsetConfig, SubsetResult, quantize, select_subset
from support.command import PROGRAM, run
from support.engine import MODELS, tensors, train
from support.models import wide_llama
from support.rows import random_ids, words, write_jsonl, write_words

if TYPE_CHECKING:
    from collections.abc import Callable

MODEL = MODELS / "llama_gqa"
ROWS = random_ids(8, [12, 20], seed=3, vocab_size=64)
SHARES = [20, 1, 5, 2, 1, 8, 2, 1]
"""How often each of the rows occurs in the data."""


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of 40 rows, many of which are the same."""
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(8), SHARES))
    rows = [{"id": number, "text": words(ROWS[row])} for number, row in enumerate(order)]
    write_words(tmp_path / "data", [[5, 6, 7]], [[8, 9, 10]])
    write_jsonl(tmp_path / "data" / "train.jsonl", rows)
    return tmp_path / "data"


@pytest.fixture
def select(tmp_path: Path, data: Path) -> Callable[..., SubsetResult]:
    def choose(**settings: Any) -> SubsetResult:
        chosen: dict[str, Any] = {
            "data": str(data),
            "model_path": str(MODEL),
            "output": str(tmp_path / "subset"),
        }
        return select_subset(SubsetConfig(**(chosen | settings)))

    return choose


def test_every_kind_of_row_is_chosen_once(select: Callable[..., SubsetResult], data: Path) -> None:
    result = select(fraction=0.2)
    rows = read(result.output)
    assert sorted(row["text"] for row in rows) == sorted(words(ids) for ids in ROWS)
    assert result.coverage == pytest.approx(1, abs=1e-5)
    assert (result.rows, result.chosen) == (40, 8)
    assert result.chosen_tokens == sum(len(ids) + 1 for ids in ROWS)
    # As they were, in their order, with what else they hold, and with the held-out rows beside them.
    given = read(data / "train.jsonl")
    assert rows == [row for row in given if row in rows]
    assert (result.output.parent / "valid.jsonl").read_bytes() == (data / "valid.jsonl").read_bytes()


def test_the_choice_depends_on_its_settings_only(select: Callable[..., SubsetResult], tmp_path: Path) -> None:
    first = select(fraction=0.5).output.read_bytes()
    again = select(fraction=0.5, output=str(tmp_path / "again"))
    assert again.output.read_bytes() == first
    assert again.chosen == 20
    assert select(fraction=1, overwrite=True).chosen == 40


def test_token_ids_teach_what_their_rows_teach(select: Callable[..., SubsetResult], tmp_path: Path) -> None:
    rows = [{"prompt": words(ids[:4]), "completion": words(ids[4:])} for ids in ROWS]
    data = write_jsonl(tmp_path / "pairs" / "train.jsonl", rows * 2).parent
    write_jsonl(data / "valid.jsonl", rows[:2])
    text = select(data=str(data), fraction=0.5)
    packed = select(data=str(data), fraction=0.5, format="tokens", output=str(tmp_path / "packed"))
    assert packed.output.name == "train.safetensors"
    with safe_open(packed.output, "np") as file:  # pyright: ignore[reportUnknownVariableType]
        assert file.get_tensor("ids").dtype == np.uint16
        assert file.get_tensor("offsets")[-1] == packed.chosen_tokens
    variants: list[dict[str, Any]] = [{}, {"mask_prompt": False, "packing": True}]
    for settings in variants:
        losses = [
            train(
                MODEL, result.output.parent, tmp_path / "run" / f"{index}{len(settings)}", iters=3, **settings
            )
            for index, result in enumerate((text, packed))
        ]
        assert losses[0].report["train_losses"] == losses[1].report["train_losses"]
        assert losses[0].report["validation_losses"] == losses[1].report["validation_losses"]
    # They can be chosen from again, and stored as token ids only.
    again = select(data=str(packed.output), fraction=0.5, format="tokens", output=str(tmp_path / "half"))
    assert (again.rows, again.chosen) == (8, 4)
    with pytest.raises(ConfigError, match=r"train\.safetensors holds token ids.*--format tokens"):
        select(data=str(packed.output), output=str(tmp_path / "other"))


def test_calibration_on_token_ids(select: Callable[..., SubsetResult], tmp_path: Path) -> None:
    model = wide_llama(tmp_path / "model")
    settings: dict[str, Any] = {"model_path": str(model), "sequence_length": 32}
    results: list[QuantizeResult] = []
    for form in ("jsonl", "tokens"):
        rows = select(fraction=0.5, format=form, output=str(tmp_path / form)).output.parent
        output = tmp_path / f"quantized-{form}"
        results.append(
            quantize(
                calibration=str(rows), output=str(output), layers={"*": "dense", "*o_proj": 4}, **settings
            )
        )
    first, second = (tensors(result.output / "model.safetensors") for result in results)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("rows", ["random", "auto"])
def test_calibration_rows(tmp_path: Path, rows: str) -> None:
    """One row of 32 tokens is there 40 times, and eight others once: the choice takes all nine."""
    often, *others = random_ids(9, [31], seed=5, vocab_size=64)
    data = write_words(tmp_path / "data", [often] * 40 + others, [[5, 6, 7]])
    model = str(wide_llama(tmp_path / "model"))
    seen: list[dict[str, np.ndarray]] = []
    for attempt in range(2):
        result = quantize(
            model, calibration=str(data), calibration_rows=rows, calibration_sequences=9,
            sequence_length=32, technique="rtn", save_importance=True,
            output=str(tmp_path / f"out{attempt}"),
        )  # fmt: skip
        seen.append(tensors(result.output / "importance.safetensors"))
        assert {layer.tokens for layer in result.layers if "self_attn" in layer.path} == {9 * 32}
    assert all(np.array_equal(seen[0][name], seen[1][name]) for name in seen[0])
    # Mean squares of what the first layers read, which are those of the nine rows alone.
    every = write_words(tmp_path / "nine", [often, *others], [[5, 6, 7]])
    result = quantize(
        model, calibration=str(every), calibration_sequences=9, sequence_length=32,
        technique="rtn", save_importance=True, output=str(tmp_path / "nine-out"),
    )  # fmt: skip
    expected = tensors(result.output / "importance.safetensors")
    name = next(name for name in expected if "layers.0.self_attn.q_proj" in name)
    same = np.allclose(seen[0][name], expected[name], rtol=1e-4)
    assert same == (rows == "auto")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"fraction": 0.0}, ConfigError, r"fraction is 0, expected above 0 and at most 1"),
        ({"fraction": 1.5}, ConfigError, r"fraction is 1\.5, expected above 0"),
        ({"fraction": 0.01}, DatasetError, r"train\.jsonl has 40 rows, too few for a fraction of 0\.01"),
        ({"data": None}, ConfigError, "`data` is missing"),
        ({"data": "nowhere"}, DatasetError, "nowhere: no such file or folder"),
        ({"columns": ["text=body"]}, DatasetError, r"train\.jsonl:1: "),
        ({"columns": ["x"]}, ConfigError, "columns holds"),
        ({"format": "parquet"}, ConfigError, "format"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(
    select: Callable[..., SubsetResult],
    tmp_path: Path,
    settings: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        select(**settings)
    assert not (tmp_path / "subset").exists()


def test_a_fraction_that_is_no_number(select: Callable[..., SubsetResult]) -> None:
    with pytest.raises(ConfigError, match="fraction"):
        select(fraction=math.nan)


def test_nothing_is_replaced_unasked(select: Callable[..., SubsetResult], tmp_path: Path, data: Path) -> None:
    first = select().output
    before = first.read_bytes()
    with pytest.raises(TrainingError, match=r"subset holds .*--overwrite"):
        select(fraction=0.5)
    assert first.read_bytes() == before
    select(fraction=0.5, overwrite=True, format="tokens")
    assert sorted(path.name for path in first.parent.glob("[a-z]*")) == ["train.safetensors", "valid.jsonl"]
    # Held-out rows of somebody else are not replaced either.
    other = write_jsonl(tmp_path / "other" / "valid.jsonl", [{"text": "t5"}])
    with pytest.raises(TrainingError, match=r"other holds"):
        select(output=str(other.parent))
    assert read(other) == [{"text": "t5"}]
    for output in (data, data.parent / "data" / "." / ""):
        with pytest.raises(ConfigError, match="output is the folder of the data"):
            select(output=str(output), overwrite=True)
        with pytest.raises(ConfigError, match="output is the folder of the data"):
            select(data=str(data / "train.jsonl"), output=str(output), overwrite=True)


def test_models_that_cannot_choose(select: Callable[..., SubsetResult], tmp_path: Path) -> None:
    bare = Path(shutil.copytree(MODEL, tmp_path / "bare"))
    (bare / "tokenizer.json").unlink()
    with pytest.raises(ModelLoadingError, match=r"tokenizer\.json"):
        select(model_path=str(bare))
    damaged = Path(shutil.copytree(MODEL, tmp_path / "damaged"))
    values = tensors(damaged / "model.safetensors")
    values["model.norm.weight"] = np.full_like(values["model.norm.weight"], np.nan)
    save_file(values, damaged / "model.safetensors", {"format": "mlx"})
    with pytest.raises(DatasetError, match="row 1 is not finite: the weights of the model may be damaged"):
        select(model_path=str(damaged))
    assert not (tmp_path / "subset").exists()


def test_token_ids_of_another_tokenizer_are_refused(
    select: Callable[..., SubsetResult], tmp_path: Path
) -> None:
    rows = select(fraction=0.5, format="tokens").output
    other = Path(shutil.copytree(MODEL, tmp_path / "other"))
    tokenizer = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(tokenizer.replace('"t9"', '"other"'))
    with pytest.raises(DatasetError, match=r"train\.safetensors: row 1: the token ids are those of another"):
        train(other, rows.parent, tmp_path / "run", iters=1)
    model = Path(shutil.copyfile(MODEL / "model.safetensors", tmp_path / "model.safetensors"))
    with pytest.raises(DatasetError, match=r"not a file of token ids: its metadata have format"):
        train(MODEL, model, tmp_path / "run", iters=1)


def test_pairs_are_not_chosen_from(select: Callable[..., SubsetResult], tmp_path: Path) -> None:
    pair = {"prompt": "t5", "chosen": "t6", "rejected": "t7"}
    with pytest.raises(DatasetError, match=r"pairs\.jsonl:1: the row is a pair of answers"):
        select(data=str(write_jsonl(tmp_path / "pairs.jsonl", [pair] * 4)))


def test_the_command(tmp_path: Path, data: Path) -> None:
    command = [
        str(PROGRAM),
        "quantized-model-benchmarks:select",
        "--model-path",
        str(MODEL),
        "--data",
        str(data),
    ]
    command += ["--fraction", "0.25", "--output", str(tmp_path / "out"), "--progress", "silent"]
    done = run([*command, "--json"])
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["rows"], result["chosen"]) == (40, 10)
    assert len(read(Path(result["output"]))) == 10
    again = run(command)
    assert again.returncode == 2
    assert "--overwrite" in again.stderr


def test_a_quarter_teaches_what_all_rows_teach(select: Callable[..., SubsetResult], tmp_path: Path) -> None:
    """Of 60 kinds of rows, a few make up most of 240 rows: a random quarter misses many."""
    rng = np.random.default_rng(7)
    kinds = random_ids(60, [10], seed=11, vocab_size=64)
    extra = rng.choice(60, 180, p=(share := 1 / np.arange(1, 61)) / share.sum())
    rows = [kinds[kind] for kind in rng.permutation([*range(60), *extra])]
    data = write_words(tmp_path / "all", rows, kinds)
    quarter = select(data=str(data)).output.parent
    assert {row["text"] for row in read(quarter / "train.jsonl")} == {words(ids) for ids in kinds}

    def loss(folder: Path) -> float:
        report = train(
            MODEL, folder, tmp_path / "runs" / folder.name, method="full", iters=60, lr=1e-2, batch_size=8,
            eval_every=0, keep_best=False,
        ).report  # fmt: skip
        return float(report["validation_losses"][-1][1])

    draws = [rng.choice(240, 60, replace=False) for _ in range(3)]
    random = [
        loss(write_words(tmp_path / f"random{index}", [rows[row] for row in draw], kinds))
        for index, draw in enumerate(draws)
    ]
    chosen = loss(quarter)
    assert chosen <= 1.02 * loss(data)
    assert chosen < min(random)
