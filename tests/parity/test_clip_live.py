"""Image–text models beside transformers and open_clip, on fresh random weights."""

# ruff: noqa: PLR0917, because pytest passes fixtures by name
from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit._engine.core import core
from support.clip import byte_vocabulary, config, write_tokenizer
from support.engine import largest

if TYPE_CHECKING:
    from support.figures import Check

pytestmark = [
    pytest.mark.parity,
    pytest.mark.timeout(600),
    # PEFT calls what transformers is about to rename.
    pytest.mark.filterwarnings("default::FutureWarning"),
]

BOS, EOS = len(byte_vocabulary()) - 2, len(byte_vocabulary()) - 1
FEATURES, GRAY = 1e-4, 1.001


@pytest.fixture(scope="module")
def torch() -> ModuleType:
    module: ModuleType = pytest.importorskip("torch", reason="torch is missing")
    return module


@pytest.fixture(scope="module")
def transformers(torch: ModuleType) -> ModuleType:
    module: ModuleType = pytest.importorskip("transformers", reason="transformers is missing")
    return module


@pytest.fixture(scope="module")
def open_clip(torch: ModuleType) -> ModuleType:
    module: ModuleType = pytest.importorskip(
        "open_clip", reason="open_clip is missing: uv pip install open-clip-torch"
    )
    return module


