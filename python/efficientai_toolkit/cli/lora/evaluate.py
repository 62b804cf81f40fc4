"""``lora-finetuning-mlx:evaluate``: measure a model on data, or on tasks of lm-evaluation-harness."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import asdict

from efficientai_toolkit.cli.options import add_config, build_config
from efficientai_toolkit.cli.output import Output, format_pairs, wrap_paragraph
from efficientai_toolkit.cli.shared.model import add_model, load_model
from efficientai_toolkit.cli.shared.progress import show
from efficientai_toolkit.evaluation import EvaluationConfig, EvaluationResult, evaluate
from efficientai_toolkit.exceptions import ConfigError

_NOTES = 10
"""Approximate number of progress lines."""

ESSENTIAL = (
    "model_path", "adapter_path", "data", "metrics", "limit", "prompt", "reference", "answer", "max_tokens",
    "harness",
)  # fmt: skip
"""What most evaluations set."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of the model and of :class:`EvaluationConfig`."""
    add_model(parser)
    add_config(parser, EvaluationConfig, title="task")
    group = parser.add_argument_group("lm-evaluation-harness")
    group.add_argument(
        "--harness",
        metavar="A,B",
        help="run these tasks of lm-evaluation-harness instead; --limit applies",
    )
    group.add_argument("--num-fewshot", metavar="N", type=int, help="number of few-shot examples")


def run(args: Namespace, out: Output) -> int:
    """Print one line per metric."""
    task = build_config(args, EvaluationConfig)
    if args.harness is not None:
        return _run_harness(args, task, out)
    model, tokenizer = load_model(args, out)
    result = evaluate(model, tokenizer, task, on_answer=_progress(args, out))
    out.line(_summary(result))
    out.result(
        {
            "model_path": str(model.path),
            "adapter_path": args.adapter_path,
            "task": task.to_dict(),
            **asdict(result),
        }
    )
    return 0


def _summary(result: EvaluationResult) -> str:
    rows = [("data", f"{result.data}, {result.rows:,} rows")]
    if result.tokens is not None:
        scored = f"{result.tokens:,} scored"
        if result.truncated_rows or result.dropped_rows:
            scored += f"; {result.truncated_rows:,} rows truncated, {result.dropped_rows:,} dropped"
        rows.append(("tokens", scored))
    rows += [(name, f"{value:,.4f}") for name, value in result.metrics.items()]
    rows.append(("time", f"{result.seconds:,.1f} s"))
    lines = [format_pairs(rows)]
    for answer in result.answers[:1]:
        for title, text in (("first answer", answer.text), ("reference", answer.reference)):
            lines += ["", title, wrap_paragraph(text, max_lines=6)]
    return "\n".join(lines)


def _progress(args: Namespace, out: Output) -> Callable[[int, int], None]:
    return lambda done, total: show(
        args,
        out,
        event=lambda: {"event": "answer", "answers": done, "rows": total},
        line=lambda: _line(done, total),
    )


def _line(done: int, total: int) -> str | None:
    is_told = done % max(total // _NOTES, 1) == 0 or done == total
    return f"{done}/{total} answers" if is_told else None


def _run_harness(args: Namespace, task: EvaluationConfig, out: Output) -> int:
    from efficientai_toolkit.evaluation.harness import run_tasks

    names = [name.strip() for name in args.harness.split(",") if name.strip()]
    if not names:
        message = "--harness is empty: name a task"
        raise ConfigError(message)
    model, tokenizer = load_model(args, out)
    scores = run_tasks(
        model, tokenizer, names, limit=task.limit, num_fewshot=args.num_fewshot, batch_size=task.batch_size
    )
    rows = [
        (f"{name} {key}", f"{value:,.4f}") for name, values in scores.items() for key, value in values.items()
    ]
    out.line(format_pairs(rows))
    out.result({"model_path": str(model.path), "adapter_path": args.adapter_path, "harness": scores})
    return 0
