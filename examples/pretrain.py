"""Pre-train a small Llama model, tokenizer included, on one text file.

    uv run python examples/pretrain.py shakespeare.txt --output my-model

The result is a Hugging Face-format folder, which this toolkit, mlx-lm and transformers load. The defaults
make the model that ships in the package. Interrupted by Ctrl-C, it continues with `--resume`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

END = "<|endoftext|>"
"""Stands before and after every text: beginning, end and padding are one token."""


def split_text(text: str, valid_share: float) -> tuple[str, str]:
    """Cut `text` in two where a paragraph (else a line) ends, shortly before its last `valid_share`."""
    wanted = int(len(text) * (1 - valid_share))
    cut = next((at for end in ("\n\n", "\n", " ") if (at := text.rfind(end, 0, wanted)) > 0), wanted)
    return text[:cut].strip("\n"), text[cut:].strip("\n")


def train_tokenizer(text: str, vocab_size: int) -> Tokenizer:
    """Byte-level BPE: any text can be encoded, and decoding gives it back exactly."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=2,
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, tokenizer.token_to_id(END))]
    )
    return tokenizer


def windows(
    text: str,
    count: Callable[[str], int],
    length: int,
    separators: tuple[str, ...] = ("\n\n", "\n", " "),
) -> Iterator[str]:
    """Cut `text` into the longest runs of whole paragraphs of at most `length` tokens.

    A paragraph that is too long is cut between lines, a line between words. `count` gives the tokens of a
    text on its own, so that each window is as long for the trainer as it was here.
    """
    separator, *finer = separators
    window = ""
    for piece in text.split(separator):
        joined = f"{window}{separator}{piece}" if window else piece
        if count(joined) <= length:
            window = joined
            continue
        if window.strip():
            yield window
        window = piece
        if finer and count(piece) > length:
            *whole, window = windows(piece, count, length, tuple(finer))
            yield from whole
    if window.strip():
        yield window


def model_config(vocab_size: int, end: int, args: argparse.Namespace) -> dict[str, object]:
    """The `config.json` of a Llama model with a tied head."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": args.hidden_size,
        "intermediate_size": args.intermediate_size,
        "num_hidden_layers": args.num_layers,
        "num_attention_heads": args.num_heads,
        "num_key_value_heads": args.num_kv_heads,
        "max_position_embeddings": args.max_position,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "bos_token_id": end,
        "eos_token_id": end,
        "torch_dtype": "float32",
    }


def write_tokenizer(tokenizer: Tokenizer, folder: Path, max_position: int) -> None:
    """Write `tokenizer.json` and the `tokenizer_config.json` that names its special token."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END,
        "eos_token": END,
        "pad_token": END,
        "model_max_length": max_position,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def write_rows(texts: list[str], path: Path) -> None:
    """Write one `{"text"}` row per window."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    path.write_text("".join(lines), encoding="utf-8")


def write_readme(args: argparse.Namespace, folder: Path, facts: dict[str, str]) -> None:
    """Write the model card: what the model is, what it cost and how good it got."""
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    words = ["uv run python examples/pretrain.py", args.text.name, "--output FOLDER", *args.changed]
    command = " ".join(words)
    text = f"""# {args.title}

{args.about}

It is a Llama-architecture language model small enough to train on two processor cores. It continues text in
the manner of what it read and knows nothing else: a thing to try fine-tuning on, not to rely on.

| | |
|---|---|
{table}

Loss is the mean cross-entropy per token in nats; perplexity is its exponential. The validation text is the
last {args.valid_share:.0%} of the file and was neither trained on nor shown to the tokenizer.
The weights are float16; training ran in float32.

