"""The registry: versions, aliases that move at once, lineage, removal; changed files and hostile names."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from efficientai_toolkit.exceptions import ConfigError, DeploymentError
from efficientai_toolkit.registry import AliasChange, Registry
from efficientai_toolkit.workspace.folder import Workspace
from support.registry import model, trained, weights


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "space")


@pytest.fixture
def runs(registry: Registry) -> Path:
    return registry.workspace.runs


def test_a_training_run_tells_about_itself(registry: Registry, runs: Path) -> None:
    trained(runs / "a", 7, loss=2.25)
    found = registry.register("chat", "runs/a", tags={"by": "night"}, description="first")
    assert (found.name, found.number, found.kind, found.reference) == ("chat", 1, "adapter", "chat/1")
    assert found.path == runs / "a"
    assert found.metrics == {"final_loss": 2.25}
    assert found.settings == {"model_path": "org/base", "lr": 0.1}
    assert found.data_fingerprint == f"{7:064}"
    assert (found.base, found.parent) == ("org/base", None)
    assert (found.tags, found.description, found.aliases) == ({"by": "night"}, "first", ())
    assert found.files == 2
    names = ("adapters.safetensors", "adapter_config.json")
    assert found.size_bytes == sum((runs / "a" / name).stat().st_size for name in names)
    assert registry.get("chat") == registry.get("chat/1") == found


def test_checkpoints_and_models(registry: Registry, runs: Path) -> None:
    folder = runs / "a" / "checkpoints" / "step-0000002"
    folder.mkdir(parents=True)
    weights(folder / "parameters.safetensors")
    history = {"train_losses": [3.0, 2.5], "validation_losses": [[0, 4.0], [2, 2.75]]}
    state = {"step": 2, "history": history, "identity": {"lr": 0.5, "data": "9 rows, ab"}}
    (folder / "state.json").write_text(json.dumps(state))
    found = registry.register("chat", folder)
    assert found.kind == "checkpoint"
    assert found.metrics == {"step": 2, "final_loss": 2.5, "validation_loss": 2.75}
    assert found.settings == {"lr": 0.5}
    made = model(runs / "b")
    (made / "quantization.json").write_text(json.dumps({"config": {"bits": 4}, "report": {"size": 7}}))
    found = registry.register("chat", made, metrics={"accuracy": 0.5}, base="/elsewhere")
    assert (found.number, found.kind, found.base) == (2, "model", "/elsewhere")
    assert found.metrics == {"size": 7, "accuracy": 0.5}


def test_what_the_engine_writes_is_read(registry: Registry) -> None:
    from efficientai_toolkit import lora

    config = lora.TrainingConfig(
        iters=2, save_every=1, output=str(registry.workspace.runs / "a"), eval_batches=1, max_seq_length=32
    )
    result = lora.MLXTrainer(config).train()
    found = registry.register("chat", result.adapter_path)
    assert found.kind == "adapter"
    assert found.metrics["final_loss"] == pytest.approx(result.final_loss)
    assert found.settings["iters"] == 2
    assert found.base is not None
    assert Path(found.base, "config.json").is_file()
    [*_, checkpoint] = sorted((result.adapter_path / "checkpoints").iterdir())
    found = registry.register("chat", checkpoint)
    assert (found.kind, found.metrics["step"]) == ("checkpoint", 1)
    assert found.settings["batch_size"] == config.batch_size


def test_aliases_move_and_are_remembered(registry: Registry, runs: Path) -> None:
    for number in (1, 2):
        registry.register("chat", trained(runs / str(number), number), aliases=["candidate"])
    assert registry.get("chat").number == 2
    assert registry.promote("chat", 1).aliases == ("production",)
    assert registry.get("chat").number == registry.get("chat@production").number == 1
    assert registry.get("chat@candidate").number == 2
    assert registry.promote("chat@candidate").aliases == ("candidate", "production")
    # A second time changes nothing.
    registry.promote("chat@candidate")
    registry.remove_alias("chat", "candidate")
    changes = registry.list_changes("chat")
    assert [(each.alias, each.before, each.after) for each in changes] == [
        ("candidate", None, 1),
        ("candidate", 1, 2),
        ("production", None, 1),
        ("production", 1, 2),
        ("candidate", 2, None),
    ]
    assert {type(each) for each in changes} == {AliasChange}
    assert all(each.time.endswith("+00:00") for each in changes)
    [only] = registry.list_models()
    assert (only.name, only.versions, only.aliases) == ("chat", (1, 2), {"production": 2})
    with pytest.raises(ConfigError, match="no alias candidate"):
        registry.get("chat@candidate")


def test_changed_files_are_not_promoted(registry: Registry, runs: Path) -> None:
    folder = trained(runs / "a", 1)
    found = registry.register("chat", folder)
    # Neither a log nor a checkpoint is part of the version.
    (folder / "training.json").write_text("{}")
    (folder / "checkpoints").mkdir()
    registry.verify(found)
    weights(folder / "adapters.safetensors", 2)
    with pytest.raises(DeploymentError, match="not those that were registered as chat/1; register"):
        registry.promote("chat", 1)
    weights(folder / "adapters.safetensors", 1)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(DeploymentError, match="not those that were registered"):
        registry.promote("chat", 1)
    (folder / "tokenizer.json").unlink()
    registry.promote("chat", 1)
    (folder / "adapters.safetensors").unlink()
    with pytest.raises(DeploymentError, match=r"chat/1 cannot be used: .*no weights"):
        registry.promote("chat", 1, "candidate")
    assert registry.get("chat").aliases == ("production",)


def test_only_a_better_version_is_promoted(registry: Registry, runs: Path) -> None:
    for number, loss in ((1, 2.0), (2, 2.5), (3, 1.5)):
        metrics = {"accuracy": 1 - loss / 10}
        registry.register("chat", trained(runs / str(number), number, loss=loss), metrics=metrics)
    registry.promote("chat", 1, if_lower="final_loss")
    with pytest.raises(DeploymentError, match=r"final_loss of 2.5 is not lower than the 2 of chat/1"):
        registry.promote("chat", 2, if_lower="final_loss")
    with pytest.raises(DeploymentError, match=r"accuracy of 0.75 is not higher than the 0.8 of chat/1"):
        registry.promote("chat", 2, if_higher="accuracy")
    with pytest.raises(ConfigError, match="chat/3 has no metric 'bleu'; it has accuracy, final_loss"):
        registry.promote("chat", 3, if_higher="bleu")
    assert registry.get("chat").number == 1
    registry.promote("chat", 3, if_lower="final_loss", if_higher="accuracy")
    assert registry.get("chat").number == 3


def test_comparison_and_lineage(registry: Registry, runs: Path) -> None:
    base = registry.register("base", model(runs / "base"))
    registry.register("chat", trained(runs / "1", 1, base=str(base.path), rank=4))
    registry.register("chat", trained(runs / "2", 2, loss=1.0), parent="chat/1")
    assert [each.reference for each in registry.lineage("chat")] == ["chat/2", "chat/1", "base/1"]
    found = registry.compare("base", "chat/1", "chat/2")
    assert found.versions == ["base/1", "chat/1", "chat/2"]
    assert found.metrics == {"final_loss": [None, 2.5, 1.0]}
    assert found.settings["rank"] == [None, 4, None]
    assert registry.compare("chat/1", "chat/2").settings.keys() == {"rank", "model_path"}
    assert found.data == [None, f"{1:064}", f"{2:064}"]
    assert all(size > 0 for size in found.sizes)
    with pytest.raises(ConfigError, match="two versions or more"):
        registry.compare("chat")


def test_removal(registry: Registry, runs: Path) -> None:
    for number in (1, 2, 3):
        parent = None if number == 1 else "chat/1"
        registry.register("chat", trained(runs / str(number), number), parent=parent)
    registry.promote("chat", 2)
    with pytest.raises(DeploymentError, match="chat/2 is production; promote another one first"):
        registry.remove("chat/2", delete_files=True)
    with pytest.raises(DeploymentError, match="chat/2 was made from chat/1"):
        registry.remove("chat/1")
    for reference in ("chat", "chat@production"):
        with pytest.raises(ConfigError, match="by its number: chat/NUMBER"):
            registry.remove(reference)
    assert (runs / "2").is_dir()
    registry.remove("chat/2", force=True, delete_files=True)
    assert not (runs / "2").exists()
    assert registry.list_changes("chat")[-1].after is None
    registry.remove("chat/3")
    assert (runs / "3").is_dir()
    # The number is not used again.
    assert registry.register("chat", "runs/3").number == 4
    for reference in ("chat/1", "chat/4"):
        registry.remove(reference)
    assert registry.list_models() == []
    with pytest.raises(ConfigError, match="no versions left"):
        registry.get("chat")


def test_only_folders_of_the_workspace_are_deleted(registry: Registry, runs: Path, tmp_path: Path) -> None:
    outside = trained(tmp_path / "outside", 1)
    registry.register("chat", outside, outside=True)
    registry.register("chat", trained(runs / "a", 2))
    registry.register("chat", trained(runs / "a" / "inner", 3))
    trained(registry.workspace.path / "x", 4)
    for name in ("adapters.safetensors", "adapter_config.json"):
        (registry.workspace.path / "x" / name).rename(registry.workspace.path / name)
    registry.register("chat", registry.workspace.path)
    for reference, reason in (
        ("chat/1", "no folder of its own in the workspace"),
        ("chat/2", "has the files of chat/3, too"),
        ("chat/4", "no folder of its own in the workspace"),
    ):
        with pytest.raises(DeploymentError, match=reason):
            registry.remove(reference, delete_files=True)
    assert len(registry.list_versions("chat")) == 4
    assert (outside / "adapters.safetensors").is_file()
    # A link that took the place of the folder is not followed.
    (runs / "a" / "inner").rename(tmp_path / "moved")
    (runs / "a" / "inner").symlink_to(tmp_path / "moved")
    with pytest.raises(DeploymentError, match="no folder of its own"):
        registry.remove("chat/3", delete_files=True)
    assert (tmp_path / "moved" / "adapters.safetensors").is_file()


def test_processes_get_different_numbers(registry: Registry, runs: Path) -> None:
    trained(runs / "a")
    source = (
        "import sys\nfrom efficientai_toolkit.registry import Registry\nregistry = Registry(sys.argv[1])\n"
        "print(*[registry.register('chat', 'runs/a', aliases=['candidate']).number for _ in range(8)])"
    )
    words = [sys.executable, "-c", source, str(registry.workspace.path)]
    processes = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    numbers = [int(word) for process in processes for word in process.communicate()[0].split()]
    assert sorted(numbers) == list(range(1, 17))
    changes = registry.list_changes("chat")
    assert [(each.before, each.after) for each in changes] == [(n or None, n + 1) for n in range(16)]


NAMES: list[Any] = [
    "", "a b", "../x", "a/../b", "-x", ".x", "a:b", "a\n", "a\0", "é", "a" * 101, "a@b@c", None, 7, "%2e",
    "a'; DROP TABLE model_versions; --",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_hostile_names(registry: Registry, runs: Path, name: Any) -> None:
    if not (runs / "a").exists():
        trained(runs / "a")
    registry.register("chat", "runs/a")
    with pytest.raises(ConfigError, match="is no name of a model"):
        registry.register(name, "runs/a")
    with pytest.raises(ConfigError, match="is no name of an alias"):
        registry.register("chat", "runs/a", aliases=[name])
    with pytest.raises(ConfigError, match="is no name of an alias"):
        registry.promote("chat", 1, name)
    with pytest.raises(ConfigError, match=r"names no version|no model is registered"):
        registry.get(name)
    with pytest.raises(ConfigError, match="is no name of a tag"):
        registry.register("chat", "runs/a", tags={name: "x"})
    with pytest.raises(ConfigError, match="is no name of a metric"):
        registry.register("chat", "runs/a", metrics={name: 1.0})
    assert len(registry.list_versions()) == 1


@pytest.mark.parametrize(
    "reference", ["chat/0", "chat/01", "chat/-1", "chat/1e3", "chat/9999999999", "chat/１"]
)
def test_hostile_numbers(registry: Registry, reference: str) -> None:
    with pytest.raises(ConfigError, match="names no version"):
        registry.get(reference)
    with pytest.raises(ConfigError, match="names no version"):
        registry.promote("chat", 10**30)


def test_paths_stay_in_the_workspace(registry: Registry, runs: Path, tmp_path: Path) -> None:
    outside = trained(tmp_path / "outside")
    (runs).mkdir(parents=True)
    (runs / "link").symlink_to(outside)
    for path in (outside, "../outside", "runs/link", "runs/../../outside", "a\0b"):
        with pytest.raises(ConfigError, match="is not in the workspace"):
            registry.register("chat", path)
    found = registry.register("chat", "runs/link", outside=True)
    assert found.path == outside
    registry.promote("chat/1")
    inside = trained(runs / "a")
    (inside / "adapters.safetensors").unlink()
    (inside / "adapters.safetensors").symlink_to(outside / "adapters.safetensors")
    with pytest.raises(ConfigError, match="a link to what is not in the workspace"):
        registry.register("chat", "runs/a")
    registry.register("chat", "runs/a", outside=True)


def test_folders_with_nothing_in_them(registry: Registry, runs: Path) -> None:
    folder = runs / "a"
    with pytest.raises(ConfigError, match="is no folder"):
        registry.register("chat", "runs/a")
    folder.mkdir(parents=True)
    with pytest.raises(
        ConfigError, match=r"no model, adapter or checkpoint: none of adapter_config\.json, con"
    ):
        registry.register("chat", folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"has no weights: no \.safetensors"):
        registry.register("chat", folder)
    with pytest.raises(ConfigError, match="is a file; register its folder"):
        registry.register("chat", folder / "config.json")
    with pytest.raises(ConfigError, match=r"is no adapter: it has no adapter_config\.json"):
        registry.register("chat", folder, kind="adapter")
    with pytest.raises(ConfigError, match="`kind` must be one of adapter, checkpoint, model, not 'thing'"):
        registry.register("chat", folder, kind="thing")  # type: ignore[arg-type]
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(ConfigError, match="is no regular file"):
        registry.register("chat", folder)
    assert registry.list_models() == []


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("training.json", "{", r"training\.json cannot be read"),
        ("run.json", "[" * 100_000, r"run\.json cannot be read"),
        ("training.json", json.dumps({"report": dict.fromkeys(map(str, range(999)), 1)}), "has 999 metrics"),
        ("run.json", json.dumps({"configuration": {"x": "y" * 2_000_000}}), "characters of settings"),
    ],
)
def test_damaged_records(registry: Registry, runs: Path, file: str, content: str, message: str) -> None:
    folder = trained(runs / "a")
    (folder / file).write_text(content)
    with pytest.raises(ConfigError, match=message):
        registry.register("chat", folder)
    assert registry.list_models() == []


def test_strange_records(registry: Registry, runs: Path) -> None:
    folder = trained(runs / "a")
    report = {"a": float("nan"), "b": 10**400, "c": True, "d": {"e": 1.5, "f": "x"}, "g": None}
    (folder / "training.json").write_text(json.dumps({"config": [1], "report": report}))
    (folder / "run.json").write_text(json.dumps({"configuration": {"model_path": 7}, "data": {"files": 1}}))
    (folder / "result.json").write_text(json.dumps([1]))
    found = registry.register("chat", folder)
    assert found.metrics == {"d.e": 1.5}
    assert (found.settings, found.base, found.data_fingerprint) == ({"model_path": 7}, None, None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"description": "x" * 10_001}, "`description` must be text of up to 10,000"),
        ({"description": "\ud800"}, "`description` must be text"),
        ({"tags": {"a": 1}}, "the tag a must be text"),
        ({"tags": {f"a{number}": "" for number in range(101)}}, "more than 100"),
        ({"metrics": {"a": float("inf")}}, "the metric a must be a finite number, not inf"),
        ({"metrics": {"a": "1"}}, "the metric a must be a finite number"),
        ({"parent": "none/1"}, "no model is registered as none"),
    ],
)
def test_hostile_descriptions(registry: Registry, runs: Path, values: Any, message: str) -> None:
    trained(runs / "a")
    with pytest.raises(ConfigError, match=message):
        registry.register("chat", "runs/a", **values)
    assert registry.list_models() == []


def test_a_database_that_is_damaged_later(registry: Registry, runs: Path) -> None:
    registry.register("chat", trained(runs / "a"))
    with registry.workspace.database.begin() as connection:
        connection.exec_driver_sql("DROP TABLE model_aliases")
    with pytest.raises(ConfigError, match=r"the database of the workspace .* cannot be used: no such t"):
        registry.get("chat")


def test_a_workspace_is_taken_as_it_is(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert Registry(workspace).workspace is workspace
