"""``jobs:submit``: queue a job."""

import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from efficientai_toolkit._base.config import Option, read_pairs
from efficientai_toolkit.cli.jobs.shared import add_downloads, add_workspace, describe, open_jobs
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.jobs.kinds import find_kind


def add_arguments(parser: ArgumentParser) -> None:
    """Add the kind and its settings."""
    parser.add_argument("kind", metavar="KIND", help="kind of job; jobs:list --kinds lists them")
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        type=_split,
        action="append",
        default=[],
        help="setting, such as lr=1e-4; paths are relative to the workspace; repeat it for more",
    )
    parser.add_argument(
        "--config", metavar="FILE", help="YAML, JSON or TOML file of settings; --set overrides it"
    )
    parser.add_argument(
        "--priority", metavar="N", type=int, default=0, help="jobs with a higher one run first (default: 0)"
    )
    add_workspace(parser)
    add_downloads(parser)


def run(args: Namespace, out: Output) -> int:
    """Queue the job, and print its number."""
    known = find_kind(args.kind).list_settings()
    settings = {} if args.config is None else read_pairs(Path(args.config))
    settings |= {name: _read(known.get(name), text) for name, text in args.set}
    jobs = open_jobs(args)
    job = jobs.submit(args.kind, settings, priority=args.priority)
    out.line(f"job {job.id} is queued; its output folder is {job.folder(jobs.workspace.path)}")
    out.result(describe(job))
    return 0


def _split(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        message = f"must be NAME=VALUE, such as lr=1e-4, not {text!r}"
        raise ArgumentTypeError(message)
    return name.replace("-", "_"), value


def _read(option: Option | None, text: str) -> object:
    """Return a value as JSON has it; text stays text where the setting is one."""
    if option is None or option.separator is not None or (option.kind is str and not option.repeated):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
