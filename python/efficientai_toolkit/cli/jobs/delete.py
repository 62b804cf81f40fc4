"""``jobs:delete``: forget a job."""

from argparse import ArgumentParser, Namespace

from efficientai_toolkit.cli.jobs.shared import add_job, open_jobs
from efficientai_toolkit.cli.output import Output


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job."""
    add_job(parser)
    parser.add_argument("--files", action="store_true", help="remove its output folder, too")


def run(args: Namespace, out: Output) -> int:
    """Forget the job with its events."""
    open_jobs(args).delete(args.job, files=args.files)
    out.line(f"job {args.job} is deleted" + (" with its files" if args.files else ""))
    out.result({"id": args.job, "deleted": True, "files": args.files})
    return 0
