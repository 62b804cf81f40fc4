"""``federated-learning:run``: fine-tune a model on the rows of many clients."""

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from efficientai_toolkit.cli.federated.groups import ESSENTIAL, GROUPS
from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output, format_pairs
from efficientai_toolkit.cli.shared.resume import build_resume_command
from efficientai_toolkit.cli.shared.tracking import add_tracking, choose_callbacks
from efficientai_toolkit.federated import FederatedConfig, FederatedResult

__all__ = ["ESSENTIAL", "add_arguments", "run"]


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of :class:`FederatedConfig`."""
    add_config(parser, FederatedConfig, title="federated learning", groups=GROUPS)
    add_tracking(parser)


def run(args: Namespace, out: Output) -> int:
    """Run all rounds, and print how the result compares."""
    from efficientai_toolkit.federated.session import run as run_federated

    given = build_config(args, FederatedConfig)
    callbacks = choose_callbacks(args)
    config = given.with_defaults_filled()
    out.note(
        format_pairs(
            [
                ("model", given.model_path or "the embedded model"),
                ("data", given.data or "bundled instructions"),
                ("clients", f"{config.clients}, {config.partition} shares"),
                ("rule", config.rule),
                ("output", str(config.output)),
            ]
        )
    )
    try:
        result = run_federated(config, callback=callbacks)
    except KeyboardInterrupt:
        resume = build_resume_command(
            args.argv, output=None if given.output else Path(str(config.output)), resumed=given.resume
        )
        message = f"interrupted; the finished rounds are saved, continue with:\n  {resume}"
        raise KeyboardInterrupt(message) from None
    _print(result, out)
    return 0


def _print(result: FederatedResult, out: Output) -> None:
    sizes = result.share_sizes
    pairs = [
        ("rounds", f"{len(result.rounds)}{', stopped early' if result.stopped_early else ''}"),
        ("rows", f"{min(sizes)} to {max(sizes)} of {sum(sizes)} for each client"),
    ]
    if result.perplexity is not None:
        pairs.append(("validation", f"perplexity {result.perplexity:.2f}"))
    if (compared := result.comparison) is not None:
        pairs.append(("test, before", f"perplexity {compared.before:.2f}"))
        pairs.append(("test, federated", f"perplexity {compared.federated:.2f}"))
        if compared.central is not None and compared.local_mean is not None:
            spread = f"{min(compared.local):.2f} to {max(compared.local):.2f}"
            pairs.append(("test, all rows in one place", f"perplexity {compared.central:.2f}"))
            pairs.append(("test, each client alone", f"perplexity {compared.local_mean:.2f} ({spread})"))
    left_out = {client.reason for report in result.rounds for client in report.clients if client.reason}
    pairs += [("left out", reason) for reason in sorted(left_out)[:5]]
    pairs += [
        ("received", f"{sum(report.received_bytes for report in result.rounds) / 1e6:.1f} MB"),
        ("time", f"{result.seconds:.1f} s"),
        ("adapter saved in", str(result.output)),
    ]
    out.line(format_pairs(pairs))
    out.result(json.loads(json.dumps(result.to_dict(), default=str)))
