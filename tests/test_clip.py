"""Image–text models: features, preprocessing, tokens, formats, evaluation, and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import efficientai_toolkit as eat
from efficientai_toolkit.exceptions import ConfigError, DatasetError, ModelLoadingError
from support.clip import Reference, byte_vocabulary, config, write_model, write_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

BOS, EOS = len(byte_vocabulary()) - 2, len(byte_vocabulary()) - 1


def pixels(count: int = 3, size: int = 32, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3, size, size)).astype(np.float32)


def token_rows(count: int = 4, length: int = 16, seed: int = 2) -> np.ndarray:
    rows = np.random.default_rng(seed).integers(0, BOS, size=(count, length))
    rows[:, 0] = BOS
    for i, row in enumerate(rows):
        row[3 + 2 * i :] = EOS
    return rows


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """An image with edges and gradients."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, size=(9, 11, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.NEAREST)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("clip", {}),
        ("clip", {"hidden_act": "gelu"}),
        ("siglip", {}),
        ("siglip", {"hidden_act": "gelu", "num_attention_heads": 4}),
    ],
)
def test_features_equal_the_definition(tmp_path: Path, kind: str, changes: dict[str, Any]) -> None:
    folder = write_model(tmp_path / "model", kind, seed=3, **changes)
    model, _ = eat.clip.load(folder)
    reference, images, ids = Reference(folder), pixels(), token_rows()
    assert relative(model.encode_image(images), reference.image_features(images)) < 1e-5
    assert relative(model.encode_text(ids), reference.text_features(ids)) < 1e-5
    # In parts, and of length 1.
    assert relative(model.encode_image(images, batch_size=2), reference.image_features(images)) < 1e-5
    lengths = np.linalg.norm(model.encode_text(ids, normalize=True, batch_size=3), axis=1)
    assert np.allclose(lengths, 1, atol=1e-6)


def test_logits_are_scaled_similarities(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "siglip", seed=4)
    model, _ = eat.clip.load(folder)
    reference, images, ids = Reference(folder), pixels(), token_rows()
    x, y = reference.image_features(images), reference.text_features(ids)
    x, y = (features / np.linalg.norm(features, axis=1, keepdims=True) for features in (x, y))
    assert model.logit_scale == pytest.approx(2.0)
    assert model.logit_bias == pytest.approx(-3.0)
    assert np.abs(model(images, ids) - (np.exp(2.0) * x @ y.T - 3.0)).max() < 1e-4


@pytest.mark.parametrize("eos", [2, EOS, 7])
def test_texts_are_pooled_at_the_token_of_the_configuration(tmp_path: Path, eos: int) -> None:
    folder = write_model(tmp_path / "model")
    described = config("clip")
    described["text_config"]["eos_token_id"] = eos
    (folder / "config.json").write_text(json.dumps(described))
    ids = token_rows()
    ids[0, 5:9] = 7
    ids[1, 6] = BOS + 1
    model, _ = eat.clip.load(folder)
    assert relative(model.encode_text(ids), Reference(folder).text_features(ids)) < 1e-5


