import json
from pathlib import Path
from typing import Any

import pytest

import efficientai_toolkit as eat
from efficientai_toolkit.callbacks import Callback, Event, Step
from efficientai_toolkit.cli.shared.first_prompt import DEFAULT, find_first_prompt
from efficientai_toolkit.exceptions import ConfigError, DatasetError, ModelLoadingError
from efficientai_toolkit.lora import MLXTrainer, TrainingConfig
from support.fake_engine import EVENTS, FakeEngine, Model, Tokenizer


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_engine: FakeEngine) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_with_defaults(fake_engine: FakeEngine) -> None:
    result = MLXTrainer().train()
    assert result.final_loss == 0.75
    assert result.training_time == 2.0
    assert result.peak_memory_gb == 0.31
    assert result.perplexity == 5.0
    assert result.adapter_path == Path("runs/lora-0001")
    assert {"tokens_per_second", "train_losses", "validation_losses", "trainable_parameters"} <= set(
        result.metrics
    )
    (_, settings) = fake_engine.calls[-1]
    assert settings["model_path"].endswith("assets/model")
    assert settings["data"].endswith("assets/instructions")


def test_unnamed_runs_are_numbered(here: Path) -> None:
    assert TrainingConfig().with_defaults_filled().output == "runs/lora-0001"
    for name in ("lora-0007", "lora-x", "other"):
        (here / "runs" / name).mkdir(parents=True)
    assert TrainingConfig().with_defaults_filled().output == "runs/lora-0008"


def test_a_named_output_stays() -> None:
    assert TrainingConfig(output="out").with_defaults_filled().output == "out"


def test_events_reach_a_function_and_a_callback_is_closed() -> None:
    class Remember(Callback):
        def __init__(self) -> None:
            self.seen: list[Event] = []
            self.closed = 0

        def on(self, event: Event) -> None:
            self.seen.append(event)

        def close(self) -> None:
            self.closed += 1

    callback, seen = Remember(), list[Event]()
    MLXTrainer(callback=callback).train()
    MLXTrainer(callback=seen.append).train()
    assert callback.seen == seen
    assert len(seen) == len(EVENTS)
    assert callback.closed == 1


def test_an_exception_of_a_callback_comes_back_unchanged() -> None:
    def stop(event: Event) -> None:
        if isinstance(event, Step):
            raise LookupError("enough")  # noqa: EM101

    with pytest.raises(LookupError, match="enough"):
        MLXTrainer(callback=stop).train()


def test_a_loaded_model_is_trained_in_place(fake_engine: FakeEngine) -> None:
    model, tokenizer = eat.load()
    MLXTrainer(TrainingConfig(), model=model, tokenizer=tokenizer).train()
    assert eat.generate(model, tokenizer, "Hi") == "a new answer"
    assert [name for name, _ in fake_engine.calls].count("load") == 1


def test_a_model_needs_its_tokenizer() -> None:
    model, _ = eat.load()
    with pytest.raises(ConfigError, match="both `model` and `tokenizer`"):
        MLXTrainer(model=model)


def test_a_missing_first_adapter() -> None:
    with pytest.raises(ModelLoadingError, match="no folder 'nowhere'"):
        MLXTrainer(TrainingConfig(init_adapter="nowhere"))


def test_missing_data() -> None:
    with pytest.raises(DatasetError, match="no folder or file nowhere"):
        MLXTrainer(TrainingConfig(data="nowhere"))


def test_generate_takes_text_messages_and_overrides(fake_engine: FakeEngine) -> None:
    model, tokenizer = eat.load()
    pieces: list[str] = []
    messages = [{"role": "user", "content": "Hi"}]
    config = eat.GenerateConfig(temperature=0.5)
    eat.generate(model, tokenizer, messages, config=config, stream=pieces.append, max_tokens=3)
    prompt, settings = fake_engine.calls[-1][1]
    assert prompt == "<user>Hi"
    assert (settings["temperature"], settings["max_tokens"]) == (0.5, 3)
    assert pieces == ["an", "old", "answer"]
    eat.generate(model, tokenizer, "as it is")
    assert fake_engine.calls[-1][1][0] == "as it is"
    with pytest.raises(ConfigError, match=r"unknown key `max_token`; did you mean `max_tokens`"):
        eat.generate(model, tokenizer, "Hi", max_token=3)


def test_load_names_folders(here: Path, fake_engine: FakeEngine) -> None:
    (here / "adapter").mkdir()
    model, tokenizer = eat.load(here, adapter_path="adapter", dtype="bfloat16")
    assert isinstance(model, Model)
    assert isinstance(tokenizer, Tokenizer)
    assert fake_engine.calls == [("load", (str(here), "adapter", "bfloat16"))]


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "Why?", "completion": "Because."}, "Why?"),
        ({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]}, "u"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "parts"}]}]}, DEFAULT),
        ({"text": " ".join(map(str, range(40)))}, "0 1 2 3 4 5 6 7 8 9 10 11"),
        ({"text": ""}, DEFAULT),
        ({"question": "?"}, DEFAULT),
        ([1], DEFAULT),
    ],
)
def test_the_first_prompt(here: Path, row: Any, prompt: str) -> None:
    (here / "valid.jsonl").write_text("\n" + json.dumps(row) + "\n{broken", encoding="utf-8")
    (here / "train.jsonl").write_text('{"prompt": "not this"}', encoding="utf-8")
    assert find_first_prompt(here) == prompt
    assert find_first_prompt(here / "valid.jsonl") == prompt


def test_no_first_prompt(here: Path) -> None:
    assert find_first_prompt(here) == DEFAULT
    (here / "train.jsonl").write_bytes(b"\xff\xfe{")
    assert find_first_prompt(here) == DEFAULT


def test_hardware_is_typed() -> None:
    report = eat.hardware()
    assert (report.backend, report.cores, report.wired_limit_bytes) == ("cpu", 2, 0)
