"""``federated-learning:validate``: check whether a run could start."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from tempfile import TemporaryDirectory

from efficientai_toolkit.cli.federated.groups import ESSENTIAL, GROUPS
from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.cli.shared.validate import Checks, check_environment, report
from efficientai_toolkit.federated import FederatedConfig

__all__ = ["ESSENTIAL", "add_arguments", "run"]


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of :class:`FederatedConfig`."""
    add_config(parser, FederatedConfig, title="federated learning", groups=GROUPS)


def run(args: Namespace, out: Output) -> int:
    """Print the checks; return 2 if one fails."""
    from efficientai_toolkit.federated.build import build_rule
    from efficientai_toolkit.federated.flower import find_version
    from efficientai_toolkit.federated.shares import write_shares

    given = build_config(args, FederatedConfig)
    checks = Checks()
    checks.check("environment", check_environment, str)
    checks.check("Flower", find_version, lambda version: f"flwr {version}")
    checks.check(
        "rule", lambda: build_rule(given), lambda rule: f"{rule.name}, at least {rule.least} updates"
    )
    # A folder of runs is no business of a check.
    filled = checks.check(
        "settings",
        (given if given.output else given.with_values({"output": "."})).with_defaults_filled,
        lambda _: "ok",
    )
    if filled is None:
        checks.skip("shares", reason="a setting is wrong")
    else:
        with TemporaryDirectory() as folder:
            checks.check(
                "shares",
                lambda: write_shares(filled, Path(folder)),
                lambda shares: f"{min(shares.sizes)} to {max(shares.sizes)} rows for each client",
            )
    return report(checks, out, purpose="run")
