"""The parts of a run, from its configuration."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from efficientai_toolkit.federated.convergence import Convergence
from efficientai_toolkit.federated.guard import build_guard
from efficientai_toolkit.federated.rules import Rule
from efficientai_toolkit.federated.selection import Selector
from efficientai_toolkit.federated.server_step import ServerStep

if TYPE_CHECKING:
    from efficientai_toolkit.federated.checkpoint import ServerState
    from efficientai_toolkit.federated.config import FederatedConfig
    from efficientai_toolkit.federated.rounds import RoundReport
    from efficientai_toolkit.federated.strategy import FederatedStrategy


def build_rule(config: "FederatedConfig") -> Rule:
    """Return the rule of a configuration, after checking it against the number of clients.

    Raises
    ------
    ConfigError
        If there are too few clients for it.
    """
    options: dict[str, Any] = dict(config.rule_options or {})
    if config.pre_aggregation == "bucketing":
        options.setdefault("seed", config.seed)
    rule = Rule(
        name=config.rule,
        f=config.malicious,
        weighting=config.weighting,
        pre_aggregation=config.pre_aggregation,
        options=options,
    )
    rule.check(config.clients_per_round or config.clients)
    return rule


def build_strategy(
    config: "FederatedConfig",
    *,
    on_round: "Callable[[RoundReport], object] | None" = None,
    save: "Callable[[ServerState], object] | None" = None,
) -> "FederatedStrategy":
    """Return the strategy of a configuration."""
    from efficientai_toolkit.federated.strategy import FederatedStrategy

    return FederatedStrategy(
        build_rule(config),
        ServerStep(
            optimizer=config.server_optimizer,
            lr=config.server_lr,
            momentum=config.server_momentum,
            beta1=config.server_beta1,
            beta2=config.server_beta2,
            tau=config.server_tau,
        ),
        clients_per_round=config.clients_per_round,
        min_clients=config.min_clients,
        over_selection=config.over_selection,
        deadline=config.deadline,
        selector=Selector(kind=config.selection, seed=config.seed),
        convergence=Convergence(
            patience=config.early_stopping_patience, threshold=config.early_stopping_threshold
        ),
        guard=build_guard(config),
        on_round=on_round,
        save=save,
    )
