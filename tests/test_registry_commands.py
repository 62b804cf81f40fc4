"""The registry on the command line."""

import json
from pathlib import Path
from typing import Any

import pytest

from efficientai_toolkit.cli import main
from efficientai_toolkit.registry import Registry
from support.registry import trained, weights


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a workspace and two runs in it."""
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        trained(tmp_path / "workspace" / "runs" / str(number), number, loss=3.0 - number, rank=number)
    return tmp_path


def read(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """The object that a command prints."""
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_from_a_run_to_production(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--alias", "production", "--metric", "bleu=0.5", "--tag", "by=night", "--description", "first")
    found = read(capsys, "registry:register", "chat", "workspace/runs/1", *words)
    assert (found["reference"], found["aliases"]) == ("chat/1", ["production"])
    assert (found["tags"], found["description"]) == ({"by": "night"}, "first")
    assert found["metrics"] == {"final_loss": 2.0, "bleu": 0.5}
    # Relative to the workspace, too.
    assert read(capsys, "registry:register", "chat", "runs/2", "--parent", "chat/1")["number"] == 2
    assert [each["reference"] for each in read(capsys, "registry:list")["versions"]] == ["chat/1", "chat/2"]
    assert read(capsys, "registry:promote", "chat/2", "--if-lower", "final_loss")["aliases"] == ["production"]
    shown = read(capsys, "registry:show", "chat")
    assert (shown["reference"], shown["lineage"]) == ("chat/2", ["chat/1"])
    assert [(each["before"], each["after"]) for each in shown["changes"]] == [(None, 1), (1, 2)]
    compared = read(capsys, "registry:compare", "chat/1", "chat@production")
    assert compared["metrics"]["final_loss"] == [2.0, 1.0]
    assert compared["settings"] == {"rank": [1, 2]}
    assert read(capsys, "registry:remove", "chat@production") == {"name": "chat", "alias": "production"}
    assert read(capsys, "registry:remove", "chat/2", "--delete-files")["deleted_files"] is True
    assert not (here / "workspace" / "runs" / "2").exists()
    assert [each.reference for each in Registry().list_versions()] == ["chat/1"]


def test_what_people_read(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["registry:list"]) == 0
    assert "no models yet" in capsys.readouterr().out
    for number in (1, 2):
        assert main(["registry:register", "chat", f"runs/{number}", "--alias", f"v{number}"]) == 0
    assert "chat/2" in capsys.readouterr().out
    for words, parts in (
        (["list", "chat"], ["chat/1   adapter  v1"]),
        (["promote", "chat@v1"], ["chat@production is chat/1"]),
        (
            ["show", "chat"],
            ["aliases      production, v1", "final_loss  2", "rank        1", "production: – → 1"],
        ),
        (
            ["compare", "chat/1", "chat/2"],
            ["final_loss             2             1", "rank                   1             2"],
        ),
        (["remove", "chat@v2"], ["took chat@v2 away"]),
        (["remove", "chat/2"], ["removed chat/2; left "]),
    ):
        assert main([f"registry:{words[0]}", *words[1:]]) == 0
        out = capsys.readouterr().out
        for part in parts:
            assert part in out, out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["list", "--workspace", "none"], "there is no workspace none"),
        (["list", "other"], "no model is registered as other"),
        (["show", "chat/7"], "chat has no version 7"),
        (["show", "../x"], "names no version: write NAME"),
        (["register", "a/b", "runs/1"], "is no name of a model"),
        (["register", "chat", "/etc"], "is not in the workspace"),
        (["register", "chat", "runs/1", "--metric", "x"], "--metric must be NAME=VALUE"),
        (["register", "chat", "runs/1", "--metric", "x=y"], "--metric must be NAME=NUMBER"),
        (["register", "chat", "runs/1", "--metric", "x=nan"], "must be a finite number"),
        (["register", "chat", "runs/1", "--tag", "x"], "--tag must be NAME=VALUE"),
        (["promote", "chat"], "tell the version of chat: NAME/NUMBER or NAME@ALIAS"),
        (["promote", "chat/1", "--alias", "a b"], "is no name of an alias"),
        (["compare", "chat"], "two versions or more"),
        (["remove", "chat"], "by its number"),
        (["remove", "chat/1"], "chat/1 is production; promote another one first"),
        (["remove", "chat@none"], "chat has no alias none"),
        (["remove", "a b@c"], "names no version"),
    ],
)
def test_mistakes(here: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Registry().register("chat", "runs/1", aliases=["production"])
    assert main([f"registry:{words[0]}", *words[1:]]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert len(Registry().list_versions()) == 1
    assert not (here / "none").exists()


def test_changed_files_are_not_promoted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["registry:register", "chat", "runs/1"]) == 0
    weights(here / "workspace" / "runs" / "1" / "adapters.safetensors", 9)
    assert main(["registry:promote", "chat/1"]) == 2
    assert "not those that were registered as chat/1" in capsys.readouterr().err
