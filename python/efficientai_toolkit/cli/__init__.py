"""``efficientai-toolkit NAMESPACE:COMMAND``."""

from efficientai_toolkit.cli.app import main

__all__ = ["main"]
