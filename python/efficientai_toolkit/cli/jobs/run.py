"""``jobs:run``: run the queued jobs."""

from argparse import ArgumentParser, Namespace

from efficientai_toolkit.cli.jobs.shared import (
    add_downloads,
    add_workspace,
    describe,
    format_state,
    open_jobs,
)
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.exceptions import ConfigError


def add_arguments(parser: ArgumentParser) -> None:
    """Add the workspace."""
    add_workspace(parser)
    parser.add_argument(
        "--max-jobs", metavar="N", type=int, default=1, help="jobs that run at once (default: 1)"
    )
    add_downloads(parser)


def run(args: Namespace, out: Output) -> int:
    """Run jobs until none waits; Ctrl-C interrupts them, and the next call continues them."""
    from efficientai_toolkit.cli.jobs.progress import show_events
    from efficientai_toolkit.jobs.lock import RunnerLock
    from efficientai_toolkit.jobs.runner import Runner

    jobs = open_jobs(args)
    if args.max_jobs < 1:
        message = f"--max-jobs must be at least 1, not {args.max_jobs}"
        raise ConfigError(message)
    if RunnerLock.is_held(jobs.workspace):
        message = f"another process runs the jobs of {jobs.workspace.path} already"
        raise ConfigError(message)
    done: list[int] = []
    with Runner(jobs, max_running=args.max_jobs):
        while waiting := jobs.list(states=("queued", "running", "interrupted")):
            running = [job for job in waiting if job.state == "running"]
            # Those that wait begin within a moment.
            for job in running or sorted(waiting, key=lambda job: (-job.priority, job.id))[:1]:
                out.note(format_state(job))
                show_events(jobs.events(job.id, job.events, follow=True), args, out)
                done.append(job.id)
    ended = [jobs.get(number) for number in done]
    for job in ended:
        out.line(f"{format_state(job)}" + (f": {job.error}" if job.error else f", in {job.output}"))
    if not ended:
        out.line("no job waits")
    out.result({"jobs": [describe(job) for job in ended]})
    return 0
