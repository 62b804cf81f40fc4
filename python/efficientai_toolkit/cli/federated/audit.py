"""``federated-learning:audit``: check the security of a configuration and let attackers try it."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from efficientai_toolkit.cli.federated.groups import ESSENTIAL, GROUPS
from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output, format_pairs
from efficientai_toolkit.federated import FederatedConfig

__all__ = ["ESSENTIAL", "add_arguments", "run"]


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of :class:`FederatedConfig`."""
    add_config(parser, FederatedConfig, title="federated learning", groups=GROUPS)


def run(args: Namespace, out: Output) -> int:
    """Print the findings; return 1 if one is of high severity."""
    from efficientai_toolkit.federated.auditing import audit
    from efficientai_toolkit.federated.build import build_rule

    config = build_config(args, FederatedConfig)
    build_rule(config)
    findings, reports = audit(config, attackers=config.attackers or None)
    out.line(format_pairs([(f"{found.severity:<8}{found.subject}", found.detail) for found in findings]))
    out.result(
        {
            "findings": [asdict(found) for found in findings],
            "attacks": [{**asdict(report), "lost": report.lost} for report in reports],
        }
    )
    return int(any(found.severity == "high" for found in findings))
