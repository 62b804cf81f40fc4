"""Contrastive fine-tuning: what it learns, what it leaves alone, resuming, and the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import efficientai_toolkit as eat
from efficientai_toolkit.callbacks.training import Step
from efficientai_toolkit.cli import main
from efficientai_toolkit.clip import ClipConfig, ClipTrainer
from efficientai_toolkit.exceptions import ConfigError, DatasetError, ToolkitError
from support.clip import write_model

if TYPE_CHECKING:
    from efficientai_toolkit.callbacks.events import Event

COLORS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "pink": (255, 128, 200),
    "cyan": (0, 255, 255),
    "gold": (200, 160, 0),
}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Images of one color each, with its name."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    lines: list[str] = []
    for name, color in COLORS.items():
        Image.new("RGB", (40, 36), color).save(folder / f"{name}.png")
        lines.append(json.dumps({"image": f"{name}.png", "text": name}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def settings(model: Path, pairs: Path, output: Path, **changes: Any) -> ClipConfig:
    chosen: dict[str, Any] = {
        "model_path": str(model),
        "data": str(pairs),
        "validation_data": str(pairs),
        "output": str(output),
        "batch_size": 8,
        "method": "full",
        "lr": 2e-3,
        "iters": 40,
        "eval_every": 0,
        "save_every": 0,
    }
    return ClipConfig(**chosen | changes)


def recall(model: eat.clip.ClipModel, pairs: Path) -> float:
    images = model.encode_image([pairs / f"{name}.png" for name in COLORS], normalize=True)
    texts = model.encode_text(list(COLORS), normalize=True)
    return eat.clip.evaluate_retrieval(images, texts, k=[1]).image_to_text[1]


@pytest.mark.parametrize(
    ("kind", "method"), [("clip", "full"), ("siglip", "full"), ("clip", "lora"), ("siglip", "dora")]
)
def test_pairs_are_learned(tmp_path: Path, pairs: Path, kind: str, method: str) -> None:
    folder = write_model(tmp_path / "model", kind, seed=1)
    before, _ = eat.clip.load(folder)
    changes: dict[str, Any] = {} if method == "full" else {"lr": 1e-2, "lora_rank": 8}
    trainer = ClipTrainer(settings(folder, pairs, tmp_path / "out", method=method, **changes))
    result = trainer.train()
    assert result.loss_before is not None
    assert result.loss_after is not None
    assert result.loss_after < 0.5 * result.loss_before
    assert recall(before, pairs) < 0.6
    assert trainer.model is not None
    assert recall(trainer.model, pairs) == 1.0
    if method == "full":
        loaded, _ = eat.clip.load(tmp_path / "out")
    else:
        loaded, _ = eat.clip.load(folder, tmp_path / "out")
        loaded.save(tmp_path / "merged")
        merged, _ = eat.clip.load(tmp_path / "merged")
        difference = merged.encode_text("red") - loaded.encode_text("red")
        assert np.abs(difference).max() < 1e-4
    assert np.allclose(loaded.encode_text("red"), trainer.model.encode_text("red"), atol=1e-5)


def test_a_frozen_tower_stays(tmp_path: Path, pairs: Path) -> None:
    folder = write_model(tmp_path / "model")
    ClipTrainer(settings(folder, pairs, tmp_path / "full", freeze=["vision"], iters=3)).train()
    old, new = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "full"))
    changed = {name for name in old if not np.array_equal(old[name], new[name])}
    assert changed
    assert all(name.startswith("text") or name == "logit_scale" for name in changed)
    ClipTrainer(settings(folder, pairs, tmp_path / "lora", method="lora", freeze=["text"], iters=3)).train()
    adapter = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    assert adapter
    assert all("vision_model" in name or "visual_projection" in name for name in adapter)


def test_an_interrupted_run_continues_as_if_it_had_not_been(tmp_path: Path, pairs: Path) -> None:
    folder = write_model(tmp_path / "model")
    options: dict[str, Any] = {"iters": 7, "batch_size": 3, "method": "lora", "lora_dropout": 0.2}
    whole = ClipTrainer(settings(folder, pairs, tmp_path / "whole", **options)).train()

    def stop(event: Event) -> None:
        if isinstance(event, Step) and event.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ClipTrainer(settings(folder, pairs, tmp_path / "part", **options), callback=stop).train()
    part = ClipTrainer(settings(folder, pairs, tmp_path / "part", resume=True, **options)).train()
    assert part.metrics["resumed_from"] == 4
    assert part.metrics["train_losses"] == whole.metrics["train_losses"]
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "part"))
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_gradient_checkpointing_changes_nothing(tmp_path: Path, pairs: Path) -> None:
    folder = write_model(tmp_path / "model", "siglip")
    losses = [
        ClipTrainer(settings(folder, pairs, tmp_path / f"{every}", grad_checkpoint=every, iters=5)).train()
        for every in (0, 1)
    ]
    first, second = (result.metrics["train_losses"] for result in losses)
    assert np.allclose(first, second, rtol=1e-5)


def test_bad_input_is_named(tmp_path: Path, pairs: Path) -> None:
    folder = write_model(tmp_path / "model")
    cases: list[tuple[dict[str, Any], type[ToolkitError], str]] = [
        ({"batch_size": 1}, ConfigError, "batch_size is 1, expected 2 or more"),
        ({"freeze": ["vision", "text"]}, ConfigError, "nothing is left to train"),
        ({"loss": "siglip"}, ConfigError, "the model has no logit_bias"),
        ({"method": "lora", "target_modules": ["w1"]}, ConfigError, 'target_modules names "w1"'),
        ({"data": str(tmp_path / "none")}, DatasetError, "there is no folder or file"),
        ({"model_path": None}, ConfigError, "`model_path` is missing"),
        ({"validation_ratio": 1.0}, ConfigError, "validation_ratio is 1"),
    ]
    for changes, error, reason in cases:
        with pytest.raises(error, match=reason):
            ClipTrainer(settings(folder, pairs, tmp_path / "out", **changes)).train()
        assert not (tmp_path / "out").exists(), reason
    (pairs / "blue.png").write_bytes(b"damaged")
    with pytest.raises(DatasetError, match=r"blue.png: not an image"):
        ClipTrainer(settings(folder, pairs, tmp_path / "out")).train()
    (pairs / "metadata.jsonl").write_text('{"image": "red.png", "text": ""}\n')
    with pytest.raises(DatasetError, match=r"metadata.jsonl:1: the image red.png has no text"):
        ClipTrainer(settings(folder, pairs, tmp_path / "other")).train()


def test_commands(tmp_path: Path, pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_model(tmp_path / "model", seed=1)
    name, out = "multimodal-clip-finetuning", tmp_path / "out"
    common = ["--model-path", str(folder), "--data", str(pairs)]

    def call(command: str, *options: str) -> dict[str, Any]:
        assert main([f"{name}:{command}", *options, "--json"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    assert call("validate", *common, "--output", str(out))["ok"]
    assert not out.exists()
    trained = call(
        "train", *common, "--validation-data", str(pairs), "--output", str(out), "--method", "full",
        "--lr", "2e-3", "--iters", "40", "--batch-size", "8",
    )  # fmt: skip
    assert trained["loss_after"] < trained["loss_before"]
    model = ["--model-path", str(out)]
    assert call("evaluate", *model, "--data", str(pairs))["image_to_text"]["1"] == 1.0
    found = call("evaluate", *model, "--data", str(pairs), "--zero-shot", "--template", "{}")
    assert (found["accuracy"], found["images"]) == (1.0, 8)
    assert call("embed", *model, "--data", str(pairs), "--output", str(tmp_path / "index"))["images"] == 8
    matches = call("search", *model, "--index", str(tmp_path / "index"), "--query", "gold", "--count", "2")
    assert Path(matches["matches"][0]["image"]).name == "gold.png"
    index = eat.clip.ImageIndex.load(tmp_path / "index")
    with pytest.raises(ToolkitError, match="exists already"):
        index.save(tmp_path / "index")
    with pytest.raises(ToolkitError, match="is no index"):
        index.save(pairs, overwrite=True)
    with pytest.raises(DatasetError, match="is no index of images"):
        eat.clip.ImageIndex.load(pairs)


def test_an_open_clip_checkpoint_is_trained(tmp_path: Path, pairs: Path) -> None:
    eat.clip.load(write_model(tmp_path / "model"))[0].save(tmp_path / "open", format="open_clip")
    result = ClipTrainer(settings(tmp_path / "open", pairs, tmp_path / "out", iters=2)).train()
    assert result.metrics["steps"] == 2
    trained, _ = eat.clip.load(tmp_path / "out")
    assert trained.encode_text("red").shape == (1, 24)
