"""``jobs:resume``: queue a job again."""

from argparse import ArgumentParser, Namespace

from efficientai_toolkit.cli.jobs.shared import add_job, describe, format_state, open_jobs
from efficientai_toolkit.cli.output import Output


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job."""
    add_job(parser)


def run(args: Namespace, out: Output) -> int:
    """Queue the job."""
    job = open_jobs(args).resume(args.job)
    out.line(format_state(job))
    out.result(describe(job))
    return 0
