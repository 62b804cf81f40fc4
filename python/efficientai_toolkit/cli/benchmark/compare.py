"""``benchmark compare``: compare two suites, cases, commands or stored runs."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from efficientai_toolkit.benchmark.config import ComparisonConfig
from efficientai_toolkit.cli.benchmark.options import add_output, add_suite_options
from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output

ESSENTIAL = (
    "first", "second", "filter", "set", "output", "repeats", "min_time", "warmup", "processes", "timeout",
    "json", "quiet",
)  # fmt: skip
"""What most comparisons set."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of a comparison."""
    parser.add_argument(
        "first",
        metavar="FIRST",
        help="suite, SUITE::CASE or `command:WORDS`, which are measured in turns; or a stored run:ID or "
        "run:BASELINE",
    )
    parser.add_argument("second", metavar="SECOND", help="what is compared with it")
    add_suite_options(parser)
    add_output(parser)
    add_config(parser, ComparisonConfig, title="measurement", with_file=False)


def run(args: Namespace, out: Output) -> int:
    """Print the verdicts; return 2 if a case failed."""
    from efficientai_toolkit.benchmark import compare, format_comparison
    from efficientai_toolkit.cli.shared.benchmark_progress import Reporter

    with Reporter(args, out) as report:
        comparison = compare(
            args.first,
            args.second,
            build_config(args, ComparisonConfig, with_file=False),
            arguments=dict(args.set),
            output=args.output,
            pattern=args.filter,
            on_progress=report,
        )
    out.line(format_comparison(comparison))
    out.result(asdict(comparison))
    return 2 if comparison.failed else 0
