"""``lora-finetuning-mlx:generate``: continue a prompt, with or without adapters."""

import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from efficientai_toolkit._base.units import format_size
from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output
from efficientai_toolkit.cli.shared.model import add_model, load_model
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.models.chat import format_question
from efficientai_toolkit.models.generation import GenerateConfig, generate_with_statistics

ESSENTIAL = (
    "model_path", "adapter_path", "prompt", "system", "max_tokens", "temperature", "top_p", "seed", "dtype",
    "bits",
)  # fmt: skip
"""What most calls set."""

_REASONS = {"stop": "end of text", "length": "token limit"}
"""Descriptions of the finish reasons."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the model, the prompt and :class:`GenerateConfig`."""
    add_model(parser)
    group = parser.add_argument_group("prompt")
    group.add_argument("--prompt", metavar="TEXT", required=True, help="prompt; - reads standard input")
    group.add_argument("--system", metavar="TEXT", help="system prompt")
    group.add_argument(
        "--no-chat-template",
        action="store_true",
        help="pass the prompt to the model unchanged, without the chat template",
    )
    add_config(parser, GenerateConfig, title="sampling")


def run(args: Namespace, out: Output) -> int:
    """Stream the text to standard output and print statistics to standard error."""
    config = build_config(args, GenerateConfig)
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    if not prompt.strip():
        message = "the prompt is empty"
        raise ConfigError(message)
    model, tokenizer = load_model(args, out)
    if args.no_chat_template:
        question = prompt if args.system is None else f"{args.system}\n\n{prompt}"
    else:
        question = format_question(tokenizer, prompt, system=args.system)
    answer = generate_with_statistics(model, tokenizer, question, config, out.piece)
    out.line()
    out.result({"prompt": prompt, **asdict(answer)})
    out.note(
        f"{answer.prompt_tokens} prompt tokens at {answer.prompt_tokens_per_second:,.0f} tok/s, "
        f"{answer.generated_tokens} new tokens at {answer.tokens_per_second:,.1f} tok/s, "
        f"peak memory {format_size(answer.peak_memory_bytes)}, stopped: {_REASONS[answer.finish_reason]}"
    )
    return 0
