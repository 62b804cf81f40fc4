"""Running a model under limits."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from efficientai_toolkit import hub
from efficientai_toolkit._base.assets import MODEL
from efficientai_toolkit._base.display import Displayed
from efficientai_toolkit._base.units import parse_size
from efficientai_toolkit.compress.simulation.config import SimulationConfig
from efficientai_toolkit.compress.simulation.worker import OUT_OF_MEMORY, is_about_memory
from efficientai_toolkit.exceptions import ToolkitError
from efficientai_toolkit.study.job import JobResult, run_job

_SHARES = (50, 90, 99)


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Simulation(Displayed):
    """Result of :func:`simulate`."""

    outcome: str
    """``finished`` or ``out of memory``."""
    reason: str | None = None
    """How the memory ran out."""
    load_seconds: float | None = None
    first_token: dict[str, float] | None = None
    """Seconds to the first token: ``p50``, ``p90`` and ``p99`` of the repeats."""
    token: dict[str, float] | None = None
    """Seconds of each further token: ``p50``, ``p90`` and ``p99``."""
    tokens_per_second: float | None = None
    """Further tokens per second."""
    peak_memory_bytes: int | None = None
    """Peak resident memory of the process."""
    joules_per_token: float | None = None
    """Energy of the processor packages, of all that runs on them; ``None`` if it cannot be read."""
    energy_note: str | None = None
    """Why there is no energy."""

    def _displayed(self) -> Iterable[tuple[str, object]]:
        """Return what is known."""
        return [(name, value) for name, value in asdict(self).items() if value is not None]

    @property
    def is_finished(self) -> bool:
        """Whether the model ran to the end within the limits."""
        return self.outcome == "finished"


def simulate(
    model_path: "str | Path | SimulationConfig | None" = None,
    *,
    on_event: Callable[[Mapping[str, Any]], object] | None = None,
    show_progress: bool = True,
    **settings: Any,
) -> Simulation:
    """Run a model in a process with limited cores, memory and threads, and time its tokens.

    >>> import efficientai_toolkit as eat
    >>> eat.compress.simulate("small", cores=2, memory="2GB").token  # doctest: +SKIP

    Parameters
    ----------
    model_path
        Folder in Hugging Face format or hub id, ``None`` for the bundled model, or a whole
        :class:`SimulationConfig`.
    on_event
        Told the stages.
    show_progress
        Show a progress bar during downloads.
    **settings
        Fields of :class:`SimulationConfig`.

    Returns
    -------
    Simulation
        Of a process that runs out of memory too: that is a result.

    Raises
    ------
    ConfigError, ModelLoadingError
        If a setting or the model cannot be used.
    ToolkitError
        If the process fails for another reason.
    """
    if isinstance(model_path, SimulationConfig):
        config = model_path.with_values(settings)
    else:
        config = SimulationConfig(model_path=None if model_path is None else str(model_path), **settings)
    folder = hub.resolve(config.model_path or str(MODEL), show_progress=show_progress)
    limit = None if config.memory is None else parse_size("memory", config.memory)
    request = {
        **config.to_dict(),
        "model": str(folder.absolute()),
        "memory": limit,
    }
    job, reason = _run(request, config.timeout, on_event)
    if job.error is None:
        return _summarize(job.value, limit)
    if limit is not None and (is_about_memory(reason) or _runs_without(request, config.timeout)):
        return Simulation(outcome=OUT_OF_MEMORY, reason=reason, peak_memory_bytes=job.peak_memory)
    raise ToolkitError(reason)


def _run(
    request: Mapping[str, Any], timeout: float, on_event: Callable[[Mapping[str, Any]], object] | None
) -> tuple[JobResult, str]:
    """Return the result of the process, and why it failed with the last line that it printed."""
    lines: list[str] = []
    job = run_job(
        f"{__package__}.worker:simulate",
        request,
        on_event=on_event,
        on_line=lines.append,
        timeout=timeout,
    )
    return job, "; ".join([job.error or "", *(line.strip() for line in lines[-1:])])


def _runs_without(request: Mapping[str, Any], timeout: float) -> bool:
    """Return whether the model runs without the limit of memory, which then was the reason of a failure.

    What fails first where memory is short need not say so.
    """
    short = {"memory": None, "repeats": 1, "generated_tokens": 2}
    return _run({**request, **short}, timeout, None)[0].error is None


def _summarize(found: Mapping[str, Any], limit: int | None) -> Simulation:
    outcome = found.get("outcome", "finished")
    if "tokens" not in found:
        return Simulation(
            outcome=outcome, reason="an allocation failed", peak_memory_bytes=found["peak_memory"]
        )
    reason = None if outcome == "finished" else f"the peak is above the limit of {limit:,} bytes"
    energy = found["energy"]
    generated = len(found["first"]) + len(found["tokens"])
    return Simulation(
        outcome=outcome,
        reason=reason,
        load_seconds=found["load"],
        first_token=_percentiles(found["first"]),
        token=_percentiles(found["tokens"]),
        tokens_per_second=len(found["tokens"]) / sum(found["tokens"]),
        peak_memory_bytes=found["peak_memory"],
        joules_per_token=None if isinstance(energy, str) else energy / generated,
        energy_note=energy if isinstance(energy, str) else None,
    )


def _percentiles(values: list[float]) -> dict[str, float]:
    return {
        f"p{share}": float(value)
        for share, value in zip(_SHARES, np.percentile(values, _SHARES), strict=True)
    }
