"""Security of a configuration: what is open, and what attackers achieve against its rule."""

from dataclasses import dataclass
from typing import Literal

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.federated.config import FederatedConfig
from efficientai_toolkit.federated.guard import build_guard
from efficientai_toolkit.federated.privacy.accounting import epsilon
from efficientai_toolkit.federated.simulation import simulate
from efficientai_toolkit.federated.simulation_config import SimulationConfig

_ATTACKS: dict[str, float] = {"sign_flip": 4.0, "gaussian": 1.0, "ipm": 10.0, "alie": 1.5, "label_flip": 1.0}
"""Attacks that are tried, and their strengths."""

_FEW = 5
"""Clients below which a single update shows in the mean."""

_TOLERABLE = 0.05
"""Loss of accuracy under attack that is no finding."""

_STRONG = 10.0
"""ε above which the guarantee says little."""

_ROUNDS = 40


Severity = Literal["high", "medium", "low", "ok"]
"""How bad a finding is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something that an audit found."""

    severity: Severity
    subject: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class AttackReport:
    """What one attack does to the simulated task."""

    attack: str
    accuracy: float
    """Accuracy after all rounds under attack."""
    without: float
    """Accuracy without one."""

    @property
    def lost(self) -> float:
        """Accuracy that the attack cost."""
        return self.without - self.accuracy


def audit(
    config: FederatedConfig, *, attackers: int | None = None
) -> tuple[list[Finding], list[AttackReport]]:
    """Check a configuration and simulate attacks on its rule.

    Parameters
    ----------
    config
        Configuration of a run.
    attackers
        Number of hostile clients of the simulation, by default ``malicious``, or one.

    Returns
    -------
    tuple
        Findings, the worst first, and the attacks.
    """
    findings = [*_check_transport(config), *_check_trust(config), *_check_privacy(config)]
    hostile = attackers or config.malicious or 1
    reports = _try_attacks(config, hostile)
    for report in reports:
        severity: Severity = "medium" if report.lost > _TOLERABLE else "ok"
        if report.lost > 4 * _TOLERABLE:
            severity = "high"
        findings.append(
            Finding(
                severity=severity,
                subject=f"attack {report.attack}",
                detail=f"{hostile} of {config.clients} clients: accuracy {report.accuracy:.1%} instead of "
                f"{report.without:.1%} on the simulated task",
            )
        )
    order = ("high", "medium", "low", "ok")
    return sorted(findings, key=lambda finding: order.index(finding.severity)), reports


def _check_transport(config: FederatedConfig) -> list[Finding]:
    if not config.processes:
        return [Finding(severity="ok", subject="transport", detail="clients are in this process")]
    if config.keys is None:
        detail = (
            "not encrypted, on the loopback interface: other users of this machine can read it; set `keys`"
        )
        return [Finding(severity="low", subject="transport", detail=detail)]
    return [Finding(severity="ok", subject="transport", detail="TLS")]


def _check_trust(config: FederatedConfig) -> list[Finding]:
    found: list[Finding] = []
    if config.rule == "fedavg":
        detail = "a single hostile client decides the mean; set a rule such as multi_krum, and `malicious`"
        found.append(Finding(severity="medium", subject="rule", detail=detail))
        if config.weighting == "examples":
            detail = (
                "clients say how many rows they have, and so how much they count; set `weighting=uniform`"
            )
            found.append(Finding(severity="medium", subject="weighting", detail=detail))
    elif config.malicious == 0 and config.rule in {"trimmed_mean", "krum", "multi_krum", "bulyan"}:
        detail = f"{config.rule} with `malicious` 0 expects no hostile client"
        found.append(Finding(severity="medium", subject="rule", detail=detail))
    if config.rule in {"krum", "bulyan"} and config.pre_aggregation == "none" and config.alpha < 1:
        detail = f"{config.rule} drops honest clients whose data differ; set `pre_aggregation=nnm`"
        found.append(Finding(severity="low", subject="rule", detail=detail))
    return found


def _check_privacy(config: FederatedConfig) -> list[Finding]:
    asked = config.clients_per_round or config.clients
    if (guard := build_guard(config)) is not None:
        spent = epsilon(guard.noise, guard.rate, config.rounds, config.dp_delta)
        detail = (
            f"all rounds tell of a client at most ε = {spent:.3g} at δ = {config.dp_delta:g}; the server "
            "sees each update"
        )
        severity: Severity = "low" if spent > _STRONG else "ok"
        return [Finding(severity=severity, subject="privacy", detail=detail)]
    found = [
        Finding(
            severity="medium",
            subject="privacy",
            detail="the server sees the update of each client, and nothing bounds what that tells of rows",
        )
    ]
    if asked < _FEW:
        detail = f"{asked} clients in a round: the mean says much about each of them"
        found.append(Finding(severity="low", subject="privacy", detail=detail))
    return found


def _try_attacks(config: FederatedConfig, attackers: int) -> list[AttackReport]:
    if config.rule == "centered_clipping":
        return []
    settings = SimulationConfig(
        modes=["synchronous"],
        clients=config.clients,
        versions=_ROUNDS,
        slow=0,
        rule=config.rule,
        malicious=config.malicious,
        partition=config.partition,
        alpha=config.alpha,
        seed=config.seed,
    )
    if attackers >= config.clients:
        message = f"`attackers` is {attackers}, but there are {config.clients} `clients`"
        raise ConfigError(message)
    without = simulate(settings)["synchronous"][-1].metrics["accuracy"]
    reports: list[AttackReport] = []
    for attack, scale in _ATTACKS.items():
        values = {"attack": attack, "attackers": attackers, "attack_scale": scale}
        moments = simulate(settings.with_values(values))["synchronous"]
        reports.append(AttackReport(attack=attack, accuracy=moments[-1].metrics["accuracy"], without=without))
    return reports
