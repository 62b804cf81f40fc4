"""What a user finds behind a dot, with the tab key too."""

import importlib
import pickle
import subprocess
import sys
from types import ModuleType

import pytest

import efficientai_toolkit as eat
from efficientai_toolkit import _core, callbacks


@pytest.mark.parametrize(
    "module",
    [eat, eat.lora, eat.benchmark, eat.distill, eat.prune, eat.quantize, eat.exports, callbacks],
    ids=lambda module: module.__name__,
)
def test_every_public_name_is_there_and_completes(module: ModuleType) -> None:
    assert set(module.__all__) == set(dir(module))
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute 'nothing'"):
        _ = module.nothing


def test_the_doors_of_the_lora_room() -> None:
    doors = {"TrainingConfig", "MLXTrainer", "compare", "optimize", "analyze", "evaluate", "fuse", "convert"}
    assert doors <= set(dir(eat.lora))


def test_models_and_tokenizers_have_public_types() -> None:
    model, tokenizer = eat.load()
    assert isinstance(model, eat.Model)
    assert isinstance(tokenizer, eat.Tokenizer)


@pytest.mark.parametrize("room", _core.__all__)
def test_rooms_of_the_engine_are_importable(room: str) -> None:
    name = f"efficientai_toolkit._core.{room}"
    assert importlib.import_module(name) is getattr(_core, room)
    assert getattr(_core, room).__name__ == name


@pytest.mark.parametrize("public", [eat.Model, eat.Tokenizer])
def test_classes_of_the_engine_survive_pickling(public: type) -> None:
    assert pickle.loads(pickle.dumps(public)) is public


def test_importing_the_package_loads_no_engine() -> None:
    code = (
        "import sys, efficientai_toolkit; print({'mlx.core', 'efficientai_toolkit._core'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
