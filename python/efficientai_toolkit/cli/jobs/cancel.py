"""``jobs:cancel``: cancel a job."""

from argparse import ArgumentParser, Namespace

from efficientai_toolkit.cli.jobs.shared import add_job, describe, format_state, open_jobs
from efficientai_toolkit.cli.output import Output


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job."""
    add_job(parser)


def run(args: Namespace, out: Output) -> int:
    """Cancel the job."""
    job = open_jobs(args).cancel(args.job)
    out.line(
        format_state(job) if job.has_ended else f"job {job.id} is interrupted, and keeps its last checkpoint"
    )
    out.result(describe(job))
    return 0
