"""``cpu-model-compression:benchmark``: measure a model in several runtimes."""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.compress.peers.config import PeersConfig

ESSENTIAL = (
    "model_path", "output", "runtimes", "onnx_type", "gguf_type", "data", "prompt_tokens", "generated_tokens",
    "rounds", "overwrite",
)  # fmt: skip
"""What most benchmarks set."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of :class:`PeersConfig`."""
    add_config(parser, PeersConfig, title="benchmark")


def run(args: Namespace, out: Output) -> int:
    """Print a table; return 2 if a runtime failed."""
    from efficientai_toolkit.cli.shared.benchmark_progress import Reporter
    from efficientai_toolkit.compress.peers.run import benchmark, format_rows

    config = build_config(args, PeersConfig)
    with Reporter(args, out) as report:
        result = benchmark(config, on_progress=report, show_progress=not out.quiet)
    out.note()
    out.line(format_rows(result.rows))
    out.line(f"\nsaved in {result.output}")
    out.result(json.loads(json.dumps(asdict(result), default=str)))
    return 2 if any(row.status == "failed" for row in result.rows) else 0
