"""``registry:register``: add a folder as the next version of a model."""

from argparse import ArgumentParser, Namespace

from efficientai_toolkit.cli.output import Output, format_pairs
from efficientai_toolkit.cli.registry.options import describe_version, read_metric, read_pair, to_values
from efficientai_toolkit.cli.shared.workspace import add_workspace

ESSENTIAL = (
    "name", "path", "alias", "kind", "parent", "base", "metric", "tag", "description", "outside", "workspace",
    "json",
)  # fmt: skip
"""What most registrations set."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the folder and what is told about it."""
    parser.add_argument("name", metavar="NAME", help="name of the model, new or known")
    parser.add_argument("path", metavar="PATH", help="folder of a model, adapter or checkpoint")
    parser.add_argument(
        "--alias", metavar="ALIAS", action="append", default=[], help="let this alias point to it; repeat it"
    )
    parser.add_argument(
        "--kind", choices=("model", "adapter", "checkpoint"), help="what it is (default: told by its files)"
    )
    parser.add_argument(
        "--parent",
        metavar="VERSION",
        help="version that it was made from (default: the one in the folder that the run began with)",
    )
    parser.add_argument(
        "--base", metavar="PATH", help="folder or hub id of its base model (default: as the run tells)"
    )
    parser.add_argument(
        "--metric",
        metavar="NAME=NUMBER",
        action="append",
        default=[],
        type=read_metric,
        help="metric beside those that the run reports; repeat it for more",
    )
    parser.add_argument(
        "--tag", metavar="NAME=TEXT", action="append", default=[], type=read_pair, help="tag; repeat it"
    )
    parser.add_argument("--description", metavar="TEXT", default="", help="what it is, in your words")
    parser.add_argument("--outside", action="store_true", help="allow a folder outside of the workspace")
    add_workspace(parser)


def run(args: Namespace, out: Output) -> int:
    """Register it, in a workspace that is created if need be."""
    from efficientai_toolkit.registry.registry import Registry

    version = Registry(args.workspace).register(
        args.name,
        args.path,
        kind=args.kind,
        parent=args.parent,
        base=args.base,
        metrics=dict(args.metric),
        tags=dict(args.tag),
        description=args.description,
        aliases=args.alias,
        outside=args.outside,
    )
    out.line(format_pairs(describe_version(version)))
    out.result(to_values(version))
    return 0
