"""Names that options and values have in other tools; ``docs/coming-from.md`` lists them.

They are understood but not shown by ``--help``. A command takes an alias only if it has the option that is
meant, and none of that name itself.
"""

from collections.abc import Container, Sequence

OPTIONS = {
    # mlx-lm
    "--model": "--model-path",
    "--fine-tune-type": "--method",
    "--learning-rate": "--lr",
    "--val-batches": "--eval-batches",
    "--steps-per-eval": "--eval-every",
    "--grad-accumulation-steps": "--grad-accumulation",
    "--adapter-path": "--output",
    "--save-path": "--output",
    "--temp": "--temperature",
    "--system-prompt": "--system",
    "-c": "--config",
    "-p": "--prompt",
    "-m": "--max-tokens",
    # PEFT and TRL
    "--model-name-or-path": "--model-path",
    "--dataset": "--data",
    "--dataset-name": "--data",
    "--output-dir": "--output",
    "--num-train-epochs": "--epochs",
    "--num-epochs": "--epochs",
    "--max-steps": "--iters",
    "--per-device-train-batch-size": "--batch-size",
    "--train-batch-size": "--batch-size",
    "--gradient-accumulation-steps": "--grad-accumulation",
    "--max-length": "--max-seq-length",
    "--lora-r": "--lora-rank",
    "--rank": "--lora-rank",
    "-r": "--lora-rank",
    "--alpha": "--lora-alpha",
    "--lora-target-modules": "--target-modules",
    "--lr-scheduler-type": "--schedule",
    "--optim": "--optimizer",
    "--beta": "--dpo-beta",
    "--label-smoothing": "--dpo-label-smoothing",
    "--eval-steps": "--eval-every",
    "--save-steps": "--save-every",
    "--save-total-limit": "--keep-checkpoints",
    "--neftune-noise-alpha": "--neftune-alpha",
    "--adam-beta1": "--beta1",
    "--adam-beta2": "--beta2",
    "--adam-epsilon": "--eps",
    "--torch-dtype": "--dtype",
    "--adapter": "--adapter-path",
    "--adapter-name-or-path": "--adapter-path",
    "--peft-model-id": "--adapter-path",
    "--max-new-tokens": "--max-tokens",
    "--n-trials": "--trials",
    "--tasks": "--harness",
}
"""Options with the same meaning. The first word is another tool's, the second ours."""

FLAGS = {
    "--bf16": ("--dtype", "bfloat16"),
    "--fp16": ("--dtype", "float16"),
    "--load-in-4bit": ("--bits", "4"),
    "--load-in-8bit": ("--bits", "8"),
    "--use-dora": ("--method", "dora"),
    "--gradient-checkpointing": ("--grad-checkpoint", "1"),
    "--completion-only-loss": ("--mask-prompt",),
    "--load-best-model-at-end": ("--keep-best",),
    "--ignore-chat-template": ("--no-chat-template",),
    "--overwrite-output-dir": ("--overwrite",),
}
"""Options that are true or false, and what is typed here."""

VALUES = {
    ("--method", "qlora"): ("--method", "lora", "--bits", "4"),
    ("--num-layers", "-1"): (),
    ("--eval-batches", "-1"): ("--eval-batches", "0"),
    ("--dtype", "bf16"): ("--dtype", "bfloat16"),
    ("--dtype", "fp16"): ("--dtype", "float16"),
    ("--dtype", "half"): ("--dtype", "float16"),
    ("--dtype", "fp32"): ("--dtype", "float32"),
    ("--dtype", "float"): ("--dtype", "float32"),
    ("--optimizer", "adamw_torch"): ("--optimizer", "adamw"),
    ("--optimizer", "adamw_hf"): ("--optimizer", "adamw"),
    ("--schedule", "cosine_decay"): ("--schedule", "cosine"),
    ("--schedule", "linear_schedule"): ("--schedule", "linear"),
    ("--schedule", "constant_with_warmup"): ("--schedule", "constant"),
    ("--schedule", "warmup_stable_decay"): ("--schedule", "wsd"),
}
"""Values of options, and what is typed here."""

HINTS = {
    "--resume-adapter-file": "--init-adapter takes the folder of an adapter to start from",
    "--resume-from-checkpoint": "--resume continues the run in the folder --output",
    "--chat-template-config": "give each option as --template-option NAME=VALUE",
    "--warmup-steps": "the warm-up is a share of all steps: --warmup-ratio",
    "--lora-scale": "the scale is alpha / rank: set --lora-alpha",
    "--scale": "the scale is alpha / rank: set --lora-alpha",
    "--lora-parameters": "set --lora-rank, --lora-alpha and --lora-dropout",
    "--train": "the command :train trains; leave it out",
    "--test": "the command :evaluate scores the test set",
    "--test-batches": "the command :evaluate scores the test set; it has --limit",
    "--steps-per-report": "--progress json prints every step",
    "--logging-steps": "--progress json prints every step",
    "--report-to": "--progress json prints every event, for a tracker to read",
    "--trust-remote-code": "no code from a checkpoint is ever run; leave it out",
    "--upload-repo": "upload the output folder with `hf upload`",
    "--use-peft": "adapters are the default; --method full trains all weights",
    "--push-to-hub": "upload the output folder with `hf upload`",
}
"""Options that have no counterpart with the same value, and what to do instead."""


_TRUTH = ("true", "false")


def translate(words: Sequence[str], known: Container[str]) -> list[str]:
    """Replace the names of other tools by those of a command.

    Parameters
    ----------
    words
        Arguments of the command.
    known
        Options of the command.
    """
    translated: list[str] = []
    implied: list[str] = []
    rest = list(words)
    while rest:
        name, equals, value = _split(rest.pop(0))
        name = _rename(name, known)
        if name not in known and name in FLAGS and FLAGS[name][0] in known:
            # Transformers writes `--bf16 True` as well.
            text = value if equals else rest.pop(0) if rest and rest[0].lower() in _TRUTH else "true"
            translated += FLAGS[name] if text.lower() == "true" else ()
            continue
        if not equals and rest and name in known and (name, rest[0]) in VALUES:
            equals, value = "=", rest.pop(0)
        if (name, value) in VALUES and name in known:
            typed = VALUES[name, value]
            translated += typed[:2]
            # Where such an option is given as well, that one counts.
            implied += typed[2:]
        else:
            translated.append(f"{name}{equals}{value}")
    return [*implied, *translated]


def _split(word: str) -> tuple[str, str, str]:
    return word.partition("=") if word.startswith("--") else (word, "", "")


def _rename(name: str, known: Container[str]) -> str:
    """Return the command's own name of an option; other words are left as they are."""
    if name in known or not name.startswith("-"):
        return name
    # Transformers separates words by underscores.
    dashed = name.replace("_", "-")
    if dashed in known or dashed in FLAGS:
        return dashed
    ours = OPTIONS.get(dashed)
    return ours if ours is not None and ours in known else name
