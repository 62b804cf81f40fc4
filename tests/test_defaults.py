"""The engine's defaults are the truth; the dataclasses repeat names, order and values."""

import json

import pytest

from efficientai_toolkit._base.config import Config
from efficientai_toolkit.distill import DistillConfig
from efficientai_toolkit.lora import TrainingConfig
from efficientai_toolkit.models.generation import GenerateConfig
from efficientai_toolkit.prune import PruneConfig
from efficientai_toolkit.quantize import QuantizeConfig, SubsetConfig


@pytest.mark.parametrize(
    ("room", "config"),
    [
        ("lora", TrainingConfig),
        ("generate", GenerateConfig),
        ("distill", DistillConfig),
        ("prune", PruneConfig),
        ("quantize", QuantizeConfig),
        ("subset", SubsetConfig),
    ],
)
def test_defaults_equal_the_engines(room: str, config: type[Config]) -> None:
    from efficientai_toolkit._engine.core import core

    expected = json.loads(getattr(core, room).defaults())
    assert list(json.loads(config().to_json()).items()) == list(expected.items())
