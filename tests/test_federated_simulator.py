"""The simulated clock: what slow clients, lost messages and hostile clients do to rounds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.federated.auditing import audit
from efficientai_toolkit.federated.config import FederatedConfig
from efficientai_toolkit.federated.rules import Rule
from efficientai_toolkit.federated.simulation import simulate as simulate_modes
from efficientai_toolkit.federated.simulator import Device, Moment, Simulator, draw_devices
from efficientai_toolkit.federated.task import CloudTask


def simulate(
    mode: Any, *, task: CloudTask | None = None, target: float = 0.62, most: int = 400, **settings: Any
) -> list[Moment]:
    task = task or CloudTask(clients=10, seed=1)
    settings.setdefault("devices", [Device()] * 9 + [Device(compute=10.0)])
    simulator = Simulator(train=task.train, evaluate=task.evaluate, **settings)

    def enough(moment: Moment) -> bool:
        return moment.metrics["loss"] <= target or moment.version >= most

    return simulator.run(task.initial(), mode, until=enough)


def test_a_buffer_does_not_wait_for_the_slow() -> None:
    rounds, buffered = simulate("synchronous"), simulate("fedbuff", buffer_size=5)
    assert rounds[-1].metrics["loss"] <= 0.62
    assert buffered[-1].metrics["loss"] <= 0.62
    assert rounds[-1].seconds >= 2 * buffered[-1].seconds
    assert max(moment.staleness for moment in buffered) > 1


def test_asynchronous_rounds_learn_and_repeat() -> None:
    once, again = simulate("fedasync"), simulate("fedasync")
    assert once[-1].metrics["loss"] <= 0.62
    assert [moment.metrics for moment in once] == [moment.metrics for moment in again]


def test_equal_clients_take_the_same_time() -> None:
    devices = [Device(compute=2.0, bandwidth=1000.0, latency=0.5)] * 10
    task = CloudTask(clients=10, seed=1)
    size = sum(array.nbytes for array in task.initial().values())
    each = 2.0 + 2 * (0.5 + size / 1000)
    moments = simulate("synchronous", devices=devices, task=task)
    assert moments[-1].seconds == pytest.approx(each * len(moments))


def test_a_deadline_leaves_the_slow_out() -> None:
    moments = simulate("synchronous", deadline=1.5)
    assert moments[0].seconds == 1.5
    assert moments[0].updates == 9


def test_lost_messages_and_clients_that_leave() -> None:
    devices = [Device(loss=0.3)] * 9 + [Device(trace=((0.0, 0.5), (7.0, 8.0)))]
    moments = simulate("fedbuff", buffer_size=3, devices=devices)
    assert moments[-1].metrics["loss"] <= 0.62
    gone = simulate("fedbuff", buffer_size=10, devices=[Device(trace=((0.0, 2.0),))] * 10)
    assert len(gone) <= 3
    assert all(math.isfinite(moment.seconds) for moment in gone)


def test_times_are_spread() -> None:
    devices = draw_devices(2000, spread=1.0, slow=100, slowness=10, seed=0)
    times = np.array([device.compute for device in devices])
    assert np.median(times[:1900]) == pytest.approx(1, rel=0.1)
    assert np.std(np.log(times[:1900])) == pytest.approx(1, rel=0.1)
    assert np.median(times[1900:]) > 6


def test_wrong_labels_spoil_the_mean_more_than_the_median() -> None:
    task = CloudTask(clients=10, flipped=4, kind="iid", seed=2, epochs=3)
    devices = [Device()] * 10
    mean = simulate("synchronous", task=task, devices=devices, target=0.0, most=30)[-1]
    median = simulate(
        "synchronous", task=task, devices=devices, target=0.0, most=30, rule=Rule(name="median")
    )[-1]
    assert median.metrics["loss"] < mean.metrics["loss"] - 0.1


def test_wrong_buffers() -> None:
    with pytest.raises(ConfigError, match="`buffer_size` is 11, expected 1 to 10"):
        simulate("fedbuff", buffer_size=11)
    with pytest.raises(ConfigError, match="3 updates are too few for krum with f=1"):
        simulate("fedbuff", buffer_size=3, rule=Rule(name="krum", f=1))


def test_a_simulation_by_its_settings() -> None:
    found = simulate_modes(clients=10, slow=1, spread=0.0, target_loss=0.65, versions=300)
    assert found["synchronous"][-1].seconds >= 2 * found["fedbuff"][-1].seconds
    with pytest.raises(ConfigError, match="`modes` must be of synchronous, fedbuff, fedasync, not 'semi'"):
        simulate_modes(modes=["semi"])
    with pytest.raises(ConfigError, match="`loss` is 1, expected at least 0 and below 1"):
        simulate_modes(loss=1.0)


def test_an_audit_finds_what_is_open() -> None:
    mean = audit(FederatedConfig(clients=10, processes=True, alpha=100.0), attackers=2)[0]
    robust = audit(
        FederatedConfig(clients=10, rule="multi_krum", malicious=2, weighting="uniform", alpha=100.0)
    )[0]
    worst = {finding.subject: finding.severity for finding in mean}
    assert worst["attack sign_flip"] == "high"
    assert worst["attack ipm"] == "high"
    assert worst["weighting"] == "medium"
    assert worst["transport"] == "low"
    assert [finding.severity for finding in mean] == sorted(
        (finding.severity for finding in mean), key=["high", "medium", "low", "ok"].index
    )
    calm = {finding.subject: finding.severity for finding in robust}
    assert calm["attack sign_flip"] == calm["attack ipm"] == calm["attack gaussian"] == "ok"
    assert "weighting" not in calm
