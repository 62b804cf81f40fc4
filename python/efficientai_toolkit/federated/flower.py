"""The door to Flower, an optional dependency: nothing is sent home, and its log is ours."""

import logging
import os

from efficientai_toolkit._base import extras
from efficientai_toolkit.exceptions import DependencyError

_QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
"""Flower reports every start to its makers unless it is told not to."""


def quiet_environment() -> dict[str, str]:
    """Return the environment of Flower's processes, without telemetry and update checks."""
    return {**os.environ, **_QUIET}


def silence() -> None:
    """Switch telemetry off, before Flower is imported, and messages that are no warnings."""
    os.environ.update(_QUIET)
    logging.getLogger("flwr").setLevel(logging.WARNING)


def missing(error: ImportError) -> DependencyError:
    """Return the error that tells how to install Flower."""
    return extras.missing(error, module="flwr", extra="federated", purpose="federated learning")


def find_version() -> str:
    """Return the installed version of Flower.

    Raises
    ------
    DependencyError
        If it is not installed.
    """
    from importlib.metadata import version

    silence()
    return version(extras.require("flwr", extra="federated", purpose="federated learning").__name__)