def test_padding_after_the_end_changes_nothing(tmp_path: Path) -> None:
    model, processor = eat.clip.load(write_model(tmp_path / "model"))
    ids = processor(text=["a cat", "two dogs"])["input_ids"]
    zeros = np.where(np.cumsum(ids == EOS, axis=1) > 1, 0, ids)
    assert np.array_equal(model.encode_text(ids), model.encode_text(zeros))
    assert np.array_equal(model.encode_text(ids), model.encode_text(["a cat", "two dogs"]))


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("size", [(32, 32), (61, 40), (40, 333), (7, 9)])
def test_preprocessing_equals_pillow(tmp_path: Path, kind: str, size: tuple[int, int]) -> None:
    folder = write_model(tmp_path / "model", kind)
    _, processor = eat.clip.load(folder)
    image = picture(*size)
    image.save(tmp_path / "image.png")
    if kind == "siglip":
        resized, mean, std = (
            image.resize((32, 32), Image.Resampling.BICUBIC),
            np.full(3, 0.5),
            np.full(3, 0.5),
        )
    else:
        width, height = size
        short = min(size)
        resized = image.resize((32 * width // short, 32 * height // short), Image.Resampling.BICUBIC)
        left, top = (resized.width - 32) // 2, (resized.height - 32) // 2
        resized = resized.crop((left, top, left + 32, top + 32))
        mean = np.array([0.48145466, 0.4578275, 0.40821073])
        std = np.array([0.26862954, 0.26130258, 0.27577711])
    for given in (tmp_path / "image.png", str(tmp_path / "image.png"), image, np.asarray(image)):
        values = processor(images=given)["pixel_values"]
        assert values.shape == (1, 3, 32, 32)
        bytes_found = (values[0].transpose(1, 2, 0) * std + mean) * 255
        assert np.abs(bytes_found - np.asarray(resized, np.float64)).max() < 1.001


def test_images_are_taken_in_every_form(tmp_path: Path) -> None:
    model, processor = eat.clip.load(write_model(tmp_path / "model"))
    images = [picture(40, 50, seed) for seed in range(3)]
    paths = [tmp_path / f"{i}.webp" for i in range(3)]
    for image, path in zip(images, paths, strict=True):
        image.save(path, lossless=True)
    expected = model.encode_image(images)
    for given in (paths, [np.asarray(image) for image in images], np.stack([np.asarray(i) for i in images])):
        assert np.array_equal(model.encode_image(given), expected)
    assert np.allclose(model.encode_image(processor(images=paths)["pixel_values"]), expected, atol=1e-6)
    assert np.allclose(model.encode_image(paths[0]), expected[:1], atol=1e-6)


def test_tokens_are_those_of_the_files(tmp_path: Path) -> None:
    _, processor = eat.clip.load(write_model(tmp_path / "model"))
    vocab = byte_vocabulary()
    row = processor(text="A &amp;  b")["input_ids"][0].tolist()
    assert row == [BOS, vocab["a</w>"], vocab["&</w>"], vocab["b</w>"], *[EOS] * 12]
    with pytest.raises(DatasetError, match="has 22 tokens, more than 16"):
        processor(text="a" * 20)
    row = processor(text="a" * 20, truncate=True)["input_ids"][0]
    assert (row[0], row[-1], len(row)) == (BOS, EOS, 16)


def test_an_open_clip_checkpoint_is_the_same_model(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", seed=5)
    described = config("clip")
    described["text_config"]["num_attention_heads"] = 4
    (folder / "config.json").write_text(json.dumps(described))
    model, _ = eat.clip.load(folder)
    model.save(tmp_path / "open", format="open_clip")
    written = json.loads((tmp_path / "open" / "open_clip_config.json").read_text())
    assert written["model_cfg"]["vision_cfg"] == {
        "image_size": 32, "layers": 2, "width": 32, "head_width": 16, "mlp_ratio": 1.5, "patch_size": 8,
    }  # fmt: skip
    names = set(load_file(tmp_path / "open" / "open_clip_model.safetensors"))
    assert {
        "visual.conv1.weight",
        "visual.proj",
        "visual.transformer.resblocks.1.attn.in_proj_weight",
        "transformer.resblocks.0.mlp.c_proj.bias",
        "text_projection",
        "positional_embedding",
        "ln_final.weight",
    } <= names
    again, processor = eat.clip.load(tmp_path / "open")
    images, ids = pixels(), token_rows()
    assert np.array_equal(again.encode_image(images), model.encode_image(images))
    assert np.array_equal(again.encode_text(ids), model.encode_text(ids))
    # open_clip fills rows with zeros.
    assert processor(text="a")["input_ids"][0].tolist()[2:4] == [EOS, 0]
    again.save(tmp_path / "back")
    stored, original = (load_file(path / "model.safetensors") for path in (tmp_path / "back", folder))
    assert stored.keys() == original.keys()
    assert all(np.array_equal(stored[name], original[name]) for name in original)


def test_a_saved_siglip_is_the_stored_one(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "siglip")
    eat.clip.load(folder)[0].save(tmp_path / "copy")
    stored, original = (load_file(path / "model.safetensors") for path in (tmp_path / "copy", folder))
    assert stored.keys() == original.keys()
    assert all(np.array_equal(stored[name], original[name]) for name in original)
    with pytest.raises(ConfigError, match='model_type is "siglip"'):
        eat.clip.load(folder)[0].save(tmp_path / "open", format="open_clip")
    assert not (tmp_path / "open").exists()


@pytest.mark.parametrize("interpolation", ["huggingface", "open_clip"])
def test_images_of_another_size(tmp_path: Path, interpolation: Any) -> None:
    folder = write_model(tmp_path / "model")
    model, processor = eat.clip.load(folder, image_size=48, interpolation=interpolation)
    assert (model.image_size, processor.image_size) == (48, 48)
    model.save(tmp_path / "larger")
    stored = load_file(tmp_path / "larger" / "model.safetensors")
    table = stored["vision_model.embeddings.position_embedding.weight"]
    original = load_file(folder / "model.safetensors")["vision_model.embeddings.position_embedding.weight"]
    assert table.shape == (37, 32)
    assert np.array_equal(table[0], original[0])
    images = pixels(size=48)
    reference = Reference(tmp_path / "larger")
    assert relative(model.encode_image(images), reference.image_features(images)) < 1e-5
    assert (
        relative(eat.clip.load(tmp_path / "larger")[0].encode_image(images), model.encode_image(images))
        < 1e-6
    )


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_towers_that_mlx_quantized(tmp_path: Path, kind: str) -> None:
    folder = write_model(tmp_path / "model", kind, hidden_size=64, intermediate_size=128)
    weights = load_file(folder / "model.safetensors")
    described = json.loads((folder / "config.json").read_text())
    described["quantization"] = {"group_size": 32, "bits": 8}
    stored, exact = dict(weights), dict(weights)
    for name, value in weights.items():
        linear = name.endswith(".weight") and value.ndim == 2 and "in_proj" not in name
        if linear and value.shape[1] % 32 == 0:
            packed, scales, biases = mx.quantize(mx.array(value), group_size=32, bits=8)
            path = name.removesuffix("weight")
            stored |= {name: packed, f"{path}scales": scales, f"{path}biases": biases}
            stored = {key: np.array(array) for key, array in stored.items()}
            exact[name] = np.array(mx.dequantize(packed, scales, biases, group_size=32, bits=8))
    (folder / "config.json").write_text(json.dumps(described))
    save_file(exact, folder / "model.safetensors")
    reference = Reference(folder)
    save_file(stored, folder / "model.safetensors")
    model, _ = eat.clip.load(folder)
    images, ids = pixels(), token_rows()
    assert relative(model.encode_image(images), reference.image_features(images)) < 1e-4
    assert relative(model.encode_text(ids), reference.text_features(ids)) < 1e-4


def test_zero_shot_and_retrieval(tmp_path: Path) -> None:
    model, _ = eat.clip.load(write_model(tmp_path / "model"))
    images, labels = pixels(6), ["cat", "dog", "bird"]
    probabilities = eat.clip.classify(model, images, labels, templates=["a {}", "{}!"])
    assert probabilities.shape == (6, 3)
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    targets = probabilities.argmax(axis=1).tolist()
    result = eat.clip.evaluate_zero_shot(model, images, targets, labels, templates=["a {}", "{}!"])
    assert (result.accuracy, result.top5_accuracy, result.images) == (1.0, 1.0, 6)
    wrong = eat.clip.evaluate_zero_shot(
        model, images, [(t + 1) % 3 for t in targets], labels, templates=["a {}", "{}!"]
    )
    assert wrong.accuracy == 0.0
    features = model.encode_image(images, normalize=True)
    recall = eat.clip.evaluate_retrieval(features, features, k=[1, 2])
    assert recall.image_to_text == {1: 1.0, 2: 1.0}
    indices, scores = eat.clip.search(features[3:4], features, 2)
    order = np.argsort(-(features @ features[3]), kind="stable")
    assert indices[0].tolist() == order[:2].tolist()
    assert scores[0, 0] == pytest.approx(1.0, abs=1e-5)


def test_bad_input_is_named(tmp_path: Path) -> None:
    model, processor = eat.clip.load(write_model(tmp_path / "model"))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    picture(40, 40).save(tmp_path / "cut.jpg")
    data = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[:-20])
    cases: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: model.encode_image(tmp_path / "none.png"), DatasetError, "none.png"),
        (
            lambda: model.encode_image(tmp_path / "broken.png"),
            DatasetError,
            "broken.png: the image cannot be decoded",
        ),
        (
            lambda: model.encode_image(tmp_path / "cut.jpg"),
            DatasetError,
            "cut.jpg: the JPEG file is truncated",
        ),
        (lambda: model.encode_image(pixels(size=24)), ConfigError, r"expected \[n, 3, 32, 32\]"),
        (lambda: model.encode_image(np.zeros((2, 4), np.uint8)), ConfigError, "expected uint8"),
        (lambda: model.encode_image([3]), ConfigError, "an image is 3"),
        (lambda: model.encode_text("a" * 99), DatasetError, "101 tokens, more than 16, the context"),
        (lambda: model.encode_text(["a", 3]), ConfigError, "a text is 3"),  # type: ignore[list-item]
        (lambda: model.encode_text(np.full((1, 4), 9999)), ConfigError, "the token 9999"),
        (lambda: model.encode_text(np.zeros((1, 17), int)), ConfigError, "17 tokens, expected 1 to 16"),
        (lambda: model.encode_text("a", batch_size=0), ConfigError, "batch_size is 0"),
        (processor, ConfigError, "neither images nor text"),
        (lambda: eat.clip.classify(model, pixels(), ["one"]), ConfigError, "at least two"),
        (lambda: eat.clip.classify(model, pixels(), ["a", "b", "a"]), ConfigError, "'a' comes twice"),
        (lambda: eat.clip.classify(model, pixels(), ["a", "b"], templates=["x"]), ConfigError, "has no {}"),
        (
            lambda: eat.clip.search(np.ones((1, 2), np.float32), np.ones((3, 4), np.float32)),
            ConfigError,
            "2 and 4 numbers",
        ),
        (lambda: model.save(tmp_path / "x", format="onnx"), ConfigError, 'format is "onnx"'),  # type: ignore[arg-type]
    ]
    for call, error, reason in cases:
        with pytest.raises(error, match=reason):
            call()


