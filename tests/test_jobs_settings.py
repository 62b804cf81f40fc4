"""Settings of jobs: checked by the configuration of the kind, with paths that stay in the workspace."""

from pathlib import Path
from typing import Any

import pytest

from efficientai_toolkit._base.assets import MODEL
from efficientai_toolkit._base.config import Option
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.jobs import KINDS, Jobs
from efficientai_toolkit.jobs.settings import build_configs
from support.workspace import TINY, write_rows

NO_PATHS = {
    # Names of layers, columns, metrics and patterns; templates and texts.
    "rank_pattern", "target_modules", "layers", "columns", "metrics", "objectives", "methods", "stop",
    "prompt", "reference", "answer", "prompt_tuning_init_text", "lora_init", "lr_table",
    "chat_template_kwargs", "techniques", "type",
    # Budgets and steps of a compression, each of which is checked; exports go into the folder of the job.
    "budget", "max_loss", "prune", "recover", "quantize", "export",
}  # fmt: skip
"""Settings of text that name no file."""


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    (tmp_path / "secret.jsonl").write_text('{"text": "secret"}\n')
    (tmp_path / "model").mkdir()
    space = write_rows(tmp_path / "space")
    (space / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    (space / "out").symlink_to(tmp_path)
    (space / "linked").mkdir()
    (space / "linked" / "train.jsonl").symlink_to(tmp_path / "secret.jsonl")
    (space / "a,b.jsonl").write_text('{"text": "x"}\n')
    (space / "space.yaml").write_text("data: /etc/passwd\nlr: 1e-3\n")
    (space / "tasks.yaml").write_text("data: /etc/passwd\n")
    return Jobs(space, find_model={"served": tmp_path / "model"}.get)


def is_text(option: Option) -> bool:
    return (option.kind is str and not option.choices) or option.kind is object


def test_every_setting_of_text_is_known_to_be_a_path_or_none() -> None:
    """A new setting fails here until it is in the table of its kinds, or among those that are none."""
    for kind in KINDS.values():
        settings = kind.list_settings()
        assert kind.paths.keys() <= settings.keys()
        texts = {name for name, option in settings.items() if is_text(option)}
        assert texts - kind.paths.keys() <= NO_PATHS, kind.name
        names = [name for config in kind.load_configs() for name in config.__dataclass_fields__]
        assert len(names) == len(set(names)), kind.name


def test_the_runners_of_all_kinds_exist() -> None:
    from importlib import import_module

    for kind in KINDS.values():
        module, _, name = kind.function.partition(":")
        assert callable(getattr(import_module(module), name))


@pytest.mark.parametrize(
    "path",
    ["../secret.jsonl", "/etc/passwd", "link.jsonl", "out/secret.jsonl", "data/../../secret.jsonl", "linked",
     "~/secret.jsonl", "a\0b", "x" * 5000, "", "none.jsonl", "a,b.jsonl", "data/rows.jsonl,/etc/passwd",
     "\ud800"],
)  # fmt: skip
@pytest.mark.parametrize(
    ("kind", "name"),
    [("train", "data"), ("train", "model_path"), ("train", "init_adapter"), ("evaluate", "data"),
     ("quantize", "calibration"), ("quantize", "importance"), ("export", "calibration"),
     ("optimize", "search_space"),
     ("benchmark", "models"), ("benchmark", "tasks")],
)  # fmt: skip
def test_paths_outside_are_refused(jobs: Jobs, kind: str, name: str, path: str) -> None:
    value: Any = [path] if name in {"models", "tasks"} else path
    with pytest.raises(ConfigError, match=f"`{name}`"):
        jobs.submit(kind, {name: value})
    assert not jobs.list()


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("train", {"output": "x"}, "`output` is not set: a job has a folder of its own"),
        ("train", {"overwrite": True}, "`overwrite` is not set"),
        ("train", {"learning_rate": 1.0}, "unknown key `learning_rate`; did you mean `lr`"),
        ("train", {"lr": "fast"}, "`lr` must be a number"),
        ("train", {"lr": -1.0}, "lr"),
        ("train", {"data": 5}, "`data` must be text"),
        ("train", {"chat_template_kwargs": {"x": "y" * 70_000}}, "more than the 65,536 of a job"),
        ("train", {"model_path": "org/name"}, "models of the hub are not downloaded here unless"),
        ("train", {"model_path": "data/rows.jsonl"}, "is a file; name the folder of the model"),
        ("optimize", {"search_space": "space.yaml"}, "`search_space` has `data`, which is set for the whole"),
        ("benchmark", {"tasks": ["tasks.yaml"]}, "`tasks`: 'tasks.yaml' has settings"),
        ("benchmark", {"variants": {"a": {"calibration": "/etc/passwd"}}}, "`variants` has `calibration`"),
        ("benchmark", {"settings": {"importance": "/etc/passwd"}}, "`settings` has `importance`"),
        ("evaluate", {"metrics": ["magic"]}, "`metrics` names the unknown `magic`"),
    ],
)
def test_wrong_settings_are_told(jobs: Jobs, kind: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        jobs.submit(kind, settings)
    assert not jobs.list()


def test_what_settings_may_name(jobs: Jobs) -> None:
    def built(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
        [values] = build_configs(KINDS[kind], settings, jobs.rules)
        return values

    space = jobs.workspace.path
    assert built("train", {"data": "data/rows.jsonl=2, data/rows.jsonl"})["data"] == (
        f"{space}/data/rows.jsonl=2,{space}/data/rows.jsonl"
    )
    assert built("train", {"data": f"{space}/data"})["data"] == f"{space}/data"
    assert built("train", {"model_path": "embedded"})["model_path"] == str(MODEL)
    assert built("train", {"model_path": "served"})["model_path"] == str(space.parent / "model")
    assert built("train", {"model_path": "data"})["model_path"] == f"{space}/data"
    downloading = Jobs(jobs.workspace, allow_downloads=True)
    assert downloading.submit("train", {"model_path": "org/name@main"}).settings["model_path"] == (
        "org/name@main"
    )
    assert jobs.submit("train", TINY).settings == TINY


def test_a_path_that_left_after_it_was_submitted_fails_the_job(jobs: Jobs) -> None:
    from efficientai_toolkit.jobs import Runner

    rows = jobs.workspace.data / "rows.jsonl"
    job = jobs.submit("train", TINY)
    rows.unlink()
    rows.symlink_to(jobs.workspace.path.parent / "secret.jsonl")
    with Runner(jobs):
        for _ in jobs.events(job.id, follow=True):
            pass
    found = jobs.get(job.id)
    assert found.state == "failed"
    assert found.error is not None
    assert "not in the workspace" in found.error