## Make it again
```
{command}
```
"""
    (folder / "README.md").write_text(text, encoding="utf-8")


def prepare(args: argparse.Namespace) -> tuple[Path, Path, dict[str, str]]:
    """Make tokenizer, untrained model and data; give both folders and facts for the model card."""
    from efficientai_toolkit import _core

    text = args.text.read_text(encoding="utf-8").replace("\r\n", "\n")
    train, valid = split_text(text, args.valid_share)
    tokenizer = train_tokenizer(train, args.vocab_size)

    def count(window: str) -> int:
        return len(tokenizer.encode(window).ids) + 1  # The trainer ends every row with END.

    parts = {
        "train": list(windows(train, count, args.window)),
        "valid": list(windows(valid, count, args.window)),
    }
    for name, texts in parts.items():
        write_rows(texts, args.work / "data" / f"{name}.jsonl")
    start = args.work / "start"
    config = model_config(tokenizer.get_vocab_size(), tokenizer.token_to_id(END), args)
    _core.models.create(json.dumps(config), str(start), args.seed, "float32")
    write_tokenizer(tokenizer, start, args.max_position)
    tokens = {name: sum(map(count, texts)) for name, texts in parts.items()}
    facts = {
        "data": f"`{args.text.name}`, {len(text.encode()):,} bytes",
        "tokenizer": f"byte-level BPE, {config['vocab_size']:,} tokens",
        "training text": f"{tokens['train']:,} tokens in {len(parts['train']):,} windows",
        "validation text": f"{tokens['valid']:,} tokens in {len(parts['valid']):,} windows",
    }
    return start, args.work / "data", facts


def main() -> None:
    """Run the whole recipe."""
    args = parse()
    from efficientai_toolkit import _core
    from efficientai_toolkit.callbacks import ProgressBar
    from efficientai_toolkit.lora import MLXTrainer, TrainingConfig

    start, data, facts = prepare(args)
    config = TrainingConfig(
        model_path=str(start),
        data=str(data),
        output=str(args.work / "trained"),
        method="full",
        epochs=args.epochs,
        lr=args.lr,
        batch_size=args.batch_size,
        max_seq_length=args.window,
        dtype="float32",
        seed=args.seed,
        weight_decay=0.1,
        beta2=0.95,
        schedule="cosine",
        warmup_ratio=0.05,
        eval_every=args.eval_every,
        eval_batches=0,
        resume=args.resume,
        overwrite=args.overwrite,
    )
    result = MLXTrainer(config, callback=ProgressBar()).train()
    metrics = result.metrics
    _core.models.convert(str(result.adapter_path), str(args.output), "float16")
    losses = metrics["train_losses"]
    last_epoch = losses[-max(1, round(len(losses) / args.epochs)) :]
    train_loss, valid_loss = sum(last_epoch) / len(last_epoch), metrics["loss_after"]
    best_step, best_loss = min(metrics["validation_losses"], key=lambda pair: pair[1])
    facts |= {
        "parameters": f"{metrics['total_parameters']:,}",
        "training": f"{metrics['steps']:,} steps of {args.batch_size} windows ({args.epochs:g} epochs), "
        f"AdamW, learning rate {args.lr:g} with warm-up and cosine decay, weight decay 0.1",
        "training loss (last epoch)": f"{train_loss:.3f} (perplexity {math.exp(train_loss):.1f})",
        "validation loss": f"{valid_loss:.3f} (perplexity {math.exp(valid_loss):.1f})",
        "time": f"{result.training_time / 60:.0f} minutes",
    }
    write_readme(args, args.output, facts)
    size = sum(file.stat().st_size for file in args.output.iterdir()) / 2**20
    print(f"{args.output}: {size:.1f} MiB, validation loss {valid_loss:.3f}")
    if best_loss < valid_loss - 0.01:
        print(f"validation loss was lowest ({best_loss:.3f}) at step {best_step}: try fewer --epochs")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Pre-train a small Llama model on one text file.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("text", type=Path, help="a UTF-8 text file; about a million characters is enough")
    add("--output", type=Path, required=True, help="folder for the finished model")
    add("--work", type=Path, default=Path("runs/pretrain"), help="folder for the data and checkpoints")
    add("--title", default="A small pre-trained model", help="first line of the model's README")
    add("--about", default="Made by `examples/pretrain.py`.", help="what the text is, for the README")
    add("--epochs", type=float, default=4.0, help="passes over the text")
    add("--lr", type=float, default=1e-3, help="highest learning rate")
    add("--batch-size", type=int, default=8, help="windows per step")
    add("--window", type=int, default=256, help="tokens per window, special tokens included")
    add("--eval-every", type=int, default=100, help="steps between validations")
    add("--valid-share", type=float, default=0.05, help="share of the text, at its end, kept for validation")
    add("--vocab-size", type=int, default=2048, help="tokens of the tokenizer, special tokens included")
    add("--hidden-size", type=int, default=256, help="width of the model")
    add("--intermediate-size", type=int, default=704, help="width of the MLP")
    add("--num-layers", type=int, default=4, help="number of blocks")
    add("--num-heads", type=int, default=4, help="attention heads")
    add("--num-kv-heads", type=int, default=2, help="key and value heads, shared by the attention heads")
    add("--max-position", type=int, default=512, help="longest text the model is declared for, in tokens")
    add("--seed", type=int, default=0, help="of the initial weights and the order of the data")
    add("--resume", action="store_true", help="continue an interrupted run in --work")
    add("--overwrite", action="store_true", help="replace an earlier run in --work")
    args = parser.parse_args()
    elsewhere = {"text", "output", "work", "title", "about", "resume", "overwrite"}
    options = {name: value for name, value in vars(args).items() if name not in elsewhere}
    changed = {name: value for name, value in options.items() if value != parser.get_default(name)}
    args.changed = [f"--{name.replace('_', '-')} {value}" for name, value in changed.items()]
    return args


if __name__ == "__main__":
    main()
