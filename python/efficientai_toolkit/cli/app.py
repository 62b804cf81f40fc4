"""Entry point of the command line: dispatches commands and reports errors."""

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from io import StringIO

from efficientai_toolkit.cli.commands import COMMANDS, PROGRAM, Command
from efficientai_toolkit.cli.options import Parser
from efficientai_toolkit.cli.output import Output, format_pairs
from efficientai_toolkit.cli.shared.progress import PROGRESS
from efficientai_toolkit.exceptions import ConfigError, ToolkitError

FAILED = 2
INTERRUPTED = 130
BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Arguments without the program name; ``sys.argv[1:]`` by default.

    Returns
    -------
    int
        0, or 2 after an error, 130 after Ctrl-C, 141 if the output pipe was closed.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Closed ones, as after `>&-`, are None: their text goes nowhere.
    sys.stdout = sys.stdout or StringIO()
    sys.stderr = sys.stderr or StringIO()
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            # A terminal that cannot show a character must not end the run.
            reconfigure(errors="replace")
    try:
        return _dispatch(arguments)
    except (ToolkitError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            # Python would complain again when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return BROKEN_PIPE
        if "--debug" in arguments:
            raise
        message = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
        Output(as_json="--json" in arguments).result({"error": type(error).__name__, "message": message})
        sys.stderr.write(f"error: {message}\n")
        return FAILED
    except KeyboardInterrupt as interrupt:
        sys.stderr.write(f"{str(interrupt) or 'interrupted'}\n")
        return INTERRUPTED


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        sys.stdout.write(describe_commands())
        return 0
    if arguments[0] == "--version":
        from efficientai_toolkit._base.version import __version__

        sys.stdout.write(f"{PROGRAM} {__version__}\n")
        return 0
    if len(arguments) > 1 and f"{arguments[0]}:{arguments[1]}" in (c.name for c in COMMANDS):
        # `benchmark run` is `benchmark:run`.
        arguments[:2] = [":".join(arguments[:2])]
    command = find_command(arguments[0])
    args = build_parser(command).parse(arguments[1:])
    args.argv = arguments
    return command.load().run(args, Output(as_json=args.json, quiet=args.quiet))


def build_parser(command: Command) -> Parser:
    """Return the parser of a command's options."""
    module = command.load()
    parser = Parser(
        prog=f"{PROGRAM} {command.name}",
        description=f"{command.summary[0].upper()}{command.summary[1:]}.",
        essential=getattr(module, "ESSENTIAL", ()),
    )
    module.add_arguments(parser)
    _add_common(parser)
    return parser


def find_command(name: str) -> Command:
    """Return the command named ``name``.

    Raises
    ------
    ConfigError
        If there is no such command; the message suggests the closest one.
    """
    names = {command.name: command for command in COMMANDS}
    if name in names:
        return names[name]
    inside = [known for known in names if known.startswith(f"{name.rstrip(':')}:")]
    if inside:
        message = f"{name} needs a command: {', '.join(inside)}"
        raise ConfigError(message)
    # `train` alone, or with another namespace, still finds `lora-finetuning-mlx:train`.
    tails = {known.rpartition(":")[2]: known for known in reversed(names)}
    tail = tails.get(name.rpartition(":")[2])
    closest = get_close_matches(name, names, n=1, cutoff=0.5) or ([tail] if tail else [])
    hint = f"; did you mean {closest[0]}?" if closest else f"; `{PROGRAM} --help` lists the commands"
    message = f"unknown command {name}{hint}"
    raise ConfigError(message)


def describe_commands() -> str:
    """Return the text of ``--help``."""
    rows = format_pairs([(f"  {command.name}", command.summary) for command in COMMANDS])
    return (
        f"usage: {PROGRAM} COMMAND [options]\n\n"
        "Fine-tune, compress and ship models on the machine you have: Metal, CUDA or CPU.\n\n"
        f"commands:\n{rows}\n\n"
        f"`{PROGRAM} COMMAND --help` lists the common options,\n`--help-all` all of them.\n"
    )


def _add_common(parser: Parser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    group.add_argument("--quiet", action="store_true", help="print the result only")
    group.add_argument(
        "--progress", choices=PROGRESS, default="bar", help="how progress is shown (default: bar)"
    )
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")
