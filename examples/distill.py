"""Prune the embedded model by width, and win back what it lost: from text alone, and from the original model.

    uv run python examples/distill.py shakespeare.txt --output runs/distillation

Both runs see the same tokens in the same order.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import efficientai_toolkit as eat
from efficientai_toolkit._base.assets import MODEL
from efficientai_toolkit.lora import MLXTrainer, TrainingConfig, evaluate


def write_rows(path: Path, paragraphs: Iterable[str], characters: int = 800) -> None:
    """Write runs of paragraphs of about so many characters, 250 tokens, one per line."""
    rows, row = [], ""
    for paragraph in paragraphs:
        row = f"{row}\n\n{paragraph}" if row else paragraph
        if len(row) >= characters:
            rows.append(row)
            row = ""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows), encoding="utf-8")


def perplexity(model: Path, data: Path) -> float:
    return evaluate(*eat.load(model), data=str(data / "test.jsonl")).metrics["perplexity"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("text", type=Path)
    parser.add_argument("--output", type=Path, default=Path("runs/distillation"))
    parser.add_argument("--method", default="activation", help="pruning method of pattern width")
    parser.add_argument("--iters", type=int, default=50, help="steps of 8 rows each")
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    paragraphs = args.text.read_text(encoding="utf-8").split("\n\n")
    cut = int(len(paragraphs) * 0.9)
    data = args.output / "data"
    write_rows(data / "train.jsonl", paragraphs[:cut])
    write_rows(data / "test.jsonl", paragraphs[cut:])

    pruned = eat.prune.prune(
        pattern="width",
        method=args.method,
        sparsity=0.2,
        calibration=str(data / "train.jsonl"),
        output=str(args.output / "pruned"),
        overwrite=True,
    ).output
    training = TrainingConfig(
        model_path=str(pruned),
        data=str(data / "train.jsonl"),
        method="full",
        iters=args.iters,
        batch_size=8,
        lr=args.lr,
        seed=args.seed,
        eval_every=0,
        keep_best=False,
        overwrite=True,
    )
    text_alone = training.with_values({"output": str(args.output / "text-alone")})
    MLXTrainer(text_alone).train()
    eat.distill.distill(training, teacher=str(MODEL), alpha=0.9, output=str(args.output / "distilled"))
    for name, folder in (
        ("original", MODEL),
        ("pruned", pruned),
        ("trained on text alone", args.output / "text-alone"),
        ("distilled", args.output / "distilled"),
    ):
        print(f"{name:24} perplexity {perplexity(folder, data):.3f}")


if __name__ == "__main__":
    main()
