"""What transformers computes from the configurations of ``configurations.py``. Needs torch."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from parity import reference as ref
from parity.configurations import BASES, FAMILIES, GROWING, POSITIONS, WORDS, write
from parity.rotations import LENGTH, Edits

CONTINUATION = 24


def compute(base: Path, edits: Edits) -> Callable[[torch.Tensor], torch.Tensor]:
    """The function from ids to logits of the checkpoint ``base`` with another configuration."""
    with tempfile.TemporaryDirectory() as folder:
        model = ref.load(write(base, edits, Path(folder) / "model"))
    return lambda ids: ref.logits(model, ids)


def shuffled(base: Path, folder: Path, seed: int) -> Path:
    """A copy of the checkpoint ``base`` with the numbers of each tensor in another order."""
    shutil.copytree(base, folder)
    generator = torch.Generator().manual_seed(seed)
    path = folder / "model.safetensors"
    tensors = {}
    for name, tensor in sorted(load_file(path).items()):
        order = torch.randperm(tensor.numel(), generator=generator)
        tensors[name] = tensor.flatten()[order].reshape(tensor.shape).contiguous()
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def growing(
    base: Path, edits: Edits, length: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A prompt of ``length``, its greedy continuation with a cache, and how far each token led."""
    with tempfile.TemporaryDirectory() as folder:
        path = write(base, edits, Path(folder) / "model")
        for prompt_seed in range(seed, seed + 1000):
            model = ref.load(path)
            prompt = ref.random_ids((length,), model.config.vocab_size, prompt_seed)
            done: Any = model.generate(
                prompt[None],
                attention_mask=torch.ones_like(prompt)[None],
                do_sample=False,
                max_new_tokens=CONTINUATION,
                eos_token_id=None,
                pad_token_id=ref.PAD,
                output_logits=True,
                return_dict_in_generate=True,
            )
            top = torch.cat(done.logits).topk(2).values
            margins = top[:, 0] - top[:, 1]
            continuation = done.sequences[0, length:]
            clear = margins.min() > ref.MIN_MARGIN and continuation.min() >= ref.FIRST_WORD
            if clear and len(continuation.unique()) >= ref.MIN_DISTINCT:
                return prompt, continuation, margins
    message = f"no prompt of {length} has a clear continuation"
    raise RuntimeError(message)


def store(save: Callable[[Path, dict[str, torch.Tensor]], None], models: Path, folder: Path) -> None:
    """Write some logits of every configuration, and continuations where the rotation grows."""
    expected: dict[str, torch.Tensor] = {}
    for family, configurations in FAMILIES.items():
        base = models / BASES[family]
        ids = ref.random_ids((1, LENGTH), ref.load(base).config.vocab_size, seed=7)
        computed = [compute(base, edits)(ids)[0, POSITIONS, :WORDS] for edits in configurations.values()]
        expected |= {f"{family}.ids": ids.int(), f"{family}.logits": torch.stack(computed)}
    save(folder / "expected.safetensors", expected)
    for name, (family, edits, length) in GROWING.items():
        prompt, continuation, margins = growing(models / BASES[family], edits, length, seed=0)
        values = {"prompt": prompt.int(), "continuation": continuation.int(), "margins": margins}
        save(folder / f"{name}.safetensors", values)
    sys.stdout.write(f"configurations: {sum(map(len, FAMILIES.values()))}\n")
