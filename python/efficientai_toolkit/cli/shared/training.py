"""The settings that a command line means, where a run without options is a small one."""

from argparse import Namespace
from typing import TypeVar

from efficientai_toolkit._base.assets import DEMO
from efficientai_toolkit._base.config import Config
from efficientai_toolkit.cli.options import build_config

C = TypeVar("C", bound=Config)


def build_training_config(args: Namespace, config: type[C]) -> C:
    """Options beat ``--config``, which beats the defaults; without a model, ``demo.yaml`` is the file."""
    if args.config is None and "model_path" not in args:
        args.config = DEMO
    return build_config(args, config)
