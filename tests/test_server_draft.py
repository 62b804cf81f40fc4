"""A small model that proposes tokens for the served one."""

import json
import shutil
from pathlib import Path

import pytest

from efficientai_toolkit._base.assets import MODEL
from efficientai_toolkit.cli import main
from efficientai_toolkit.exceptions import DeploymentError
from efficientai_toolkit.quantize import quantize
from efficientai_toolkit.server import deploy
from efficientai_toolkit.server.config import ServeConfig
from efficientai_toolkit.server.version import estimate_size
from support.engine import MODELS
from support.server import adapter, running

BODY = {"prompt": ["Who goes there?", "To be, or", "My lord"], "max_tokens": 60, "temperature": 0}


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("draft") / "q"
    quantize(None, output=str(folder), technique="rtn", bits=4)
    return folder


def test_texts_are_those_without_it(draft: Path, tmp_path: Path) -> None:
    pirate = str(adapter(tmp_path / "pirate", 1))

    def answers(draft_model: Path | None) -> list[list[str]]:
        config = ServeConfig(
            accuracy="f32",
            draft_model=None if draft_model is None else str(draft_model),
            adapters={"pirate": pirate},
        )
        with running(config) as server:
            found: list[list[str]] = []
            for model in ("embedded", "embedded:pirate"):
                choices = server.post("/v1/completions", {**BODY, "model": model}).json()["choices"]
                found.append([choice["text"] for choice in choices])
            return found

    assert answers(draft) == answers(None)


def test_it_is_used_by_the_first_model_alone(draft: Path) -> None:
    config = ServeConfig(models={"a": str(MODEL), "b": str(MODEL)}, draft_model=str(draft))
    with running(config) as server:
        for model in ("a", "b"):
            assert server.post("/v1/completions", {**BODY, "model": model}).status_code == 200
        sizes = {name: version.size for name, version in server.app.state.service.pool.versions()}
    plain = estimate_size(MODEL, config)
    assert sizes == {"a": plain + estimate_size(draft, config), "b": plain}


def test_it_counts_in_the_memory_budget(draft: Path, capsys: pytest.CaptureFixture[str]) -> None:
    budget = str(estimate_size(MODEL, ServeConfig()) + 1000)
    words = ["serve", "--port", "0", "--memory-budget", budget, "--draft-model"]
    assert main([*words, str(draft)]) == 2
    assert "more than the server's memory budget" in capsys.readouterr().err


def test_models_that_do_not_fit_are_refused(
    draft: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(draft, other)
    values = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    tokens = values["model"]["vocab"]
    tokens["a"], tokens["b"] = tokens["b"], tokens["a"]
    (other / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")
    for folder, message in (
        (MODELS / "llama_gqa", "another tokenizer"),
        (other, "another tokenizer"),
        (Path("/nowhere"), "/nowhere"),
    ):
        assert main(["serve", "--port", "0", "--draft-model", str(folder)]) == 2
        assert message in capsys.readouterr().err
    # A state that cannot be cut.
    lfm2 = str(MODELS / "lfm2")
    assert main(["serve", "--port", "0", "--model-path", lfm2, "--draft-model", lfm2]) == 2
    assert "short convolutions" in capsys.readouterr().err


def test_a_version_that_it_does_not_fit_changes_nothing(draft: Path) -> None:
    with running(ServeConfig(draft_model=str(draft))) as server:
        with pytest.raises(DeploymentError, match="another tokenizer"):
            deploy("embedded", MODELS / "llama_gqa", url=server.url)
        assert server.post("/v1/completions", BODY).status_code == 200
