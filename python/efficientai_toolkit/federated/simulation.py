"""Simulations by their configuration."""

import math
from dataclasses import replace
from typing import Any, cast

from efficientai_toolkit.federated.attacks import Attack, Attackers
from efficientai_toolkit.federated.rules import Rule
from efficientai_toolkit.federated.simulation_config import SimulationConfig
from efficientai_toolkit.federated.simulator import Arrays, Mode, Moment, Simulator, Train, draw_devices
from efficientai_toolkit.federated.task import CloudTask


def simulate(config: SimulationConfig | None = None, **settings: Any) -> dict[str, list[Moment]]:
    """Run each mode on the same clients.

    Parameters
    ----------
    config
        Configuration; by default synchronous rounds beside FedBuff, with one client 10 times slower.
    **settings
        Fields of :class:`SimulationConfig` that override ``config``.

    Returns
    -------
    dict
        The moments of each mode.

    Raises
    ------
    ConfigError
        If a setting is wrong, or there are too few clients for the rule.
    """
    config = (config or SimulationConfig()).with_values(settings)
    return {mode: _run(config, cast("Mode", mode)) for mode in config.modes}


def _run(config: SimulationConfig, mode: Mode) -> list[Moment]:
    task = CloudTask(
        clients=config.clients,
        rows=config.rows,
        kind=config.partition,
        alpha=config.alpha,
        lr=config.lr,
        epochs=config.local_epochs,
        flipped=config.attackers if config.attack == "label_flip" else 0,
        seed=config.seed,
    )
    devices = draw_devices(
        config.clients,
        spread=config.spread,
        slow=config.slow,
        slowness=config.slowness,
        loss=config.loss,
        seed=config.seed,
    )
    simulator = Simulator(
        train=_attack(task.train, config),
        evaluate=task.evaluate,
        devices=[replace(one, bandwidth=config.bandwidth, latency=config.latency) for one in devices],
        rule=Rule(name=config.rule, f=config.malicious),
        deadline=math.inf if config.deadline is None else config.deadline,
        buffer_size=config.buffer_size,
        rate=config.rate,
        seed=config.seed,
    )

    def enough(moment: Moment) -> bool:
        reached = config.target_loss is not None and moment.metrics["loss"] <= config.target_loss
        return reached or moment.version >= config.versions

    return simulator.run(task.initial(), mode, until=enough)


def _attack(train: Train, config: SimulationConfig) -> Train:
    if config.attack in {"none", "label_flip"} or not config.attackers:
        return train
    attackers = Attackers(kind=cast("Attack", config.attack), scale=config.attack_scale, seed=config.seed)
    first = config.clients - config.attackers

    def attacked(arrays: Arrays, client: int, number: int) -> tuple[Arrays, float]:
        trained, examples = train(arrays, client, number)
        change = {name: trained[name] - arrays[name] for name in arrays}
        if client < first:
            attackers.watch(change, number)
            return trained, examples
        spoilt = attackers.change(change, client, number)
        return {name: arrays[name] + spoilt[name] for name in arrays}, examples

    return attacked
