"""``jobs:list``: list jobs."""

import time
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, get_args

from efficientai_toolkit._base.tables import align
from efficientai_toolkit._base.units import format_duration
from efficientai_toolkit.cli.jobs.shared import add_workspace, describe, open_jobs
from efficientai_toolkit.cli.output import Output, format_pairs
from efficientai_toolkit.jobs.job import State
from efficientai_toolkit.jobs.kinds import KINDS

if TYPE_CHECKING:
    from efficientai_toolkit.jobs.job import Job


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the list."""
    add_workspace(parser)
    parser.add_argument(
        "--state", metavar="STATE", choices=get_args(State), action="append",
        help=f"only jobs in this state, one of {', '.join(get_args(State))}; repeat it for more",
    )  # fmt: skip
    parser.add_argument("--kind", choices=tuple(KINDS), help="only jobs of this kind")
    parser.add_argument("--kinds", action="store_true", help="list the kinds of jobs instead")


def run(args: Namespace, out: Output) -> int:
    """Print a line per job, the newest first."""
    if args.kinds:
        out.line(format_pairs([(kind.name, kind.summary) for kind in KINDS.values()]))
        out.result({"kinds": {kind.name: kind.summary for kind in KINDS.values()}})
        return 0
    jobs = open_jobs(args).list(states=args.state or (), kind=args.kind)
    out.line(_table(jobs) if jobs else "no jobs")
    out.result({"jobs": [describe(job) for job in jobs]})
    return 0


def _table(jobs: "list[Job]") -> str:
    rows = [("job", "kind", "state", "output", "priority", "time")]
    rows += [(str(job.id), job.kind, job.state, job.output, str(job.priority), _measure(job)) for job in jobs]
    return "\n".join(align(rows, left=4))


def _measure(job: "Job") -> str:
    if job.started is None:
        return "–"
    return format_duration((job.ended or time.time()) - job.started)