def shake(torch: ModuleType, model: Any, seed: int) -> Any:
    """Random weights that matter everywhere, biases and norms included."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "logit" not in name:
                parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.ndim < 2 else 0.05))
    return model.eval()


def inputs(torch: ModuleType, seed: int, size: int = 32) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn((5, 3, size, size), generator=generator)
    ids = torch.randint(0, BOS, (4, 16), generator=generator)
    ids[:, 0] = BOS
    for row, end in enumerate((3, 9, 15, 7)):
        ids[row, end:] = EOS
    return pixels, ids


CASES = {
    "clip_quick_gelu": ("clip", {}, {}),
    "clip_gelu": ("clip", {"hidden_act": "gelu"}, {}),
    "clip_first_eos": ("clip", {}, {"eos_token_id": 2}),
    "clip_patch_3": ("clip", {}, {}),
    "siglip": ("siglip", {}, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_features_and_logits(
    torch: ModuleType, transformers: ModuleType, seed: int, tmp_path: Path, name: str, figure: Check
) -> None:
    kind, changes, text = CASES[name]
    described = config(kind, **changes)
    described["text_config"] |= text
    if name == "clip_patch_3":
        described["vision_config"]["patch_size"] = 3
    classes = {"clip": ("CLIPConfig", "CLIPModel"), "siglip": ("SiglipConfig", "SiglipModel")}[kind]
    settings = getattr(transformers, classes[0])(
        **{key: value for key, value in described.items() if key != "model_type"}
    )
    theirs = shake(torch, getattr(transformers, classes[1])(settings), seed)
    theirs.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    model, _ = eat.clip.load(tmp_path)
    pixels, ids = inputs(torch, seed + 1)
    with torch.no_grad():
        output = theirs(input_ids=ids, pixel_values=pixels)
        images = theirs.get_image_features(pixel_values=pixels)
        texts = theirs.get_text_features(input_ids=ids)
        images, texts = (getattr(x, "pooler_output", x) for x in (images, texts))
    figure(
        f"clip features_and_logits images {name}",
        largest(model.encode_image(pixels.numpy()), images.numpy()),
        FEATURES,
    )
    figure(
        f"clip features_and_logits texts {name}",
        largest(model.encode_text(ids.numpy()), texts.numpy()),
        FEATURES,
    )
    figure(
        f"clip features_and_logits logits {name}",
        largest(model(pixels.numpy(), ids.numpy()), output.logits_per_image.numpy()),
        FEATURES,
    )


@pytest.mark.parametrize("size", [24, 48])
def test_interpolation_of_transformers(
    torch: ModuleType, transformers: ModuleType, seed: int, tmp_path: Path, size: int, figure: Check
) -> None:
    described = config("clip")
    del described["model_type"]
    theirs = shake(torch, transformers.CLIPModel(transformers.CLIPConfig(**described)), seed)
    theirs.save_pretrained(tmp_path)
    write_tokenizer(tmp_path)
    pixels, _ = inputs(torch, seed + 1, size)
    with torch.no_grad():
        images = theirs.get_image_features(pixel_values=pixels, interpolate_pos_encoding=True)
    images = getattr(images, "pooler_output", images)
    model, _ = eat.clip.load(tmp_path, image_size=size)
    figure(
        "clip interpolation_of_transformers images",
        largest(model.encode_image(pixels.numpy()), images.numpy()),
        FEATURES,
    )


def open_clip_model(torch: ModuleType, open_clip: ModuleType, seed: int, folder: Path, **changes: Any) -> Any:
    """A small model of open_clip, saved as on the hub."""
    from safetensors.torch import save_file

    described: dict[str, Any] = {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": EOS + 1, "width": 48, "heads": 4, "layers": 3},
    } | changes
    model = shake(torch, open_clip.CLIP(**described), seed)
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": described, "preprocess_cfg": {}}))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    write_tokenizer(folder)
    return model


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_open_clip_in_and_out(
    torch: ModuleType, open_clip: ModuleType, seed: int, tmp_path: Path, quick_gelu: bool, figure: Check
) -> None:
    from safetensors.torch import load_file

    theirs = open_clip_model(torch, open_clip, seed, tmp_path / "open", quick_gelu=quick_gelu)
    pixels, ids = inputs(torch, seed + 1)
    with torch.no_grad():
        images, texts = theirs.encode_image(pixels).numpy(), theirs.encode_text(ids).numpy()
        scaled = theirs.get_logits(pixels, ids)[0].numpy()
    model, _ = eat.clip.load(tmp_path / "open")
    figure("clip open_clip_in_and_out images", largest(model.encode_image(pixels.numpy()), images), FEATURES)
    figure("clip open_clip_in_and_out texts", largest(model.encode_text(ids.numpy()), texts), FEATURES)
    figure("clip open_clip_in_and_out logits", largest(model(pixels.numpy(), ids.numpy()), scaled), FEATURES)
    model.save(tmp_path / "out", format="open_clip")
    described = json.loads((tmp_path / "out" / "open_clip_config.json").read_text())
    again = open_clip.CLIP(**described["model_cfg"]).eval()
    again.load_state_dict(load_file(tmp_path / "out" / "open_clip_model.safetensors"))
    with torch.no_grad():
        assert torch.equal(again.encode_image(pixels), theirs.encode_image(pixels))
        assert torch.equal(again.encode_text(ids), theirs.encode_text(ids))


@pytest.mark.parametrize("size", [24, 64])
def test_interpolation_of_open_clip(
    torch: ModuleType, open_clip: ModuleType, seed: int, tmp_path: Path, size: int, figure: Check
) -> None:
    theirs = open_clip_model(torch, open_clip, seed, tmp_path)
    described = json.loads((tmp_path / "open_clip_config.json").read_text())["model_cfg"]
    described["vision_cfg"]["image_size"] = size
    resized = open_clip.CLIP(**described).eval()
    state = theirs.state_dict()
    open_clip.model.resize_pos_embed(state, resized)
    resized.load_state_dict(state)
    pixels, _ = inputs(torch, seed + 1, size)
    model, _ = eat.clip.load(tmp_path, image_size=size, interpolation="open_clip")
    with torch.no_grad():
        figure(
            "clip interpolation_of_open_clip images",
            largest(model.encode_image(pixels.numpy()), resized.encode_image(pixels).numpy()),
            FEATURES,
        )


CAPTIONS = (
    "A photo of a Cat &amp; a dog!",
    "caf\u00e9 cafe\u0301 na\u00efve",
    "\U0001f469\u200d\U0001f680 rocket \U0001f680",
    "&lt;b&gt;bold&lt;/b&gt; it's 3.5&deg;C",
    "\u65e5\u672c\u8a9e \u306e \u5199\u771f",
    "\u201cquotes\u201d \u2018x\u2019 \u2014 dash",
    "\ufb01sh \uff21\uff22\uff23\u3000wide",
    "tabs\tand\nlines  ",
    "#hashtag @user http://x.y/z?q=1&b=2",
    "100% O'Neill's 'tis",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629",
    "&eacute;t&eacute; &copy 2020 &#8364;5 &#x1F600;",
)


def captions(seed: int, count: int = 2000) -> list[str]:
    """Texts that mix words, entities, emoji and scripts."""
    rng = random.Random(seed)
    words = [word for caption in CAPTIONS for word in caption.split(" ")]
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 20))) for _ in range(count - len(CAPTIONS))]
    return [*CAPTIONS, *texts]


@pytest.fixture(scope="module")
def vocabulary(open_clip: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP's own vocabulary as ``vocab.json`` and ``merges.txt``, with a small model of that size."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    vocab = {token: number for token, number in tokenizer.encoder.items() if number < 49406}
    vocab |= {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    lines = gzip.decompress(Path(open_clip.tokenizer.default_bpe()).read_bytes()).decode().split("\n")
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    merges = "\n".join(["#version: 0.2", *lines[1 : 49152 - 256 - 2 + 1]])
    (folder / "merges.txt").write_text(merges + "\n", encoding="utf-8")
    return folder


def processor_of(torch: ModuleType, transformers: ModuleType, folder: Path) -> Any:
    described = config("clip")
    del described["model_type"]
    described["text_config"] |= {"vocab_size": 49408, "max_position_embeddings": 77, "eos_token_id": 49407}
    torch.manual_seed(0)
    transformers.CLIPModel(transformers.CLIPConfig(**described)).save_pretrained(folder)
    return eat.clip.load(folder)[1]


def test_tokens_of_open_clip(
    torch: ModuleType, transformers: ModuleType, open_clip: ModuleType, seed: int, vocabulary: Path
) -> None:
    processor = processor_of(torch, transformers, vocabulary)
    texts = captions(seed)
    ours = processor(text=texts, truncate=True)["input_ids"].astype(np.int64)
    theirs = open_clip.tokenizer.SimpleTokenizer()(texts, context_length=77).numpy()
    # Rows are filled with the end of the text here, and with zeros there.
    theirs = np.where((theirs == 0) & (np.cumsum(theirs == 49407, axis=1) > 0), 49407, theirs)
    different = [text for text, a, b in zip(texts, ours, theirs, strict=True) if (a != b).any()]
    assert not different, different[:3]


def test_tokens_of_transformers(
    torch: ModuleType, transformers: ModuleType, seed: int, vocabulary: Path, tmp_path: Path
) -> None:
    tokenizer = transformers.CLIPTokenizer(
        vocab=json.loads((vocabulary / "vocab.json").read_text(encoding="utf-8")),
        merges=[
            tuple(line.split())
            for line in (vocabulary / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
        ],
    )
    tokenizer.save_pretrained(tmp_path)
    processor = processor_of(torch, transformers, tmp_path)
    texts = captions(seed)
    theirs = tokenizer(texts, padding="max_length", truncation=True, max_length=77, return_tensors="np")[
        "input_ids"
    ]
    ours = processor(text=texts, truncate=True)["input_ids"]
    different = [text for text, a, b in zip(texts, ours, theirs, strict=True) if (a != b).any()]
    assert not different, different[:3]


@pytest.mark.parametrize("size", [(64, 64), (61, 40), (333, 40), (640, 427), (225, 301)])
def test_preprocessing(
    transformers: ModuleType,
    open_clip: ModuleType,
    torch: ModuleType,
    tmp_path: Path,
    size: tuple[int, int],
    figure: Check,
) -> None:
    from PIL import Image

    from support.clip import write_model

    rng = np.random.default_rng(size[0])
    image = Image.fromarray(rng.integers(0, 256, (9, 11, 3), np.uint8)).resize(size, Image.Resampling.NEAREST)
    scale = 255 * 0.27
    for kind, name in (("clip", "CLIPImageProcessor"), ("siglip", "SiglipImageProcessor")):
        square = {"height": 32, "width": 32}
        chosen = {"size": {"shortest_edge": 32}, "crop_size": square} if kind == "clip" else {"size": square}
        theirs = getattr(transformers, name)(**chosen)
        folder = write_model(tmp_path / kind, kind)
        theirs.save_pretrained(folder)
        expected = np.asarray(theirs(image, return_tensors="np")["pixel_values"])
        found = eat.clip.load(folder)[1](images=image)["pixel_values"]
        gray = scale if kind == "clip" else 127.5
        figure(f"clip pixels {kind} {size}", float(np.abs(found - expected).max()) * gray, GRAY * 1.05)
    open_clip_model(torch, open_clip, 0, tmp_path / "open")
    transform = open_clip.transform.image_transform(32, is_train=False)
    expected = transform(image).numpy()[None]
    found = eat.clip.load(tmp_path / "open")[1](images=image)["pixel_values"]
    figure(f"clip pixels open_clip {size}", float(np.abs(found - expected).max()) * scale, GRAY * 1.05)


def test_jpeg(tmp_path: Path, figure: Check) -> None:
    """Decoders differ, since the format allows it: on average by little."""
    from PIL import Image

    from support.clip import write_model

    rng = np.random.default_rng(3)
    smooth = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).resize(
        (640, 480), Image.Resampling.BICUBIC
    )
    smooth.save(tmp_path / "x.jpg", quality=90)
    decoded = np.asarray(Image.open(tmp_path / "x.jpg").convert("RGB"))
    _, processor = eat.clip.load(write_model(tmp_path / "model"))
    ours = processor(images=tmp_path / "x.jpg")["pixel_values"]
    theirs = processor(images=decoded)["pixel_values"]
    figure("clip JPEG, mean", float(np.abs(ours - theirs).mean()) * 255 * 0.27, 0.5)


def pair_images(folder: Path, seed: int, count: int = 8) -> tuple[Path, list[str], Any]:
    """Random images of the model's size with texts, as a table, and their pixels."""
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(seed)
    texts = [f"{'abcdefgh'[i] * (1 + i % 3)} {i}" for i in range(count)]
    arrays = [rng.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(count)]
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{i}.png")
    lines = [json.dumps({"image": f"{i}.png", "text": text}) for i, text in enumerate(texts)]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder, texts, [folder / f"{i}.png" for i in range(count)]


