"""Configurations of runs; without options, a small demonstration."""

from argparse import Namespace
from typing import TypeVar

from efficientai_toolkit._base.assets import DEMO
from efficientai_toolkit._base.config import Config
from efficientai_toolkit.cli.options import build_config

C = TypeVar("C", bound=Config)


def build_training_config(args: Namespace, config: type[C]) -> C:
    """Build a configuration; without a model and ``--config``, ``demo.yaml`` is used."""
    if args.config is None and "model_path" not in args:
        args.config = DEMO
    return build_config(args, config)
