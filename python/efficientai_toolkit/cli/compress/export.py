"""``cpu-model-compression:export``: write a model in the format of another program."""

from efficientai_toolkit.cli.shared.export import ESSENTIAL, add_arguments, run

__all__ = ["ESSENTIAL", "add_arguments", "run"]