def test_folders_that_are_no_such_model_are_refused(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")

    def refused(change: Any) -> str:
        described = config("clip")
        change(described)
        (folder / "config.json").write_text(json.dumps(described))
        with pytest.raises(ModelLoadingError) as raised:
            eat.clip.load(folder)
        return str(raised.value)

    def drop(key: str) -> Any:
        return lambda described: described.pop(key)

    def put(tower: str, key: str, value: Any) -> Any:
        return lambda described: described[tower].__setitem__(key, value)

    assert "has no vision tower" in refused(drop("vision_config"))
    assert "has no text tower" in refused(drop("text_config"))
    assert "NaFlex" in refused(lambda described: described.__setitem__("model_type", "siglip2"))
    assert "supported are: clip, siglip" in refused(lambda d: d.__setitem__("model_type", "llama"))
    assert '"hidden_act" is "swish' in refused(put("text_config", "hidden_act", "swish!"))
    assert "does not divide" in refused(put("vision_config", "num_attention_heads", 5))
    assert "expected the side of a square" in refused(put("vision_config", "image_size", [32, 48]))
    assert "missing tensor" in refused(put("text_config", "num_hidden_layers", 3))
    (folder / "config.json").write_text(json.dumps(config("clip")))
    with pytest.raises(ConfigError, match="image_size is 4, expected 8"):
        eat.clip.load(folder, image_size=4)
    (folder / "vocab.json").unlink()
    with pytest.raises(ModelLoadingError, match=r"tokenizer.json: the file is missing"):
        eat.clip.load(folder)
    write_tokenizer(folder)
    (folder / "config.json").unlink()
    (folder / "open_clip_config.json").write_text('{"model_cfg": {"vision_cfg": {"timm_model_name": "x"}}}')
    with pytest.raises(ModelLoadingError, match="timm_model_name"):
        eat.clip.load(folder)