def train(model: Path, data: Path, output: Path, **changes: Any) -> Any:
    """One batch of all pairs, again and again, with AdamW and nothing else."""
    chosen: dict[str, Any] = {
        "model_path": str(model),
        "data": str(data),
        "validation_ratio": 0.0,
        "output": str(output),
        "method": "full",
        "batch_size": 8,
        "iters": 20,
        "lr": 1e-3,
        "weight_decay": 0.0,
        "schedule": "constant",
        "warmup_ratio": 0.0,
        "max_grad_norm": 0.0,
        "eval_every": 0,
        "save_every": 0,
    }
    settings = eat.clip.ClipConfig(**chosen | changes)
    loaded, _ = core.clip.load(str(model))
    return json.loads(core.clip.train(loaded, settings.to_json(), lambda _: None))


def test_loss_curve_of_open_clip(
    torch: ModuleType, open_clip: ModuleType, seed: int, tmp_path: Path, figure: Check
) -> None:
    theirs = open_clip_model(torch, open_clip, seed, tmp_path / "open")
    data, texts, images = pair_images(tmp_path / "data", seed)
    _, processor = eat.clip.load(tmp_path / "open")
    inputs = processor(images=images, text=texts)
    pixels, ids = torch.tensor(inputs["pixel_values"]), torch.tensor(inputs["input_ids"].astype(np.int64))
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-3, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.0)
    loss, losses = open_clip.loss.ClipLoss(), []
    for _ in range(20):
        optimizer.zero_grad()
        value = loss(*theirs(pixels, ids))
        value.backward()
        optimizer.step()
        with torch.no_grad():
            theirs.logit_scale.clamp_(0, np.log(100))
        losses.append(float(value.detach()))
    result = train(tmp_path / "open", data, tmp_path / "out")
    found = np.array(result["train_losses"])
    assert losses[-1] < 0.9 * losses[0]
    figure("clip losses of 20 steps", float(np.abs(found / np.array(losses) - 1).max()), 1e-3)


