"""Command-line options derived from configuration classes."""

import argparse
import re
from collections.abc import Callable
from contextlib import suppress
from difflib import get_close_matches
from typing import Any, NoReturn, TypeVar, cast

from efficientai_toolkit._base.config import Config, Option, list_options
from efficientai_toolkit.exceptions import ConfigError

C = TypeVar("C", bound=Config)


class Parser(argparse.ArgumentParser):
    """Argument parser that raises :class:`ConfigError` and suggests the closest option."""

    def error(self, message: str) -> NoReturn:
        """Raise :class:`ConfigError` instead of exiting."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            word = unknown.split()[0]
            # Without the dashes, which would make all short names alike.
            known = [name[2:] for name in self._option_string_actions if name.startswith("--")]
            closest = get_close_matches(word.partition("=")[0].lstrip("-"), known, n=1)
            hint = f"; did you mean --{closest[0]}?" if closest else f"; see `{self.prog} --help`"
            message = f"unknown option {word}{hint}"
        # "argument --lr: must be …" reads better as "--lr must be …".
        raise ConfigError(re.sub(r"^argument ([^:]+): ", r"\1 ", message))


def add_config(
    parser: argparse.ArgumentParser, config: type[Config], *, title: str, with_file: bool = True
) -> None:
    """Add one option per field, and ``--config`` if ``with_file``.

    Options that are not given are absent from the namespace, so that the file or the default applies.
    """
    group = parser.add_argument_group(title)
    if with_file:
        group.add_argument(
            "--config", metavar="FILE", help="YAML, JSON or TOML file of these settings; options win"
        )
    for option in list_options(config):
        _add(group.add_argument, option)


def build_config(args: argparse.Namespace, config: type[C], *, with_file: bool = True) -> C:
    """Build a configuration from options, the file and defaults, in this order of precedence."""
    base = config.from_file(args.config) if with_file and args.config is not None else config()
    given = {
        option.name: getattr(args, option.name) for option in list_options(config) if option.name in args
    }
    return base.with_values({name: _flatten(value) for name, value in given.items()})


def describe_default(option: Option) -> str:
    """Return the default as typed on the command line; empty if the help text explains it."""
    if option.default is None or option.default == []:
        return ""
    if option.repeated:
        return (option.separator or ",").join(option.default)
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
    add_argument(option.flag, type=_reader(option), metavar=metavar, **common)


def _reader(option: Option) -> Callable[[str], Any]:
    """Return the parser of an option's text."""

    def read(text: str) -> Any:
        value: object = text
        if option.kind is int and not option.keyed:
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
