"""``jobs:follow``: show the progress of a job."""

from argparse import ArgumentParser, Namespace

from efficientai_toolkit.cli.jobs.shared import add_job, describe, format_state, open_jobs
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.exceptions import TrainingError


def add_arguments(parser: ArgumentParser) -> None:
    """Add the job."""
    add_job(parser)
    parser.add_argument(
        "--after", metavar="N", type=int, default=0, help="begin after this event (default: with the first)"
    )


def run(args: Namespace, out: Output) -> int:
    """Show events until the job has ended; Ctrl-C ends the command, not the job."""
    from efficientai_toolkit.cli.jobs.progress import show_events
    from efficientai_toolkit.jobs.lock import RunnerLock

    jobs = open_jobs(args)
    if not jobs.get(args.job).has_ended and not RunnerLock.is_held(jobs.workspace):
        out.note("nothing runs the jobs of this workspace now: start jobs:run, or a server with --workspace")
    show_events(jobs.events(args.job, args.after, follow=True), args, out)
    job = jobs.get(args.job)
    if job.state == "failed":
        message = f"job {job.id} failed: {job.error}"
        raise TrainingError(message)
    out.line(f"{format_state(job)}; its output folder is {job.folder(jobs.workspace.path)}")
    out.result(describe(job))
    return 0
