"""``benchmark run``: measure the cases of a suite."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from efficientai_toolkit.benchmark.config import ENOUGH_PROCESSES, BenchmarkConfig
from efficientai_toolkit.cli.benchmark.options import add_output, add_suite_options, build_suite
from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.cli.shared.resume import build_resume_command

ESSENTIAL = (
    "suite", "filter", "set", "output", "resume", "repeats", "min_time", "processes", "save_baseline",
    "baseline", "timeout",
)  # fmt: skip
"""What most runs set."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of a run."""
    parser.add_argument(
        "suite",
        metavar="SUITE",
        help="Python file with a function `cases`, or the name of an installed suite",
    )
    add_suite_options(parser)
    add_output(parser)
    parser.add_argument(
        "--resume", action="store_true", help="continue the last interrupted run of the suite"
    )
    parser.add_argument(
        "--save-baseline",
        metavar="NAME",
        help=f"store the run as a baseline; with {ENOUGH_PROCESSES} processes, whose spread is its noise",
    )
    parser.add_argument(
        "--baseline", metavar="NAME", help=f"compare with a stored baseline; {ENOUGH_PROCESSES} processes too"
    )
    add_config(parser, BenchmarkConfig, title="measurement", with_file=False)


def run(args: Namespace, out: Output) -> int:
    """Print a table; return 2 if a case failed or differs from its group."""
    from efficientai_toolkit.benchmark import Store, compare_runs, format_comparison, format_run
    from efficientai_toolkit.benchmark import run as run_suite
    from efficientai_toolkit.benchmark.table import list_problems
    from efficientai_toolkit.cli.shared.benchmark_progress import Reporter

    config = build_config(args, BenchmarkConfig, with_file=False)
    if "processes" not in args and (args.save_baseline or args.baseline):
        config = config.with_values({"processes": ENOUGH_PROCESSES})
    # Before hours of work: a name that is not there.
    baseline = Store(args.output).load(args.baseline) if args.baseline else None
    try:
        with Reporter(args, out) as report:
            measured = run_suite(
                build_suite(args),
                config,
                output=args.output,
                pattern=args.filter,
                save_baseline=args.save_baseline,
                resume=args.resume,
                on_progress=report,
            )
    except KeyboardInterrupt:
        command = build_resume_command(args.argv, output=None, resumed=args.resume)
        message = f"interrupted: what is measured is saved in {args.output}; continue with `{command}`"
        raise KeyboardInterrupt(message) from None
    comparison = compare_runs(baseline, measured, pattern=args.filter) if baseline else None
    out.line(format_run(measured))
    if comparison is not None:
        out.line(f"\n{format_comparison(comparison)}")
    out.line(f"\nrun {measured.id} in {args.output}")
    out.result({**asdict(measured), "comparison": comparison and asdict(comparison)})
    problems = list_problems(measured).values()
    return 0 if all(problem.startswith("skipped") for problem in problems) else 2
