"""Records of runs."""

import json
import math
from pathlib import Path

import pytest

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.study import folder
from efficientai_toolkit.study.record import Recorder, load_run, read_run
from support.fake_engine import HARDWARE, FakeEngine


def test_the_record_says_what_a_study_was_made_with(tmp_path: Path, fake_engine: FakeEngine) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.jsonl").write_text("{}\n")
    output = tmp_path / "runs" / "sweep-0001"
    with Recorder(output, kind="sweep", configuration={"lr": 0.1, "path": data}, data=[data]) as recorder:
        recorder.start()
        assert json.loads((output / "run.json").read_text())["status"] == "running"
        recorder.result = {"loss": 0.5, "name": "best", "nothing": None, "broken": math.nan}
    # Written at once: nothing half-done is left beside it.
    assert [file.name for file in output.iterdir()] == ["run.json"]
    record = json.loads((output / "run.json").read_text())
    assert record["kind"] == "sweep"
    assert (record["status"], record["error"], record["result"]) == ("finished", None, {"loss": 0.5})
    assert record["started"] <= record["ended"]
    assert record["configuration"] == {"lr": 0.1, "path": str(data)}
    assert {"efficientai-toolkit", "python", "platform", "mlx"} <= set(record["environment"])
    assert record["hardware"] == HARDWARE
    assert record["data"] == folder.fingerprint_data([data])
    assert (record["data"]["files"], record["data"]["bytes"]) == (1, 3)


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (ValueError("a\nb"), "failed", "a b"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt"),
        (SystemExit(1), "failed", "1"),
    ],
)
def test_the_record_says_how_a_run_ended(
    error: BaseException, status: str, reason: str, tmp_path: Path, fake_engine: FakeEngine
) -> None:
    def fail() -> None:
        with Recorder(tmp_path, kind="sweep", configuration={}) as recorder:
            recorder.start()
            raise error

    with pytest.raises(type(error)):
        fail()
    run = load_run(tmp_path)
    assert (run.status, run.error) == (status, reason)
    # What is resumed is the same run; what is replaced is another one.
    for resume in (True, False):
        with Recorder(tmp_path, kind="sweep", configuration={}, resume=resume) as again:
            again.start()
        assert (load_run(tmp_path).id == run.id) is resume
        assert (load_run(tmp_path).resumed is not None) is resume


def test_a_run_that_did_not_begin_leaves_no_record(tmp_path: Path, fake_engine: FakeEngine) -> None:
    with pytest.raises(ConfigError), Recorder(tmp_path, kind="sweep", configuration={}):
        raise ConfigError("lr")  # noqa: EM101
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "1", '{"kind": "lora"}', '{"configuration": {}}',
        '{"kind": 1, "configuration": {}}',
        '{"kind": "lora", "configuration": []}', '{"kind": "lora", "configuration": {}, "status": "done"}',
        '{"kind": "lora", "configuration": {}, "result": 3}', "[" * 100_000, "\xff\xfe",
    ],
)  # fmt: skip
def test_damaged_records_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text, encoding="latin-1")
    assert read_run(tmp_path) is None
    with pytest.raises(ValueError, match=r"."):
        load_run(tmp_path)


def test_large_records_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "run.json").open("wb") as file:
        file.truncate(17 << 20)
    with pytest.raises(ValueError, match="larger than 16 MiB"):
        load_run(tmp_path)
