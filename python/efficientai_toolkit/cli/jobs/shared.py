"""What the commands about jobs share."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.workspace.folder import WORKSPACE

if TYPE_CHECKING:
    from efficientai_toolkit.jobs.job import Job
    from efficientai_toolkit.jobs.queue import Jobs


def add_workspace(parser: ArgumentParser) -> None:
    """Add the folder of the workspace."""
    parser.add_argument(
        "--workspace",
        metavar="FOLDER",
        default=WORKSPACE,
        help=f"folder with data, runs and jobs (default: {WORKSPACE})",
    )


def add_job(parser: ArgumentParser) -> None:
    """Add the number of a job and the folder of the workspace."""
    parser.add_argument("job", metavar="JOB", type=_number, help="number of the job, as jobs:list shows it")
    add_workspace(parser)


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        message = f"must be the number of a job, not {text!r}"
        raise ArgumentTypeError(message) from None


def add_downloads(parser: ArgumentParser) -> None:
    """Add the permission to download."""
    parser.add_argument(
        "--allow-downloads", action="store_true", help="let jobs name models of the hub, which are downloaded"
    )


def open_jobs(args: Namespace) -> "Jobs":
    """Open the jobs of an existing workspace.

    Raises
    ------
    ConfigError
        If there is no such folder.
    """
    from efficientai_toolkit.jobs.queue import Jobs

    if not Path(args.workspace).expanduser().is_dir():
        message = f"there is no workspace {args.workspace}: name it with --workspace, or make the folder"
        raise ConfigError(message)
    return Jobs(args.workspace, allow_downloads=getattr(args, "allow_downloads", False))


def format_state(job: "Job") -> str:
    """Return the state of a job as text."""
    return f"job {job.id} ({job.kind}) is {job.state}"


def describe(job: "Job") -> dict[str, Any]:
    """Return a job as JSON."""
    from dataclasses import asdict

    return asdict(job)
