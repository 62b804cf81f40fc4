"""``cpu-model-compression:compare``: measure models beside the first one."""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.compress.quality import QualityConfig


def add_arguments(parser: ArgumentParser) -> None:
    """Add the models and the options of :class:`QualityConfig`."""
    parser.add_argument("reference", metavar="REFERENCE", help="folder or hub id of the original model")
    parser.add_argument("models", metavar="MODEL", nargs="+", help="what is compared with it")
    add_config(parser, QualityConfig, title="quality")


def run(args: Namespace, out: Output) -> int:
    """Print a table; return 2 if a model cannot be measured."""
    from efficientai_toolkit.cli.shared.progress import show
    from efficientai_toolkit.compress.comparison import compare
    from efficientai_toolkit.compress.table import format_rows

    config = build_config(args, QualityConfig)
    rows = compare(
        [args.reference, *args.models],
        config,
        on_progress=lambda progress: show(
            args,
            out,
            event=lambda: {"event": "stage", **asdict(progress)},
            line=lambda: f"{progress.done + 1}/{progress.total}  {progress.candidate}",
        ),
        show_progress=not out.quiet,
    )
    out.line(format_rows(rows, wide=True))
    out.result({"rows": json.loads(json.dumps([asdict(row) for row in rows], default=str))})
    return 2 if any(row.error is not None for row in rows) else 0
