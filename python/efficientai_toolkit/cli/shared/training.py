"""The training settings that a command line means."""

from argparse import Namespace

from efficientai_toolkit._base.assets import DEMO
from efficientai_toolkit.cli.options import config_from
from efficientai_toolkit.lora import TrainingConfig


def training_config(args: Namespace) -> TrainingConfig:
    """Options beat ``--config``, which beats the defaults; without a model, ``demo.yaml`` is the file."""
    if args.config is None and "model_path" not in args:
        args.config = DEMO
    return config_from(args, TrainingConfig)
