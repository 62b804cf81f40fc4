"""Validation loss before and after training, of every method; and of LoRA beside Hugging Face PEFT.

Rows are texts. PEFT reads the same tokens in the same batches, and trains with the same rank, optimizer and
learning rate from adapters of its own; the mean of several seeds is compared.

uv run --group parity python benches/quality.py --data my_data --iters 200
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from efficientai_toolkit._base.assets import MODEL
from efficientai_toolkit._engine.core import core
from efficientai_toolkit.lora import MLXTrainer, TrainingConfig

LR, FULL_LR, PROMPT_LR = 2e-3, 5e-4, 1e-2
METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "qlora": {"bits": 4},
    "rslora": {"use_rslora": True},
    "lora+": {"loraplus_lr_ratio": 4.0},
    "pissa": {"lora_init": "pissa"},
    "dora": {"method": "dora"},
    "adalora": {"method": "adalora"},
    "prompt_tuning": {"method": "prompt_tuning", "lr": PROMPT_LR},
    "prefix_tuning": {"method": "prefix_tuning", "lr": PROMPT_LR},
    "p_tuning": {"method": "p_tuning", "lr": PROMPT_LR},
    "full": {"method": "full", "lr": FULL_LR},
}


def main() -> int:
    """Train with every method, then LoRA with both libraries."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.jsonl and valid.jsonl")
    parser.add_argument("--iters", type=int, default=200, help="optimizer steps")
    parser.add_argument("--batch-size", type=int, default=4, help="rows per step")
    parser.add_argument("--max-seq-length", type=int, default=512, help="tokens per row")
    parser.add_argument("--methods", default=",".join(METHODS), help="which of the methods")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each library; 0 for no comparison")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has torch and peft")
    parser.add_argument("--json", type=Path, help="file for every figure")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = TrainingConfig(
            data=str(args.data),
            output=f"{folder}/run",
            overwrite=True,
            iters=args.iters,
            lr=LR,
            batch_size=args.batch_size,
            max_seq_length=args.max_seq_length,
            schedule="constant",
            warmup_ratio=0.0,
            max_grad_norm=0.0,
            dtype="float32",
            eval_every=0,
            eval_batches=0,
            save_every=0,
            keep_best=False,
        )
        figures: dict[str, Any] = {"methods": [ours(name, base) for name in args.methods.split(",") if name]}
        if args.seeds:
            runs = [replace(base, seed=seed) for seed in range(args.seeds)]
            figures["ours"] = [ours("lora", config) for config in runs]
            figures["peft"] = [peft(config, Path(folder), args.python) for config in runs]
            means = {
                library: statistics.mean(run["after"] for run in figures[library])
                for library in ("ours", "peft")
            }
            figures["ratio"] = means["ours"] / means["peft"]
            print(f"mean of {args.seeds}: ours {means['ours']:.4f}, peft {means['peft']:.4f}, ", end="")
            print(f"ratio {figures['ratio']:.4f}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def ours(name: str, base: TrainingConfig) -> dict[str, Any]:
    """One run of the toolkit."""
    result = MLXTrainer(replace(base, **METHODS[name])).train().metrics
    return tell(name, result["trainable_parameters"], result["loss_before"], result["loss_after"])


def peft(config: TrainingConfig, folder: Path, python: str) -> dict[str, Any]:
    """The run in PEFT, on the batches that the toolkit reads."""
    _, tokenizer = core.models.load(str(MODEL), None, config.dtype)
    train, valid = (
        rows(Path(str(config.data)) / f"{split}.jsonl", tokenizer) for split in ("train", "valid")
    )
    if max(map(len, train + valid)) > config.max_seq_length:
        message = "a row is longer than --max-seq-length"
        raise SystemExit(message)
    batches: list[list[list[int]]] = []
    epoch = 0
    while len(batches) < (config.iters or 0):
        order = core.data.epoch_batches([len(row) for row in train], config.batch_size, config.seed, epoch)
        batches += [[train[number] for number in batch] for batch in order]
        epoch += 1
    job = folder / "job.json"
    settings = {
        "checkpoint": str(MODEL),
        "lr": config.lr,
        "rank": config.lora_rank,
        "alpha": config.lora_alpha,
    }
    job.write_text(
        json.dumps(
            {"task": "fit", **settings, "seed": config.seed, "train": batches[: config.iters], "valid": valid}
        )
    )
    script = Path(__file__).parent / "contestants" / "peft_quality.py"
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [python, str(script), json.dumps({"task": "fit", "job": str(job)})],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    if "missing" in found:
        message = f"{found['missing']} is not installed; --seeds 0 leaves the comparison out"
        raise SystemExit(message)
    return tell("peft", found["trainable_parameters"], found["loss_before"], found["loss_after"])


def rows(path: Path, tokenizer: Any) -> list[list[int]]:
    """Token ids of every text, as the toolkit reads it."""
    end = tokenizer.eos_token_ids[0]
    texts = [
        json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()
    ]
    encoded = [tokenizer.encode(text) for text in texts]
    return [ids if ids[-1] in tokenizer.eos_token_ids else [*ids, end] for ids in encoded]


def tell(name: str, parameters: int, before: float, after: float) -> dict[str, Any]:
    """Print a line and return its figures."""
    print(f"{name:<16}{parameters:>10,} parameters   {before:.4f} -> {after:.4f}", flush=True)
    return {"name": name, "parameters": parameters, "before": before, "after": after}


if __name__ == "__main__":
    raise SystemExit(main())
