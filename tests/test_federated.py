"""Federated fine-tuning: the embedded model, resuming, attacks, and bad settings."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit._base.assets import INSTRUCTIONS
from efficientai_toolkit.exceptions import ConfigError, DatasetError, TrainingError
from efficientai_toolkit.federated import FederatedConfig, FederatedResult
from support.command import PROGRAM
from support.command import run as run_command

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytest.importorskip("flwr")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Few rows, as the clients of a test train on two cores."""
    folder = tmp_path / "data"
    folder.mkdir()
    for split, rows in (("train", 24), ("valid", 4), ("test", 4)):
        lines = (INSTRUCTIONS / f"{split}.jsonl").read_text().splitlines()[:rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def federate(tmp_path: Path, data: Path) -> Callable[..., FederatedResult]:
    def run(**settings: Any) -> FederatedResult:
        chosen: dict[str, Any] = {
            "data": str(data),
            "output": str(tmp_path / "out"),
            "clients": 3,
            "rounds": 2,
            "local_steps": 1,
            "lora_rank": 2,
            "min_rows": 2,
            "compare": False,
            "lr": 1e-2,
        }
        return eat.federated.run(**chosen | settings)

    return run


def weights(output: Path) -> dict[str, np.ndarray[Any, Any]]:
    import mlx.core as mx

    stored: Any = mx.load(str(output / "adapters.safetensors"))
    return {name: np.array(array) for name, array in stored.items()}


def test_a_run_improves_the_model_and_saves_an_adapter(federate: Callable[..., FederatedResult]) -> None:
    events: list[Any] = []
    result = federate(callback=events.append, compare=True, local_steps=2)
    assert result.comparison is not None
    assert result.comparison.federated < 0.8 * result.comparison.before
    assert result.comparison.central is not None
    assert len(result.comparison.local) == 3
    rounds = [event for event in events if type(event).__name__ == "Round"]
    assert [(event.round, event.rounds, event.clients, event.rejected) for event in rounds] == [
        (1, 2, 3, 0),
        (2, 2, 3, 0),
    ]
    assert rounds[1].loss < rounds[0].loss
    assert sum(result.share_sizes) == 24
    model, _ = eat.load(adapter_path=result.output)
    assert model.adapters
    report = json.loads((result.output / "federated.json").read_text())
    assert report["rounds"][1]["clients"][0]["accepted"]
    record = json.loads((result.output / "run.json").read_text())
    assert record["kind"] == "federated"
    assert record["result"]["test_perplexity"] == pytest.approx(result.comparison.federated)


def test_an_interrupted_run_ends_where_another_does(
    federate: Callable[..., FederatedResult], tmp_path: Path
) -> None:
    class EnoughError(Exception):
        pass

    def stop(event: object) -> None:
        if type(event).__name__ == "Round":
            raise EnoughError

    whole = federate(output=str(tmp_path / "whole"))
    with pytest.raises(EnoughError):
        federate(callback=stop)
    with pytest.raises(TrainingError, match="holds a federated run"):
        federate()
    with pytest.raises(ConfigError, match=r"`lr` is 0.02, but the run in .* was begun with 0.01"):
        federate(resume=True, lr=0.02)
    result = federate(resume=True)
    assert len(result.rounds) == 2
    expected, found = weights(whole.output), weights(result.output)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_a_hostile_client_spoils_the_mean_and_not_the_median(
    federate: Callable[..., FederatedResult],
) -> None:
    spoilt = federate(attack="gaussian", attackers=1, attack_scale=1.0, rounds=1)
    robust = federate(
        attack="gaussian", attackers=1, attack_scale=1.0, rounds=1, rule="median", overwrite=True
    )
    assert spoilt.loss is not None
    assert robust.loss is not None
    assert robust.loss < 5.6 < spoilt.loss
    suspicions = [client.suspicion for client in spoilt.rounds[0].clients]
    assert suspicions.index(max(suspicions)) == 2  # type: ignore[type-var]


def test_clients_that_vanish_and_clients_without_numbers(federate: Callable[..., FederatedResult]) -> None:
    result = federate(attack="nan", attackers=1, dropout=0.3, clients=6, rounds=1, seed=1)
    (report,) = result.rounds
    reasons = [client.reason for client in report.clients if client.reason]
    assert any("values that are not finite" in reason for reason in reasons)
    assert any("vanished" in reason for reason in reasons)
    assert report.applied
    assert all(np.isfinite(array).all() for array in weights(result.output).values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clients": 0}, "`clients` is 0, expected at least 1"),
        (
            {"rule": "krum", "malicious": 1, "clients": 4},
            "4 updates are too few for krum with f=1, which needs 5",
        ),
        ({"rule": "bulyan", "malicious": 2}, "8 updates are too few for bulyan with f=2, which needs 11"),
        ({"clients_per_round": 9}, "`clients_per_round` is 9, but there are 8 `clients`"),
        ({"dropout": 1.0}, "`dropout` is 1, expected at least 0 and below 1"),
        ({"lr": -1.0}, "lr"),
        ({"training": {"optimiser": "sgd"}}, "unknown setting `optimiser`"),
        ({"training": {"output": "x"}}, "`training` must not hold `output`"),
        ({"dp_epsilon": 8.0}, "`weighting` must be 'uniform' with differential privacy"),
        (
            {"dp_epsilon": 8.0, "weighting": "uniform", "selection": "utility"},
            "`selection` must be 'poisson' with differential privacy, not 'utility'",
        ),
        (
            {"dp_epsilon": 0.1, "dp_noise_multiplier": 1.0, "weighting": "uniform", "selection": "poisson"},
            "`dp_epsilon` is 0.1, but the first round would spend",
        ),
        ({"port": 80}, "`port` is 80"),
        ({"resume": True}, "`resume` needs `output`"),
        ({"min_rows": 100}, "462 rows are too few for 8 `clients` with 100 each"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=message):
        eat.federated.run(**settings)
    assert not list(tmp_path.iterdir())


def test_data_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no folder or file"):
        eat.federated.run(data="nowhere", output=str(tmp_path / "out"))
    (tmp_path / "rows.txt").write_text("x")
    with pytest.raises(DatasetError, match=r"expected a \.jsonl file"):
        eat.federated.run(data=str(tmp_path / "rows.txt"), output=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds no checkpoint to resume"):
        eat.federated.run(output=str(tmp_path), resume=True)


def test_a_damaged_checkpoint(federate: Callable[..., FederatedResult], tmp_path: Path) -> None:
    federate(rounds=1)
    (tmp_path / "out/checkpoint/arrays.npz").write_bytes(b"PK damaged")
    with pytest.raises(TrainingError, match=r"checkpoint .* is damaged"):
        federate(resume=True)


def test_defaults_are_valid() -> None:
    assert FederatedConfig().clients == 8


def test_the_commands(data: Path, tmp_path: Path) -> None:
    def call(name: str, *further: str) -> dict[str, Any]:
        options = [] if name == "info" else ["--data", str(data), "--clients", "3", "--min-rows", "2"]
        done = run_command([str(PROGRAM), f"federated-learning:{name}", *options, *further, "--json"])
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    assert [check["status"] for check in call("validate")["checks"]] == ["ok"] * 5
    assert call("info")["defaults"]["run"]["clients"] == 8
    settings = ["--rounds", "1", "--local-steps", "1", "--no-compare", "--output", str(tmp_path / "out")]
    assert call("run", *settings)["comparison"]["federated"] > 1
    wrong = run_command([str(PROGRAM), "federated-learning:run", "--rule", "krum", "--malicious", "4"])
    assert wrong.returncode == 2
    assert "8 updates are too few for krum with f=4, which needs 11" in wrong.stderr
