"""The commands that look before one leaps: ``validate`` and the two ``info``."""

import json
from pathlib import Path

import pytest

from efficientai_toolkit._base.config import list_options
from efficientai_toolkit._engine import link
from efficientai_toolkit.cli import main
from efficientai_toolkit.cli.lora import info
from efficientai_toolkit.exceptions import ConfigError, DatasetError, ModelLoadingError
from efficientai_toolkit.lora import TrainingConfig
from support.fake_engine import HARDWARE, KERNELS, FakeEngine

TRAIN = "lora-finetuning-mlx:train"
VALIDATE = "lora-finetuning-mlx:validate"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_engine: FakeEngine) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(link, "list_backends", lambda: ["mlx-cpu"])
    return tmp_path


def test_everything_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([VALIDATE]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if line.startswith(("ok", "FAIL", "skip"))] == [
        "ok"
    ] * 7
    assert "train 9 rows, 90 tokens, longest 20, 1 truncated" in out
    assert "\ntrain\n" in out
    assert "\ntest\n" not in out
    for line in (
        "  rows             9 (9 text), 2 duplicates, 3 near-duplicates",
        "  distinct tokens  30, 4.50 bits per token",
        "  compressed       400 bytes of text to 100",
        "  target tokens    60 of 80 tokens (75.0%)",
        "  not in the loss  6 tokens of truncated or dropped rows; 2 turns that the chat",
        "                   template does not mark with {% generation %}",
        "  with packing     5 rows, 80.0% filled",
        f"      0-9  {'█' * 32} 4",
        f"    10-20  {'█' * 40} 5",
        "  first row, target tokens in ⟦ ⟧",
        "    Hi",
        f"    ⟦{'Hello' * 40} … {'Hello' * 40}⟧",
    ):
        assert f"{line}\n" in out
    assert out.endswith("\nready to train\n")


def test_the_numbers_of_the_data_are_in_the_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([VALIDATE, "--json"]) == 0
    numbers = {check["name"]: check["numbers"] for check in json.loads(capsys.readouterr().out)["checks"]}
    assert numbers["model"] is None
    assert numbers["data"]["train"]["lengths"]["p95"] == 20


def test_what_is_wrong_where(
    fake_engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> str:
        message = "data/train.jsonl line 3: no key `text`"
        raise DatasetError(message)

    monkeypatch.setattr(fake_engine.lora, "validate", broken)
    assert main([VALIDATE, "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    status = {check["name"]: (check["status"], check["detail"]) for check in report["checks"]}
    assert status["data"] == ("FAIL", "data/train.jsonl line 3: no key `text`")
    assert status["model"][0] == status["output"][0] == "ok"


def test_without_a_model_the_data_is_not_read(
    fake_engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        message = "model.safetensors: truncated"
        raise ModelLoadingError(message)

    monkeypatch.setattr(fake_engine.models, "load", broken)
    assert main([VALIDATE]) == 2
    out = capsys.readouterr().out
    assert "FAIL    model        model.safetensors: truncated" in out
    assert "skipped data" in out
    assert out.endswith("\nnot ready to train\n")


def test_missing_data_is_found_before_the_model_is_loaded(
    fake_engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([VALIDATE, "--data", "nowhere"]) == 2
    assert "there is no folder or file nowhere" in capsys.readouterr().out
    assert fake_engine.calls == []


def test_two_backends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(link, "list_backends", lambda: ["mlx-cpu", "mlx-cuda-12"])
    assert main([VALIDATE]) == 2
    assert "overwrite each other's" in capsys.readouterr().out


def words(text: str) -> str:
    return " ".join(text.split())


UNWRITABLE = {
    "file/below": "file: is a file, not a folder",
    "file": "file: is a file, not a folder",
    "link/below": "link: File exists",
    "x" * 300: "File name too long",
    "/proc/run": "/proc/run: No such file or directory",
    "a\0b": "embedded null byte",
}
"""Folders that cannot be made, and the reason that is given."""


@pytest.fixture(params=UNWRITABLE, ids=repr)
def unwritable(request: pytest.FixtureRequest, here: Path) -> str:
    (here / "file").touch()
    (here / "link").symlink_to("nowhere")
    return str(request.param)


def test_an_output_that_cannot_be_written(unwritable: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([VALIDATE, "--output", unwritable, "--json"]) == 2
    *_, last = json.loads(capsys.readouterr().out)["checks"]
    assert (last["name"], last["status"]) == ("output", "FAIL")
    assert last["detail"].startswith("cannot write to the output folder")
    assert UNWRITABLE[unwritable] in last["detail"]


def test_train_finds_it_before_a_model_is_loaded(
    unwritable: str, fake_engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([TRAIN, "--output", unwritable]) == 2
    assert UNWRITABLE[unwritable] in capsys.readouterr().err
    assert fake_engine.calls == []


def test_checking_the_output_leaves_nothing(here: Path) -> None:
    assert main([VALIDATE, "--output", "a/b/c"]) == 0
    assert list(here.iterdir()) == []
    (here / "a").mkdir()
    (here / "a/mine").touch()
    assert main([VALIDATE, "--output", "a/b"]) == 0
    assert [path.name for path in here.rglob("*")] == ["a", "mine"]


def test_an_output_that_is_taken(
    here: Path, fake_engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "out").mkdir()
    (here / "out/training.json").touch()
    assert main([TRAIN, "--output", "out"]) == 2
    assert fake_engine.calls == []
    assert main([VALIDATE, "--output", "out"]) == 2
    assert "holds a finished run" in words(capsys.readouterr().out)
    assert main([VALIDATE, "--output", "out", "--overwrite"]) == 0


def test_a_setting_at_fault_is_not_filed_under_data(
    fake_engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> str:
        message = "num_layers is 99, but the model has 4 blocks"
        raise ConfigError(message)

    monkeypatch.setattr(fake_engine.lora, "validate", broken)
    assert main([VALIDATE, "--json"]) == 2
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["settings"]["status"] == "FAIL"
    assert checks["settings"]["detail"] == "num_layers is 99, but the model has 4 blocks"
    assert (checks["data"]["status"], checks["data"]["detail"]) == ("skipped", "a setting is wrong")


def test_info_of_the_namespace(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lora-finetuning-mlx:info"]) == 0
    out = capsys.readouterr().out
    for option in list_options(TrainingConfig):
        assert f"  {option.flag} " in out
    assert max(map(len, out.splitlines())) <= 80
    assert main(["lora-finetuning-mlx:info", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["defaults"]["train"] == TrainingConfig().to_dict()
    assert report["about"] == info.ABOUT


def test_info_of_the_toolkit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.1.0")
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert "Test Chip, 2 cores" in out
    assert "memory 6.0 GB, cache 1.0 GB, wired 0.0 GB" in out
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hardware"] == HARDWARE


def test_the_report_of_the_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kernels", "--quiet"]) == 0
    outcome = capsys.readouterr()
    assert outcome.err == ""
    lines = [line.split("  ") for line in outcome.out.splitlines()]
    cells = [[cell.strip() for cell in line if cell] for line in lines]
    assert cells[0][1] == "avx2 (the processor's best: avx512), 2 threads"
    assert cells[2] == ["peaks", "f32 100 GFLOP/s, memory 20 GB/s"]
    assert cells[-2] == ["linear", "8x8x8", "f32", "avx2 6x16", "2.00 ms", "80 GFLOP/s", "80% compute"]
    assert cells[-1] == ["softmax", "8x8", "f32", "avx2", "1.00 ms", "10.0 GB/s", "50% memory"]
    assert main(["kernels", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == KERNELS