def test_siglip_loss_curve(
    torch: ModuleType,
    transformers: ModuleType,
    open_clip: ModuleType,
    seed: int,
    tmp_path: Path,
    figure: Check,
) -> None:
    described = config("siglip")
    del described["model_type"]
    theirs = shake(torch, transformers.SiglipModel(transformers.SiglipConfig(**described)), seed)
    theirs.save_pretrained(tmp_path / "model")
    write_tokenizer(tmp_path / "model")
    data, texts, images = pair_images(tmp_path / "data", seed)
    _, processor = eat.clip.load(tmp_path / "model")
    inputs = processor(images=images, text=texts)
    pixels, ids = torch.tensor(inputs["pixel_values"]), torch.tensor(inputs["input_ids"].astype(np.int64))
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-3, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.0)
    loss, losses = open_clip.loss.SigLipLoss(), []
    for _ in range(20):
        optimizer.zero_grad()
        output = theirs(input_ids=ids, pixel_values=pixels)
        value = loss(output.image_embeds, output.text_embeds, theirs.logit_scale.exp(), theirs.logit_bias)
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    result = train(tmp_path / "model", data, tmp_path / "out")
    found = np.array(result["train_losses"])
    figure("siglip losses of 20 steps", float(np.abs(found / np.array(losses) - 1).max()), 1e-3)


