"""``NAMESPACE:info``: describe a namespace, its commands and defaults."""

from collections.abc import Mapping

from efficientai_toolkit._base.config import Config, Option, list_options
from efficientai_toolkit.cli.commands import COMMANDS, find_namespace
from efficientai_toolkit.cli.options import describe_default
from efficientai_toolkit.cli.output import Output, format_pairs, wrap_paragraph


def explain(folder: str, about: str, configs: Mapping[str, type[Config]], out: Output) -> None:
    """Print the description of the namespace in ``folder``.

    ``about`` is a short text, ``configs`` maps commands to their configuration classes.
    """
    namespace = find_namespace(folder)
    commands = [command for command in COMMANDS if command.name.startswith(f"{namespace}:")]
    out.line(wrap_paragraph(about, indent=""))
    out.line("\ncommands")
    out.line(format_pairs([(f"  {command.name}", command.summary) for command in commands]))
    for title, config in configs.items():
        out.line(f"\noptions of :{title} and their defaults")
        out.line(format_pairs([(f"  {option.flag}", _explain(option)) for option in list_options(config)]))
    out.result(
        {
            "namespace": namespace,
            "about": about,
            "commands": {command.name: command.summary for command in commands},
            "defaults": {title: config().to_dict() for title, config in configs.items()},
        }
    )


def _explain(option: Option) -> str:
    default = describe_default(option)
    return f"[{default}] {option.help}" if default else option.help
