"""``quantized-model-benchmarks:run``: measure models quantized in several ways."""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, replace
from pathlib import Path

from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.cli.shared.resume import build_resume_command
from efficientai_toolkit.cli.shared.tracking import add_tracking, create_trackers
from efficientai_toolkit.quantize.suite.config import SuiteConfig
from efficientai_toolkit.study.folder import RUNS, new_run, release

ESSENTIAL = (
    "models", "techniques", "bits", "group_sizes", "calibration", "data", "tasks", "config", "output",
    "resume",
)  # fmt: skip
"""What most benchmarks set."""

_GROUPS = {
    "quality": ("data", "sequences", "length", "tasks"),
    "speed": ("prompt_tokens", "generated_tokens", "repeats", "processes"),
}
"""Fields of :class:`SuiteConfig` by title; others concern the whole benchmark."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of :class:`SuiteConfig`."""
    add_config(parser, SuiteConfig, title="benchmark", groups=_GROUPS)
    add_tracking(parser)


def run(args: Namespace, out: Output) -> int:
    """Print the table; return 2 if a variant failed."""
    from efficientai_toolkit.cli.shared.benchmark_progress import Reporter
    from efficientai_toolkit.quantize.suite.run import benchmark
    from efficientai_toolkit.quantize.suite.table import format_rows

    given = build_config(args, SuiteConfig)
    trackers = create_trackers(args)
    config = given
    if config.output is None and not config.resume:
        config = replace(config, output=str(new_run(Path(RUNS), "quantization")))
    try:
        with Reporter(args, out) as report:
            result = benchmark(config, on_progress=report, callback=trackers)
    except KeyboardInterrupt:
        command = build_resume_command(
            args.argv, output=None if given.output else Path(str(config.output)), resumed=given.resume
        )
        message = f"interrupted; what is measured is saved, continue with:\n  {command}"
        raise KeyboardInterrupt(message) from None
    finally:
        release(Path(str(config.output)))
    out.note()
    out.line(format_rows(result.rows))
    out.line(f"\nsaved in {result.output}: report.html, results.md, .csv and .json")
    out.result(json.loads(json.dumps(asdict(result), default=str)))
    return 2 if any(row.error is not None for row in result.rows) else 0