def test_an_adapter_in_peft(
    torch: ModuleType, transformers: ModuleType, seed: int, tmp_path: Path, figure: Check
) -> None:
    peft = pytest.importorskip("peft", reason="peft is missing")
    described = config("clip")
    del described["model_type"]
    theirs = shake(torch, transformers.CLIPModel(transformers.CLIPConfig(**described)), seed)
    theirs.save_pretrained(tmp_path / "model")
    write_tokenizer(tmp_path / "model")
    data, texts, images = pair_images(tmp_path / "data", seed)
    train(tmp_path / "model", data, tmp_path / "adapter", method="lora", lr=1e-2)
    model, processor = eat.clip.load(tmp_path / "model", tmp_path / "adapter")
    inputs = processor(images=images, text=texts)
    adapted = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval()
    with torch.no_grad():
        output = adapted(
            input_ids=torch.tensor(inputs["input_ids"].astype(np.int64)),
            pixel_values=torch.tensor(inputs["pixel_values"]),
        )
    plain, _ = eat.clip.load(tmp_path / "model")
    ours = model.encode_image(images, normalize=True)
    assert np.abs(ours - plain.encode_image(images, normalize=True)).max() > 1e-2
    figure("clip adapter in PEFT images", largest(ours, output.image_embeds.numpy()), 1e-3)
    figure(
        "clip adapter in PEFT texts",
        largest(model.encode_text(texts, normalize=True), output.text_embeds.numpy()),
        1e-3,
    )
