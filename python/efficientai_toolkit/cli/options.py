"""Command-line options derived from configuration classes."""

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TypeVar, cast

from efficientai_toolkit._base.aliases import HINTS, find_option
from efficientai_toolkit._base.config import Config, Option, list_options
from efficientai_toolkit.cli.aliases import translate
from efficientai_toolkit.exceptions import ConfigError

C = TypeVar("C", bound=Config)


class Parser(argparse.ArgumentParser):
    """Argument parser that raises :class:`ConfigError`, knows the names of other tools and suggests options.

    Parameters
    ----------
    essential
        Names of the options that ``--help`` shows; ``--help-all`` shows the others too. By default all.
    **settings
        Those of :class:`argparse.ArgumentParser`.
    """

    def __init__(self, *, essential: Sequence[str] = (), **settings: Any) -> None:
        super().__init__(**settings, add_help=False, allow_abbrev=False)
        self._essential = essential
        # argparse takes -1e-3 for an option.
        self._negative_number_matcher = re.compile(r"^-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE)
        self.add_argument("-h", "--help", action="help", help="show the common options, and exit")
        self.add_argument("--help-all", action=_HelpAll, nargs=0, help="show all options, and exit")

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse arguments after translating the names of other tools."""
        return self.parse_args(translate(words, self._option_string_actions))

    def format_help(self) -> str:
        """Return the text of ``--help``."""
        if not self._essential:
            return self.format_all_help()
        actions = {action.dest: action for action in self._actions}
        formatter = self._get_formatter()
        formatter.add_usage(self._describe_usage(), self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        formatter.start_section("options")
        formatter.add_arguments([actions[name] for name in self._essential])
        formatter.end_section()
        more = len(self._actions) - len(self._essential)
        formatter.add_text(f"`{self.prog} --help-all` lists {more} more.")
        return formatter.format_help()

    def format_all_help(self) -> str:
        """Return the text of ``--help-all``: every option, in groups."""
        self.usage = self._describe_usage()
        return super().format_help()

    def _describe_usage(self) -> str:
        """Return the arguments without an option; the others are listed below."""
        names = [
            f"[{action.metavar}]" if action.nargs == "?" else str(action.metavar)
            for action in self._actions
            if not action.option_strings
        ]
        return " ".join(["%(prog)s", *names, "[options]"])

    def error(self, message: str) -> NoReturn:
        """Raise :class:`ConfigError` instead of exiting."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            message = f"unknown option {unknown.split()[0]}; {self._suggest(unknown.split()[0])}"
        # "argument --lr: must be …" reads better as "--lr must be …".
        raise ConfigError(re.sub(r"^argument (?:-\w/)?([^:]+): ", r"\1 ", message))

    def _suggest(self, word: str) -> str:
        name = word.partition("=")[0].replace("_", "-")
        if name in HINTS:
            return HINTS[name]
        meant = find_option(name, self._option_string_actions)
        return f"did you mean {meant}?" if meant else f"see `{self.prog} --help-all`"


class _HelpAll(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        """Print the help with every option and exit."""
        sys.stdout.write(cast("Parser", parser).format_all_help())
        parser.exit()


def add_config(
    parser: argparse.ArgumentParser,
    config: type[Config],
    *,
    title: str,
    with_file: bool = True,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Add one option per field, and ``--config`` if ``with_file``.

    Options that are not given are absent from the namespace, so that the file or the default applies.
    ``groups`` are the fields of each further group by its title; they leave the group ``title``.
    """
    group = parser.add_argument_group(title)
    if with_file:
        group.add_argument(
            "--config", metavar="FILE", help="YAML, JSON or TOML file of these settings; options override it"
        )
    options = {option.name: option for option in list_options(config)}
    grouped = [name for names in (groups or {}).values() for name in names]
    for name, option in options.items():
        if name not in grouped:
            _add(group.add_argument, option)
    for further, names in (groups or {}).items():
        section = parser.add_argument_group(further)
        for name in names:
            _add(section.add_argument, options[name])


def build_config(args: argparse.Namespace, config: type[C], *, with_file: bool = True) -> C:
    """Build a configuration from options, the file and defaults, in this order of precedence."""
    base = config.from_file(args.config) if with_file and args.config is not None else config()
    given = {
        option.name: getattr(args, option.name) for option in list_options(config) if option.name in args
    }
    return base.with_values({name: _flatten(value) for name, value in given.items()})


def describe_default(option: Option) -> str:
    """Return the default as typed on the command line; empty if the help text explains it."""
    if option.default in (None, [], {}):
        return ""
    if option.repeated:
        return (option.separator or ",").join(map(str, option.default))
    if isinstance(option.default, bool):
        return "yes" if option.default else "no"
    return f"{option.default:g}" if isinstance(option.default, float) else str(option.default)


def _add(add_argument: Callable[..., object], option: Option) -> None:
    default = describe_default(option)
    help_text = (option.help + (f" (default: {default})" if default else "")).replace("%", "%%")
    common: dict[str, Any] = {"dest": option.name, "default": argparse.SUPPRESS, "help": help_text}
    if option.kind is bool:
        add_argument(option.flag, action=argparse.BooleanOptionalAction, **common)
        return
    metavar = {str: "TEXT", int: "N", float: "X", object: "NAME=VALUE"}[option.kind]
    if option.choices:
        metavar = "{" + ",".join(option.choices) + "}"
    if option.repeated:
        common["action"] = "append"
        metavar = "A,B" if option.separator else metavar
    if option.keyed and option.separator:
        metavar = "A=N,B=N"
    elif option.keyed:
        common["action"] = "append"
        metavar = "NAME=VALUE"
    add_argument(option.flag, type=_reader(option), metavar=metavar, **common)


def _reader(option: Option) -> Callable[[str], Any]:
    """Return the parser of an option's text."""

    def read(text: str) -> Any:
        value: object = text
        if option.kind is int and not (option.keyed or option.repeated):
            # Left as text where it is no number: the option's own check then says so.
            with suppress(ValueError):
                value = int(text)
        elif option.repeated and option.separator is None:
            value = [text]
        try:
            return option.convert(value)
        except ConfigError as error:
            # argparse swallows a ValueError, and writes the option's name itself.
            raise argparse.ArgumentTypeError(str(error).removeprefix(f"`{option.name}` ")) from None

    return read


def _flatten(value: Any) -> Any:
    """Join the lists, or the mappings, of a repeated option."""
    if isinstance(value, list) and all(isinstance(part, dict) for part in cast("list[object]", value)):
        return {name: item for part in cast("list[dict[str, Any]]", value) for name, item in part.items()}
    if isinstance(value, list):
        return [part for parts in cast("list[list[Any]]", value) for part in parts]
    return value
