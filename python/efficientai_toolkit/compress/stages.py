"""What is done to a candidate, as jobs that run in processes of their own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from efficientai_toolkit.callbacks.events import Event, event_to_json
from efficientai_toolkit.study.job import Emit


def prune(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Prune a model; ``request`` are fields of ``PruneConfig``."""
    from efficientai_toolkit.prune.run import prune as run

    result = run(**_resumable(request), callback=_forward(emit), show_progress=False)
    return {"parameters": result.parameters, "sparsity": result.sparsity, "seconds": result.seconds}


def quantize(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Quantize a model; ``request`` are fields of ``QuantizeConfig``."""
    from efficientai_toolkit.quantize.run import quantize as run

    result = run(**_resumable(request), callback=_forward(emit), show_progress=False)
    return {"bits_per_weight": result.bits_per_weight, "seconds": result.seconds}


def recover(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Train a pruned model; ``request`` has the name of the recovery and its ``settings``."""
    from efficientai_toolkit.compress.recovery import RECOVERIES, RecoverySettings

    RECOVERIES[request["recovery"]](RecoverySettings(**request["settings"]), _forward(emit))
    return {}


def measure_quality(request: dict[str, Any], emit: Emit) -> dict[str, Any]:  # noqa: ARG001
    """Compare a model with the original on held-out text and questions.

    Parameters
    ----------
    request
        ``model`` and ``reference`` (folders), ``heldout``, ``sequences``, ``length``, ``task`` and ``items``.
    emit
        Unused.

    Returns
    -------
    dict
        Divergence, perplexities, ``parameters``, ``losses`` and ``tokens`` of each sequence, and ``answers``.
    """
    from efficientai_toolkit._engine.core import core
    from efficientai_toolkit.compress.fidelity import load_as_stored, score_answers, score_losses
    from efficientai_toolkit.evaluation.text import read_sequences

    model, tokenizer = load_as_stored(request["model"])
    is_same = request["model"] == request["reference"]
    reference = model if is_same else load_as_stored(request["reference"])[0]
    rows = read_sequences(tokenizer, request["heldout"], count=request["sequences"], length=request["length"])
    found: dict[str, Any] = json.loads(core.evaluate.divergence(model, reference, rows))
    return found | {
        "parameters": model.num_parameters,
        "losses": score_losses(model, rows),
        "tokens": [len(row) - 1 for row in rows],
        "answers": score_answers(model, tokenizer, request["task"], request["items"]),
    }


def measure_speed(request: dict[str, Any], emit: Emit) -> dict[str, float]:  # noqa: ARG001
    """Measure speed, size and memory; ``request`` has ``model`` and fields of ``SpeedSettings``."""
    from efficientai_toolkit.compress.fidelity import stored_dtype
    from efficientai_toolkit.evaluation import speed
    from efficientai_toolkit.study.job import peak_memory

    model = request["model"]
    names = ("data", "prompt_tokens", "generated_tokens", "repeats")
    settings = speed.SpeedSettings(**{name: request[name] for name in names}, dtype=stored_dtype(model))
    before = peak_memory()
    found = speed.measure_speed(model, settings)
    import mlx.core

    return found | {"memory": max(peak_memory() - before, mlx.core.get_peak_memory())}


def export(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Export a model; ``request`` are fields of ``ExportConfig``."""
    from efficientai_toolkit.exports.config import ExportConfig
    from efficientai_toolkit.exports.run import export as run

    result = run(ExportConfig(**request), callback=_forward(emit), show_progress=False)
    return {"path": str(result.path), "size": result.size_after, "notes": result.notes}


def _resumable(request: dict[str, Any]) -> dict[str, Any]:
    """Continue after the last block that an interrupted run has finished, if there is one."""
    has_checkpoint = any(Path(request["output"]).glob("checkpoints/[!.]*"))
    return request | {"resume": has_checkpoint, "overwrite": not has_checkpoint}


def _forward(emit: Emit) -> Callable[[Event], None]:
    def forward(event: Event) -> None:
        emit(json.loads(event_to_json(event)))

    return forward
