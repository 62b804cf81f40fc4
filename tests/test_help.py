"""The start of the command line: what it shows first, and how fast."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from efficientai_toolkit._base.config import list_options
from efficientai_toolkit.benchmark import BenchmarkConfig
from efficientai_toolkit.cli import main
from efficientai_toolkit.cli.app import build_parser
from efficientai_toolkit.cli.commands import COMMANDS, Command
from efficientai_toolkit.compress import CompressConfig, PeersConfig, QualityConfig, SimulationConfig
from efficientai_toolkit.evaluation import EvaluationConfig
from efficientai_toolkit.lora import TrainingConfig
from efficientai_toolkit.lora.analysis import AnalysisConfig
from efficientai_toolkit.lora.comparison import ComparisonConfig
from efficientai_toolkit.lora.optimization import OptimizationConfig
from efficientai_toolkit.models.generation import GenerateConfig
from efficientai_toolkit.quantize import RecommendationConfig, SuiteConfig
from efficientai_toolkit.server import ServeConfig
from support.command import python

TRAIN = "lora-finetuning-mlx:train"
CONFIGS = (
    TrainingConfig, GenerateConfig, EvaluationConfig, AnalysisConfig, ComparisonConfig, OptimizationConfig,
    BenchmarkConfig, SuiteConfig, RecommendationConfig, ServeConfig, CompressConfig, QualityConfig,
    SimulationConfig, PeersConfig,
)  # fmt: skip
NAMES = [command.name for command in COMMANDS]
HELP = [["--help"], *([name, flag] for name in NAMES for flag in ("--help", "--help-all"))]
MOST = 10
"""Options that ``--help`` shows."""


def help_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    if words == ["--help"]:
        assert main(words) == 0
    else:
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
    return capsys.readouterr().out


def listed(text: str) -> set[str]:
    return set(re.findall(r"(?m)^  (?:-\w, )?(--[\w-]+)", text))


@pytest.mark.parametrize("words", HELP, ids=" ".join)
@pytest.mark.parametrize("columns", [60, 80, 100])
def test_help_fits_the_terminal(
    words: list[str], columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = help_of(words, capsys).splitlines()
    # A list of choices is not broken.
    assert max(len(line) for line in lines if "{" not in line) <= max(columns, 86)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_shows_ten_options_and_help_all_every_one(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    name, parser = command.name, build_parser(command)
    options = [action for action in parser._actions if action.option_strings]
    every = {action.option_strings[-1] for action in options if action.nargs != 0}
    short, whole = help_of([name, "--help"], capsys), help_of([name, "--help-all"], capsys)
    assert every <= listed(whole) | {flag.replace("--no-", "--") for flag in listed(whole)} | {
        f"--no-{flag[2:]}" for flag in listed(whole)
    }
    if short != whole:
        assert len(listed(short)) == MOST
        assert f"--help-all` lists {len(options) - MOST} more" in " ".join(short.split())
    else:
        assert len(options) <= MOST + 2


def test_the_rest_is_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    titles = re.findall(r"(?m)^(\S.*):$", help_of([TRAIN, "--help-all"], capsys))
    for title in (
        "data",
        "adapters",
        "optimizer",
        "learning-rate schedule",
        "memory",
        "evaluation and checkpoints",
    ):
        assert title in titles


def test_help_texts_use_the_usual_terms() -> None:
    words = (
        r"every number|so many|likeliest|what the rows|want an|course of|how close|untouched|wrong way round"
    )
    for config in CONFIGS:
        for option in list_options(config):
            assert not re.search(words, option.help), f"{config.__name__}.{option.name}: {option.help}"
            assert not option.help.endswith("."), option.name


def test_no_help_loads_the_engine() -> None:
    heavy = {"mlx", "rich", "huggingface_hub", "numpy", "yaml", "optuna", "efficientai_toolkit._core"}
    code = (
        "import json, sys; from efficientai_toolkit.cli import main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "  try: main(words)\n  except SystemExit: pass\n"
        f"print({heavy} & set(sys.modules))"
    )
    done = python(code, json.dumps(HELP))
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


@pytest.mark.parametrize("words", [["--help"], [TRAIN, "--help"], [TRAIN, "--help-all"]], ids=" ".join)
def test_help_takes_little_time(words: list[str]) -> None:
    """At most 0.3 s of the processor: the least of three starts, the first of which may compile Python."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "efficientai_toolkit", *words], check=True, stdout=subprocess.DEVNULL
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) <= 0.3, seconds


def test_python_m_runs_the_command_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "efficientai_toolkit"]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.startswith("efficientai-toolkit ")
    done = subprocess.run([*command, "nothing"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown command nothing")


@pytest.mark.parametrize(
    ("variable", "value", "valid"),
    [
        ("EAT_ISA", "avx1024", "one of portable, avx2, avx512, avx512-vnni, avx512-bf16"),
        ("EAT_NUM_THREADS", "0", "a number from 1 to 1024"),
        ("EAT_NUM_THREADS", "many", "a number from 1 to 1024"),
        ("EAT_NUM_THREADS", "-2", "a number from 1 to 1024"),
        ("EAT_NUM_THREADS", "2.5", "a number from 1 to 1024"),
    ],
)
def test_a_bad_environment_variable_is_refused(variable: str, value: str, valid: str) -> None:
    command = [sys.executable, "-m", "efficientai_toolkit", "info", "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {variable: value}
    )
    assert done.returncode == 2
    message = f'the environment variable {variable} is "{value}", expected {valid}'
    assert done.stderr == f"error: {message}\n"
    assert json.loads(done.stdout) == {"error": "ConfigError", "message": message}


@pytest.mark.parametrize(
    ("variable", "value"), [("EAT_ISA", ""), ("EAT_ISA", "avx2"), ("EAT_NUM_THREADS", "1")]
)
def test_a_good_one_is_taken(variable: str, value: str) -> None:
    command = [sys.executable, "-m", "efficientai_toolkit", "info", "--json"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {variable: value})
