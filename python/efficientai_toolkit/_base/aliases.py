"""Names that options and values have in other tools; ``docs/coming-from.md`` lists them."""

import re
from collections.abc import Iterable, Mapping

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
    "--report-to": "--track tensorboard,mlflow,wandb,jsonl,csv tracks the run",
    "--trust-remote-code": "no code from a checkpoint is ever run; leave it out",
    "--upload-repo": "upload the output folder with `hf upload`",
    "--use-peft": "adapters are the default; --method full trains all weights",
    "--push-to-hub": "upload the output folder with `hf upload`",
}
"""Options that have no counterpart with the same value, and what to do instead."""


def find_option(name: str, known: Iterable[str]) -> str | None:
    """Return the option that is probably meant: the closest one, by its own name or by that of another tool.

    Parameters
    ----------
    name
        Option or field as it was typed.
    known
        Options to choose from.
    """
    from difflib import get_close_matches

    known = [option for option in known if option.startswith("--")]
    # Without the dashes, which would make all short names alike.
    meant = {alias.lstrip("-"): ours for alias, ours in OPTIONS.items() if ours in known}
    meant |= {option.lstrip("-"): option for option in known}
    closest = get_close_matches(name.lstrip("-").replace("_", "-"), meant, n=1)
    return meant[closest[0]] if closest else None


def suggest_key(key: str, fields: Mapping[str, str]) -> str:
    """Return the end of an error message: the field that is probably meant, or all fields.

    Parameters
    ----------
    key
        Unknown name of a field.
    fields
        Known fields by their options, such as ``lr`` by ``--lr``.
    """
    option = "--" + key.replace("_", "-")
    if option in FLAGS and FLAGS[option][0] in fields:
        name, *value = FLAGS[option]
        return f"; set `{fields[name]}` to {value[0] if value else 'true'}"
    if option in HINTS:
        return "; " + re.sub(r"--[a-z-]+", lambda found: _field(found[0], fields), HINTS[option])
    if (meant := find_option(key, fields)) is not None:
        return f"; did you mean `{fields[meant]}`?"
    return f"; the known keys are {', '.join(fields.values())}"


def suggest_value(option: str, value: object) -> str:
    """Return the end of an error message: our name of a value of another tool; empty if there is none."""
    ours = VALUES.get((option, value), ()) if isinstance(value, str) else ()
    # A name and a value for each setting that is meant.
    match ours:
        case (_, meant):
            return f"; did you mean {meant}?"
        case (_, meant, further, given):
            return f"; did you mean {meant} with `{further.lstrip('-').replace('-', '_')}` {given}?"
        case _:
            return ""


def _field(option: str, fields: Mapping[str, str]) -> str:
    return f"`{fields[option]}`" if option in fields else option
