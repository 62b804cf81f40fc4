"""What the systems that a program is for know."""

from collections.abc import Mapping
from dataclasses import dataclass

from efficientai_toolkit.exceptions import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The oldest system that a program runs on."""

    systems: str
    """Systems of the same year."""
    has_blocks: bool
    """Whether weights may have a scale for each block of columns, and a palette for each group of rows."""
    has_state: bool
    """Whether a program keeps keys and values from one prediction to the next."""


TARGETS: Mapping[str, Target] = {
    "iOS16": Target(systems="iOS 16 and macOS 13", has_blocks=False, has_state=False),
    "iOS17": Target(systems="iOS 17 and macOS 14", has_blocks=False, has_state=False),
    "iOS18": Target(systems="iOS 18 and macOS 15", has_blocks=True, has_state=True),
}
"""By the name of the target in coremltools."""


def check_type(kind: str, target: str) -> None:
    """Check that the systems of a target know a type.

    Raises
    ------
    ConfigError
        If they do not.
    """
    if kind == "int4" and not TARGETS[target].has_blocks:
        message = (
            f"`type` int4 has a scale for each block of columns, which {TARGETS[target].systems} do not "
            "know: choose palette4 or int8, or `minimum_deployment_target` iOS18"
        )
        raise ConfigError(message)
