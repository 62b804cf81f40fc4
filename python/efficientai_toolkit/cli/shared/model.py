"""Options that select a model."""

import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import TYPE_CHECKING

from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.models.loading import load

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model, Tokenizer


def add_model(parser: ArgumentParser) -> None:
    """Add the options for model, adapters, data type and quantization."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model-path",
        metavar="TEXT",
        help="folder in Hugging Face format, or hub id org/name[@revision] (default: the embedded model)",
    )
    group.add_argument("--adapter-path", metavar="TEXT", help="folder or hub id of LoRA adapters")
    group.add_argument(
        "--dtype",
        choices=("float32", "float16", "bfloat16"),
        help="data type of the weights (default: float32 on a CPU, that of the checkpoint on a GPU)",
    )
    group.add_argument(
        "--bits",
        type=int,
        choices=(2, 3, 4, 5, 6, 8),
        help="quantize the weights to this many bits (default: as in the checkpoint)",
    )
    group.add_argument(
        "--template-option",
        metavar="NAME=VALUE",
        action="append",
        type=_template_option,
        help="option of the chat template, such as enable_thinking=false; repeat it for more",
    )


def load_model(args: Namespace, out: Output) -> "tuple[Model, Tokenizer]":
    """Load the model the options select."""
    return load(
        args.model_path,
        args.adapter_path,
        args.dtype,
        bits=args.bits,
        chat_template_kwargs=None if args.template_option is None else dict(args.template_option),
        show_progress=not out.quiet,
    )


def _template_option(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        message = f"must be NAME=VALUE, such as enable_thinking=false, not {text!r}"
        raise ArgumentTypeError(message)
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
