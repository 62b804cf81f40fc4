"""Evaluation."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from efficientai_toolkit._base.files import write_json
from efficientai_toolkit.evaluation import run
from efficientai_toolkit.evaluation.config import EvaluationConfig
from efficientai_toolkit.jobs.work.model import ModelConfig
from efficientai_toolkit.models.loading import load
from efficientai_toolkit.study.job import Emit

RESULT = "evaluation.json"
"""File of the result, with all answers, in the output folder."""

_SHOWN = 20
"""Answers in the result of the job."""


def evaluate(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Measure a model on data."""
    chosen, task = request["configs"]
    source = ModelConfig(**chosen)
    model, tokenizer = load(
        source.model_path,
        source.adapter_path,
        source.dtype,
        bits=source.bits,
        chat_template_kwargs=source.chat_template_kwargs,
        show_progress=False,
    )
    result = run.evaluate(
        model,
        tokenizer,
        EvaluationConfig(**task),
        on_answer=lambda done, total: emit(
            {"event": "progress", "stage": "answers", "done": done, "total": total}
        ),
    )
    values = asdict(result)
    write_json(Path(request["output"]) / RESULT, values)
    # The file has the others.
    return values | {"answers": values["answers"][:_SHOWN]}
