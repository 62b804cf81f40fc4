"""``serve:key``: make an API key."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from efficientai_toolkit.cli.output import Output


def add_arguments(parser: ArgumentParser) -> None:
    """Add the name and the file."""
    parser.add_argument("name", metavar="NAME", help="whose key it is")
    parser.add_argument(
        "--api-key-file", metavar="FILE", default="keys.txt", help="file of keys (default: keys.txt)"
    )
    parser.add_argument("--admin", action="store_true", help="let the key deploy and load adapters, too")


def run(args: Namespace, out: Output) -> int:
    """Print the key, which is stored nowhere."""
    from efficientai_toolkit.server.keys import create_key

    key = create_key(Path(args.api_key_file).expanduser(), args.name, is_admin=args.admin)
    out.note(f"added {args.name} to {args.api_key_file}; the key is not shown again:")
    out.line(key)
    out.result({"name": args.name, "key": key, "file": args.api_key_file, "admin": args.admin})
    return 0
