"""Builds and measures candidates; what was done once is not done again."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

from efficientai_toolkit._base.units import format_size
from efficientai_toolkit.compress.candidates import (
    LARGEST_UNIFORM,
    NONE,
    Candidate,
    predict_size,
    read_pruning,
    read_quantization,
)
from efficientai_toolkit.compress.config import CompressConfig
from efficientai_toolkit.compress.timetable import Timetable
from efficientai_toolkit.compress.weights import read_weights
from efficientai_toolkit.exceptions import ToolkitError
from efficientai_toolkit.study.folder import load_result, save_result
from efficientai_toolkit.study.job import run_job

MODEL = "model"
"""Folder of the model within the folder of a stage."""

_SCREENING = 4
"""A pruned model is screened on this fraction of the held-out sequences, 1/4."""


_SETTINGS_OF_MODELS = (
    "calibration", "calibration_sequences", "sequence_length", "data", "recovery_steps",
    "recovery_batch_size", "recovery_length", "recovery_lr", "seed",
)  # fmt: skip
"""Settings that models depend on, beside their names."""


class StageError(ToolkitError):
    """A stage failed, and the candidate with it."""


class Workshop:
    """Stages of one compression.

    Parameters
    ----------
    config
        Configuration with all paths filled in.
    source
        Folder of the original.
    folder
        Folder of the stages.
    timetable
        Told before and after each stage.
    """

    def __init__(self, config: CompressConfig, source: Path, folder: Path, timetable: Timetable) -> None:
        self._config = config
        self._source = source
        self._folder = folder
        self._timetable = timetable
        self.original = read_weights(source)
        """Sizes of the original."""
        size = config.limits.limits.get("size")
        self.size_limit = None if size is None else int(size * self.original.size)
        """Largest size in bytes."""

    def predict_size(self, candidate: Candidate) -> int:
        """Return about how many bytes a candidate will have."""
        return predict_size(candidate, self.original, self.size_limit)

    def find_reason_against(self, candidate: Candidate) -> str | None:
        """Return why a candidate is not worth building, as far as is known in advance."""
        if candidate.quantization != "mixed" or self.size_limit is None:
            return None
        uniform = replace(candidate, quantization=LARGEST_UNIFORM)
        size = self.predict_size(uniform)
        if size > self.size_limit:
            return None
        return f"{LARGEST_UNIFORM}, about {format_size(size)}, is within the size of the budget as well"

    def build(self, candidate: Candidate) -> Path:
        """Return the folder of a candidate, of which the steps that are missing are done.

        Raises
        ------
        StageError
            If a step fails.
        """
        if candidate.quantization != NONE:
            return self._quantize(candidate, self.build(candidate.dense))
        if candidate.recovery != NONE:
            return self._recover(candidate, self.build(candidate.pruned))
        return self._source if candidate.pruning == NONE else self._prune(candidate)

    def _prune(self, candidate: Candidate) -> Path:
        own = read_pruning(candidate.pruning)
        return self._make("prune", candidate, {"model_path": str(self._source), **self._calibration(), **own})

    def _quantize(self, candidate: Candidate, dense: Path) -> Path:
        own = read_quantization(candidate.quantization)
        if own == {"technique": "mixed"}:
            own["target_bytes"] = self.size_limit
        # Rounding to nearest is fast because it needs no text.
        text = self._calibration() if own["technique"] != "rtn" else {}
        return self._make("quantize", candidate, {"model_path": str(dense), **text, **own})

    def _recover(self, candidate: Candidate, pruned: Path) -> Path:
        config = self._config
        settings = {
            "original": str(self._source),
            "pruned": str(pruned),
            "data": config.data,
            "steps": config.recovery_steps,
            "batch_size": config.recovery_batch_size,
            "max_seq_length": config.recovery_length,
            "lr": config.recovery_lr,
            "seed": config.seed,
        }
        return self._make("recover", candidate, {"recovery": candidate.recovery, "settings": settings})

    def _find_target(self, candidate: Candidate) -> int | None:
        """Return the size that ``mixed`` is made for."""
        return self.size_limit if candidate.quantization == "mixed" else None

    def _calibration(self) -> dict[str, Any]:
        config = self._config
        names = ("calibration", "calibration_sequences", "sequence_length", "seed")
        return {name: getattr(config, name) for name in names}

    def _make(self, stage: str, candidate: Candidate, request: dict[str, Any]) -> Path:
        folder = self._folder / stage / _name_folder(candidate)
        output = folder / MODEL
        if load_result(folder, request) is not None and (output / "config.json").is_file():
            return output
        settings = request.get("settings")
        given = (
            request | {"output": str(output)}
            if settings is None
            else request | {"settings": {**settings, "output": str(output)}}
        )
        save_result(folder, request, self._run(stage, candidate, given))
        return output

    def screen(self, candidate: Candidate, model: Callable[[], Path]) -> dict[str, Any]:
        """Return the quality of a candidate on a part of the held-out text, without questions."""
        sequences = max(self._config.sequences // _SCREENING, 1)
        return self._measure("screen", candidate, model, {"sequences": sequences, "task": None})

    def measure_quality(self, candidate: Candidate, model: Callable[[], Path]) -> dict[str, Any]:
        """Return the quality of a candidate; ``model`` builds it if that is not known yet."""
        config = self._config
        return self._measure(
            "quality", candidate, model, {"sequences": config.sequences, "task": config.task}
        )

    def _measure(
        self, stage: str, candidate: Candidate, model: Callable[[], Path], own: Mapping[str, Any]
    ) -> dict[str, Any]:
        config = self._config
        request = {
            "reference": str(self._source),
            "heldout": config.heldout,
            "length": config.length,
            "items": config.items,
            "settings": {name: getattr(config, name) for name in _SETTINGS_OF_MODELS},
            "target": self._find_target(candidate),
            **own,
        }
        folder = self._folder / stage / _name_folder(candidate)
        found = load_result(folder, request)
        if found is None:
            path = model()
            found = self._run("quality", candidate, request | {"model": str(path)})
            found["size"] = read_weights(path).size
            save_result(folder, request, found)
        return found

    def measure_speed(self, candidate: Candidate, model: Callable[[], Path], number: int) -> dict[str, float]:
        """Return the speed of a candidate in a round."""
        config = self._config
        names = ("prompt_tokens", "generated_tokens", "repeats")
        request: dict[str, Any] = {name: getattr(config, name) for name in names} | {
            "data": config.heldout,
            "settings": {name: getattr(config, name) for name in _SETTINGS_OF_MODELS},
            "target": self._find_target(candidate),
        }
        folder = self._folder / "speed" / _name_folder(candidate) / str(number)
        found = load_result(folder, request)
        if found is None:
            found = self._run("speed", candidate, request | {"model": str(model())})
            save_result(folder, request, found)
        return found

    def deliver(self, candidate: Candidate, output: Path, copy: Callable[[Path, Path], None]) -> None:
        """Copy the model of a candidate to ``output``, unless it is there; errors as in :meth:`build`."""
        request = {
            "candidate": candidate.name,
            "source": str(self._source),
            "settings": {name: getattr(self._config, name) for name in _SETTINGS_OF_MODELS},
            "target": self._find_target(candidate),
        }
        folder = self._folder / "chosen"
        if load_result(folder, request) is None or not (output / "config.json").is_file():
            copy(self.build(candidate), output)
            save_result(folder, request, {})

    def export(self, model: Path, name: str, settings: dict[str, Any]) -> dict[str, Any]:
        """Export a model; errors as in :meth:`build`."""
        return self._run("export", name, {"model_path": str(model), **settings})

    def _run(self, stage: str, candidate: Candidate | str, request: dict[str, Any]) -> dict[str, Any]:
        name = candidate if isinstance(candidate, str) else candidate.name
        function = {"quality": "measure_quality", "speed": "measure_speed"}.get(stage, stage)
        start = perf_counter()
        with self._timetable.during(stage, name) as report:
            job = run_job(f"{__package__}.stages:{function}", request, on_event=report)
        if job.error is not None:
            message = f"{stage}: {job.error}"
            raise StageError(message)
        self._timetable.add(stage, perf_counter() - start)
        found: dict[str, Any] = job.value
        return found

    def clear(self) -> None:
        """Remove the models; what was measured stays."""
        for folder in self._folder.glob(f"*/*/{MODEL}"):
            shutil.rmtree(folder, ignore_errors=True)


def _name_folder(candidate: Candidate) -> str:
    return candidate.name.replace(":", "of")
