import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from efficientai_toolkit._base.config import list_options
from efficientai_toolkit.cli import main
from efficientai_toolkit.cli.commands import COMMANDS, build_program
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.lora import TrainingConfig
from efficientai_toolkit.models.generation import GenerateConfig
from support.fake_engine import FakeEngine

TRAIN = "lora-finetuning-mlx:train"
GENERATE = "lora-finetuning-mlx:generate"
VALIDATE = "lora-finetuning-mlx:validate"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_engine: FakeEngine) -> Path:
    """An empty current folder, and a stand-in for the engine."""
    # The tests themselves may have been started with `uv run`, which shows in the commands printed.
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def one_object(text: str) -> dict[str, Any]:
    assert text.count("\n") == 1
    value: dict[str, Any] = json.loads(text)
    return value


def test_the_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    overview = capsys.readouterr().out
    for command in COMMANDS:
        assert command.name in overview
        assert command.summary.split()[0] in overview
    assert max(map(len, overview.splitlines())) <= 80


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("lora-finetuning-mlx:trian", "did you mean lora-finetuning-mlx:train?"),
        ("generate", "did you mean lora-finetuning-mlx:generate?"),
        ("inf", "did you mean info?"),
        ("lora-finetuning-mlx", "lora-finetuning-mlx needs a command: lora-finetuning-mlx:train,"),
        ("xyz", "`efficientai-toolkit --help` lists the commands"),
    ],
)
def test_an_unknown_command_suggests_the_closest(
    typed: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([typed]) == 2
    outcome = capsys.readouterr()
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert hint in outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lora-rnk", "4"], "unknown option --lora-rnk; did you mean --lora-rank?"),
        (["--bogus"], f"unknown option --bogus; see `efficientai-toolkit {TRAIN} --help-all`"),
        (["--lr", "fast"], "--lr must be a number, not 'fast'"),
        (["--iters", "1.5"], "--iters must be a whole number, not '1.5'"),
        (
            ["--method", "lara"],
            "--method must be one of lora, dora, adalora, prompt_tuning, prefix_tuning, p_tuning, full, not "
            "'lara'",
        ),
        (["--lr"], "--lr expected one argument"),
        (["--lr", "--iters", "3"], "--lr expected one argument"),
        (
            ["--config", "missing.yaml"],
            "cannot read the configuration missing.yaml: No such file or directory",
        ),
        (["--data", "nowhere"], "there is no folder or file nowhere"),
        (["--resume"], "`resume` needs `output`, the folder of the run to resume: give --output too"),
        (["--model-path", "nowhere"], "there is no folder 'nowhere', and it is not a hub id"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    arguments: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([TRAIN, *arguments]) == 2
    outcome = capsys.readouterr()
    assert outcome.out == ""
    assert outcome.err.startswith(f"error: {message}")
    assert outcome.err.count("\n") == 1
    assert list(here.iterdir()) == []


def test_json_reports_mistakes_too(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([TRAIN, "--lr", "fast", "--json"]) == 2
    report = one_object(capsys.readouterr().out)
    assert report == {"error": "ConfigError", "message": "--lr must be a number, not 'fast'"}


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(ConfigError):
        main([TRAIN, "--lr", "fast", "--debug"])


def settings(engine: FakeEngine, arguments: list[str]) -> dict[str, Any]:
    assert main([TRAIN, "--quiet", *arguments]) == 0
    (config,) = [value for name, value in engine.calls if name == "train_lora"]
    return dict(config)


def test_options_beat_the_file_and_the_file_beats_defaults(here: Path, fake_engine: FakeEngine) -> None:
    (here / "run.yaml").write_text("lr: 1e-5\nlora_rank: 4\nmask_prompt: false\n", encoding="utf-8")
    config = settings(fake_engine, ["--config", "run.yaml", "--lora-rank", "16"])
    assert (config["lr"], config["lora_rank"], config["mask_prompt"]) == (1e-5, 16, False)
    assert config["epochs"] == TrainingConfig().epochs


def test_every_field_is_an_option(here: Path, fake_engine: FakeEngine) -> None:
    (here / "data.jsonl").write_text('{"text": "x"}\n', encoding="utf-8")
    (here / "model").mkdir()
    (here / "first").mkdir()
    wanted: dict[str, Any] = {
        "model_path": "model", "data": "data.jsonl", "output": "out", "method": "full", "epochs": 1.5,
        "iters": 7, "lr": 0.5, "batch_size": 2, "grad_accumulation": 3, "memory_budget_gb": 1.5,
        "max_seq_length": 99, "lora_rank": 5,
        "lora_alpha": 2.5, "rank_pattern": {"q_proj": 3, "k_proj": 0},
        "lora_dropout": 0.1, "use_rslora": True, "loraplus_lr_ratio": 8.0,
        "lora_init": "pissa", "adalora_init_rank": 9, "adalora_tinit": 2, "adalora_tfinal": 4,
        "adalora_delta_t": 5, "adalora_beta1": 0.7, "adalora_beta2": 0.6, "adalora_orth_reg_weight": 0.4,
        "num_virtual_tokens": 12, "prompt_tuning_init": "text", "prompt_tuning_init_text": "a b",
        "prefix_projection": True, "encoder_hidden_size": 44,
        "target_modules": ["q_proj", "v_proj"], "num_layers": 6, "init_adapter": "first",
        "adapter_format": "peft", "mask_prompt": False, "objective": "dpo", "dpo_beta": 0.6,
        "dpo_label_smoothing": 0.2, "orpo_lambda": 0.9, "columns": ["prompt=question"],
        "chat_template_kwargs": {"enable_thinking": False, "date": "today", "k": 3}, "packing": True,
        "streaming": True,
        "dtype": "bfloat16", "bits": 4, "qat_bits": 3, "qat_group_size": 32, "qat_embedding_bits": 6,
        "seed": 11, "optimizer": "lion", "momentum": 0.85, "nesterov": True,
        "weight_decay": 0.2, "beta1": 0.8, "beta2": 0.9, "eps": 1e-6, "schedule": "linear",
        "warmup_ratio": 0.3, "lr_min_ratio": 0.15, "lr_cycles": 3, "lr_power": 1.5, "lr_decay_ratio": 0.25,
        "lr_table": ["0=0.1", "50=1"], "max_grad_norm": 0.7, "early_stopping_patience": 8,
        "early_stopping_threshold": 0.05, "keep_best": False, "grad_checkpoint": 1, "neftune_alpha": 5.5,
        "eval_every": 12, "eval_batches": 13, "save_every": 14, "keep_checkpoints": 15, "resume": True,
        "overwrite": True,
    }  # fmt: skip
    flags = {option.name: option.flag for option in list_options(TrainingConfig)}
    arguments = []
    for name, value in wanted.items():
        if isinstance(value, bool):
            arguments.append(flags[name] if value else flags[name].replace("--", "--no-", 1))
        elif name == "chat_template_kwargs":
            arguments += [part for key in value for part in (flags[name], f"{key}={json.dumps(value[key])}")]
        elif isinstance(value, dict):
            arguments += [flags[name], ",".join(f"{key}={number}" for key, number in value.items())]
        else:
            arguments += [flags[name], ",".join(value) if isinstance(value, list) else str(value)]
    config = settings(fake_engine, arguments)
    assert list(config) == list(wanted)
    assert config == wanted
    assert all(value != TrainingConfig().to_dict()[name] for name, value in wanted.items())


@pytest.mark.parametrize("text", ["-1e-3", "-1E-3", "-.5e2", "-1.e+2", "-0.5", "-3"])
def test_negative_numbers_are_no_options(text: str, here: Path, fake_engine: FakeEngine) -> None:
    assert settings(fake_engine, ["--lr", text])["lr"] == float(text)


def test_lists_by_comma_or_by_repetition(here: Path, fake_engine: FakeEngine) -> None:
    config = settings(fake_engine, ["--target-modules", "q_proj, k_proj", "--target-modules", "v_proj"])
    assert config["target_modules"] == ["q_proj", "k_proj", "v_proj"]


def test_training_prints_a_summary(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([TRAIN, "--prompt", "Who are\nyou?"]) == 0
    outcome = capsys.readouterr()
    assert "validation perplexity  20.00 → 5.00 (-75.0%)" in outcome.out
    assert "before\n  an old answer\n\nafter\n  a new answer" in outcome.out
    command = outcome.out.split("try it\n")[1]
    assert shlex.split(command) == [
        "efficientai-toolkit", GENERATE, "--adapter-path", "runs/lora-0001", "--prompt", "Who are\nyou?",
    ]  # fmt: skip
    assert "model   embedded: llama, 1,000 parameters, float32" in outcome.err
    assert "4/4  loss 0.750" in outcome.err
    assert max(map(len, (outcome.out + outcome.err).splitlines())) <= 100


def test_quiet_keeps_the_summary_only(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([TRAIN, "--quiet"]) == 0
    outcome = capsys.readouterr()
    assert outcome.err == ""
    assert "validation perplexity" in outcome.out


def test_training_as_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([TRAIN, "--json", "--progress", "json", "--output", "out", "--prompt", "Hi"]) == 0
    outcome = capsys.readouterr()
    report = one_object(outcome.out)
    assert report["perplexity"] == 5.0
    assert report["metrics"]["train_losses"] == [3.0, 1.5, 1.0, 0.75]
    assert (report["prompt"], report["answer_before"], report["answer_after"]) == (
        "Hi", "an old answer", "a new answer",
    )  # fmt: skip
    events = [json.loads(line)["event"] for line in outcome.err.splitlines() if line.startswith("{")]
    assert events[0] == "started"
    assert events[-1] == "finished"


def test_commands_to_type_start_as_this_one_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    assert build_program() == ["efficientai-toolkit"]
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    assert build_program() == ["uv", "run", "efficientai-toolkit"]


def test_ctrl_c_tells_how_to_go_on(
    here: Path, fake_engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(config: dict[str, Any]) -> None:
        (Path(config["output"]) / "checkpoints/step-0000002").mkdir(parents=True)
        raise KeyboardInterrupt

    fake_engine.during_training = stop
    assert main([TRAIN, "--lr", "1e-3", "--progress", "silent"]) == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == (
        "interrupted: runs/lora-0001/checkpoints/step-0000002 is saved; continue with "
        f"`efficientai-toolkit {TRAIN} --lr 1e-3 --progress silent --output runs/lora-0001 --resume`"
    )


def test_ctrl_c_before_the_first_checkpoint(
    here: Path, fake_engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(_: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    fake_engine.during_training = stop
    assert main([TRAIN, "--quiet"]) == 130
    assert capsys.readouterr().err == "interrupted before the first checkpoint; nothing was saved\n"


def test_generate_streams_text_and_tells_the_speed(
    here: Path, fake_engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([GENERATE, "--prompt", "Hi", "--system", "Be kind.", "--top-k", "3", "--stop", "a,b"]) == 0
    outcome = capsys.readouterr()
    assert outcome.out == "anoldanswer\n"
    assert "5 prompt tokens at 100 tok/s, 3 new tokens at 50.0 tok/s" in outcome.err
    prompt, config = next(value for name, value in fake_engine.calls if name == "generate")
    assert prompt == "<system>Be kind.<user>Hi"
    assert config == GenerateConfig(top_k=3, stop=["a,b"]).to_dict()


def test_generate_without_the_chat_template(here: Path, fake_engine: FakeEngine) -> None:
    assert main([GENERATE, "--prompt", "Hi", "--no-chat-template", "--quiet"]) == 0
    assert fake_engine.calls[-1][1][0] == "Hi"


def test_generate_as_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([GENERATE, "--prompt", "Hi", "--json"]) == 0
    report = one_object(capsys.readouterr().out)
    assert (report["text"], report["finish_reason"]) == ("an old answer", "stop")


def test_generate_needs_a_prompt(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([GENERATE]) == 2
    assert capsys.readouterr().err == "error: the following arguments are required: --prompt\n"
    assert main([GENERATE, "--prompt", " "]) == 2
    assert capsys.readouterr().err == "error: the prompt is empty\n"


def test_the_start_is_light() -> None:
    heavy = "{'rich', 'huggingface_hub', 'numpy', 'yaml'}"
    code = (
        "import sys; from efficientai_toolkit.cli import main\n"
        f"try: main(['{TRAIN}', '--help'])\nexcept SystemExit: pass\n"
        f"print({heavy} & set(sys.modules))"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert outcome.stdout.splitlines()[-1] == "set()"
