"""Cases of a benchmark of quantized models, which the toolkit's runner measures, each in its own process."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from efficientai_toolkit.benchmark.case import Case
from efficientai_toolkit.evaluation.config import EvaluationConfig
from efficientai_toolkit.exceptions import ToolkitError
from efficientai_toolkit.quantize.suite.config import ORIGINAL, SuiteConfig

QUANTIZE, QUALITY, SPEED = "quantize", "quality", "speed"
"""Names of the cases."""

TASK = "task/"
"""Prefix of the metrics of a task."""

MODELS = "models"
"""Folder of the quantized models in the output folder."""


def cases(config: Mapping[str, Any], output: str) -> Iterator[Case]:
    """Yield the cases: each variant is quantized, scored, and timed; the latter in rounds.

    Parameters
    ----------
    config
        Fields of :class:`SuiteConfig`.
    output
        Output folder.
    """
    suite = SuiteConfig(**config)
    pairs = [
        (model, variant) for model in suite.label_models() for variant in (ORIGINAL, *suite.list_variants())
    ]
    for process in range(suite.processes):
        # Every second round backwards, so that a machine that heats up hurts all variants alike.
        for model, variant in pairs if process % 2 == 0 else pairs[::-1]:
            params = {"model": model, "variant": variant}
            if process == 0:
                yield from _once(suite, Path(output), params)
            yield Case(
                name=SPEED,
                params=params | {"process": process},
                measure=partial(measure_speed, suite, Path(output)),
                higher_is_better=["prefill", "decode"],
            )


def _once(suite: SuiteConfig, output: Path, params: Mapping[str, str]) -> Iterator[Case]:
    if params["variant"] != ORIGINAL:
        yield Case(name=QUANTIZE, params=params, measure=partial(measure_quantization, suite, output))
    yield Case(
        name=QUALITY,
        params=params,
        measure=partial(measure_quality, suite, output),
        higher_is_better=["top_agreement", *(f"{TASK}{name}" for name in list_task_metrics(suite))],
    )


def measure_quantization(suite: SuiteConfig, output: Path, *, model: str, variant: str) -> dict[str, float]:
    """Quantize a model, and return time, memory and the size of the result."""
    from efficientai_toolkit.quantize.run import quantize

    folder = locate(suite, output, model, variant)
    config = suite.plan_quantization(suite.list_variants()[variant], suite.label_models()[model], folder)
    result = quantize(config, show_progress=False)
    return {
        "seconds": result.seconds,
        "memory": result.peak_memory_gb * 1e9,
        "bits_per_weight": result.bits_per_weight,
    }


def measure_quality(suite: SuiteConfig, output: Path, *, model: str, variant: str) -> dict[str, float]:
    """Compare the predictions of a variant with those of the original, and evaluate the tasks."""
    import json

    from efficientai_toolkit._engine.core import core
    from efficientai_toolkit.evaluation.run import evaluate
    from efficientai_toolkit.evaluation.text import read_sequences
    from efficientai_toolkit.models.loading import load

    folder = _find(suite, output, model, variant)
    reference, tokenizer = load(suite.label_models()[model], show_progress=False)
    measured = reference if variant == ORIGINAL else load(folder, show_progress=False)[0]
    accuracy = suite.find_accuracy(variant)
    rows = read_sequences(tokenizer, suite.data, count=suite.sequences, length=suite.length)
    metrics: dict[str, float] = json.loads(core.evaluate.divergence(measured, reference, rows, accuracy))
    for name, task in list_tasks(suite).items():
        found = evaluate(measured, tokenizer, replace(task, accuracy=accuracy or task.accuracy)).metrics
        metrics |= {f"{TASK}{name}/{metric}": value for metric, value in found.items()}
    return metrics | {"parameters": measured.num_parameters}


def measure_speed(
    suite: SuiteConfig,
    output: Path,
    *,
    model: str,
    variant: str,
    process: int,  # noqa: ARG001
) -> dict[str, float]:
    """Load a variant and continue a prompt; return times, speeds and the size on disk."""
    from efficientai_toolkit.evaluation import speed

    settings = speed.SpeedSettings(
        data=suite.data,
        prompt_tokens=suite.prompt_tokens,
        generated_tokens=suite.generated_tokens,
        repeats=suite.repeats,
        accuracy=suite.find_accuracy(variant),
    )
    return speed.measure_speed(_find(suite, output, model, variant), settings)


def locate(suite: SuiteConfig, output: Path, model: str, variant: str) -> Path:
    """Return the folder of a variant, or the path or hub id of the original."""
    if variant == ORIGINAL:
        return Path(suite.label_models()[model])
    number = list(suite.label_models()).index(model)
    return output / MODELS / (variant if len(suite.label_models()) == 1 else f"{number + 1}-{variant}")


def list_tasks(suite: SuiteConfig) -> dict[str, EvaluationConfig]:
    """Return the tasks by name.

    Raises
    ------
    ConfigError, DatasetError
        If a file does not exist or has unknown keys.
    """
    found: dict[str, EvaluationConfig] = {}
    for path in map(Path, suite.tasks):
        is_rows = path.suffix == ".jsonl"
        found[path.stem] = (
            EvaluationConfig(data=str(path), metrics=["exact_match"])
            if is_rows
            else EvaluationConfig.from_file(path)
        )
    return found


def list_task_metrics(suite: SuiteConfig) -> list[str]:
    """Return the metrics of tasks that should be high."""
    return [
        f"{name}/{metric}"
        for name, task in list_tasks(suite).items()
        for metric in task.metrics
        if metric != "perplexity"
    ]


def _find(suite: SuiteConfig, output: Path, model: str, variant: str) -> Path:
    folder = locate(suite, output, model, variant)
    if variant != ORIGINAL and not (folder / "config.json").is_file():
        message = f"{folder} holds no model: it was not quantized"
        raise ToolkitError(message)
    return folder
