"""``lora-finetuning-mlx:train``: fine-tune a model and compare its answers before and after."""

import shlex
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from efficientai_toolkit._base.units import format_size
from efficientai_toolkit.cli.commands import build_command
from efficientai_toolkit.cli.lora.groups import ESSENTIAL
from efficientai_toolkit.cli.options import add_config
from efficientai_toolkit.cli.output import Output, format_pairs, wrap_paragraph
from efficientai_toolkit.cli.shared.first_prompt import find_first_prompt
from efficientai_toolkit.cli.shared.resume import describe_interruption
from efficientai_toolkit.cli.shared.tracking import add_tracking, choose_callbacks
from efficientai_toolkit.cli.shared.training import GROUPS, build_training_config
from efficientai_toolkit.device import hardware, process_group
from efficientai_toolkit.lora import MLXTrainer, TrainingConfig, TrainingResult
from efficientai_toolkit.models.chat import format_question
from efficientai_toolkit.models.generation import generate
from efficientai_toolkit.models.loading import load
from efficientai_toolkit.study.folder import release
from efficientai_toolkit.study.output import check_output

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model, Tokenizer
    from efficientai_toolkit.callbacks.base import Callback

__all__ = ["ESSENTIAL", "add_arguments", "run"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """Answers to one prompt before and after training."""

    prompt: str
    before: str
    after: str


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of :class:`TrainingConfig` and the prompt."""
    add_config(parser, TrainingConfig, title="run", groups=GROUPS)
    add_tracking(parser)
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        help="prompt to answer before and after training (default: from the first validation row)",
    )


def run(args: Namespace, out: Output) -> int:
    """Answer, train, answer again, and print the summary."""
    given = build_training_config(args, TrainingConfig)
    callbacks = choose_callbacks(args)
    config = given.with_defaults_filled()
    try:
        return _run(args, out, given, config, callbacks)
    finally:
        release(Path(str(config.output)))


def _run(
    args: Namespace, out: Output, given: TrainingConfig, config: TrainingConfig, callbacks: "list[Callback]"
) -> int:
    group = process_group()
    if group.rank > 0:
        out = replace(out, as_json=False, quiet=True)
    if group.rank == 0:
        check_output(config, "lora")
    model, tokenizer = load(
        given.model_path,
        dtype=config.dtype,
        bits=config.bits,
        chat_template_kwargs=config.chat_template_kwargs,
        show_progress=not out.quiet,
    )
    out.note(format_pairs(_header(given, config, model)))
    if group.size > 1:
        out.note(f"{group.size} processes, each with its share of {group.size} times the batch size")
    prompt = args.prompt or find_first_prompt(Path(str(config.data)))
    before = _answer(model, tokenizer, prompt)
    trainer = MLXTrainer(config, callback=callbacks, model=model, tokenizer=tokenizer)
    try:
        result = trainer.train()
    except KeyboardInterrupt:
        message = describe_interruption(
            args.argv, Path(str(config.output)), named=given.output is not None, resumed=given.resume
        )
        raise KeyboardInterrupt(message) from None
    if group.rank > 0:
        # The first process speaks for all.
        return 0
    answers = Answers(prompt=prompt, before=before, after=_answer(model, tokenizer, prompt))
    command = _command_to_try(given, result, prompt)
    out.note()
    out.line(_summary(config, result, answers, command))
    out.result(
        {
            "model_path": given.model_path,
            "data": config.data,
            "output": config.output,
            "final_loss": result.final_loss,
            "training_time": result.training_time,
            "peak_memory_gb": result.peak_memory_gb,
            "perplexity": result.perplexity,
            "adapter_path": result.adapter_path,
            "metrics": result.metrics,
            "prompt": prompt,
            "answer_before": answers.before,
            "answer_after": answers.after,
            "command": command,
        }
    )
    return 0


def _header(given: TrainingConfig, config: TrainingConfig, model: "Model") -> list[tuple[str, str]]:
    device = hardware()
    name = given.model_path or "embedded"
    return [
        ("model", f"{name}: {model.model_type}, {model.num_parameters:,} parameters, {model.dtype}"),
        ("data", given.data or "bundled instructions"),
        ("output", str(config.output)),
        ("device", f"{device.backend}, {device.chip}, {device.cores} cores"),
    ]


def _answer(model: "Model", tokenizer: "Tokenizer", prompt: str) -> str:
    # Greedy decoding, so that only the training changes the answer.
    return generate(model, tokenizer, format_question(tokenizer, prompt), max_tokens=64).strip()


def _summary(config: TrainingConfig, result: TrainingResult, answers: Answers, command: str) -> str:
    metrics = result.metrics
    rows: list[tuple[str, str]] = []
    before, after = metrics.get("perplexity_before"), result.perplexity
    if before is not None and after is not None:
        change = after / before - 1
        rows.append(("validation perplexity", f"{before:,.2f} → {after:,.2f} ({change:+.1%})"))
    first, last = metrics.get("rewards_before"), metrics.get("rewards_after")
    if first is not None and last is not None:
        rows.append(("reward accuracy", f"{first['accuracy']:.1%} → {last['accuracy']:.1%}"))
        rows.append(("reward margin", f"{first['margin']:.3f} → {last['margin']:.3f}"))
    rows.append(("final training loss", f"{result.final_loss:.3f}"))
    rows.append(
        (
            "trained",
            f"{metrics['trained_tokens']:,} tokens in {result.training_time:,.1f} s, "
            f"{metrics['tokens_per_second']:,.0f} tok/s",
        )
    )
    cut, dropped = metrics.get("truncated_rows", 0), metrics.get("dropped_rows", 0)
    if cut or dropped:
        rows.append(
            ("rows", f"{cut:,} truncated to --max-seq-length, {dropped:,} dropped without target tokens")
        )
    rows.append(("peak memory", format_size(result.peak_memory_gb * 1e9)))
    is_model = config.method == "full" or config.qat_bits is not None
    saved = "model saved in" if is_model else "adapter saved in"
    rows.append((saved, str(result.adapter_path)))
    parts = [format_pairs(rows)]
    for title, text in (("prompt", answers.prompt), ("before", answers.before), ("after", answers.after)):
        parts += ["", title, wrap_paragraph(text, max_lines=8)]
    # Unwrapped: it is there to be copied.
    return "\n".join([*parts, "", "try it", f"  {command}"])


def _command_to_try(given: TrainingConfig, result: TrainingResult, prompt: str) -> str:
    line = build_command("lora", "generate")
    if given.method == "full" or given.qat_bits is not None:
        line += ["--model-path", str(result.adapter_path)]
    else:
        if given.model_path is not None:
            line += ["--model-path", given.model_path]
        line += ["--adapter-path", str(result.adapter_path)]
    if given.dtype is not None:
        line += ["--dtype", given.dtype]
    if given.bits is not None:
        line += ["--bits", str(given.bits)]
    return shlex.join([*line, "--prompt", prompt])
