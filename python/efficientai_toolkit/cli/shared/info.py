"""``NAMESPACE:info``: what a namespace does, its commands and defaults."""

from collections.abc import Mapping

from efficientai_toolkit._base.config import Config, Option, options
from efficientai_toolkit.cli.commands import COMMANDS, namespace_of
from efficientai_toolkit.cli.options import describe_default, flag
from efficientai_toolkit.cli.output import Output, paragraph, table


def explain(folder: str, about: str, configs: Mapping[str, type[Config]], out: Output) -> None:
    """Print what the namespace of ``folder`` does.

    ``about`` is a few lines for people, ``configs`` has the settings of each command that has some.
    """
    namespace = namespace_of(folder)
    commands = [command for command in COMMANDS if command.name.startswith(f"{namespace}:")]
    out.line(paragraph(about, indent=""))
    out.line("\ncommands")
    out.line(table([(f"  {command.name}", command.summary) for command in commands]))
    for title, config in configs.items():
        out.line(f"\noptions of :{title} and their defaults")
        out.line(table([(f"  {flag(option.name)}", _explain(option)) for option in options(config)]))
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
