"""Short training runs of candidates."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

from efficientai_toolkit.exceptions import ConfigError, DatasetError, ToolkitError
from efficientai_toolkit.lora.analysis.candidates import Candidate
from efficientai_toolkit.lora.config import TrainingConfig
from efficientai_toolkit.lora.runner import Runner


@dataclass(frozen=True, kw_only=True, slots=True)
class ShortRun:
    """Result of a short run."""

    candidate: Candidate
    round: int
    """Round, 1-based."""
    steps: int
    loss: float | None
    """Final validation loss in nats per token; ``None`` if the run failed."""
    reason: str | None
    """Reason of the failure."""
    seconds: float


class ShortRunner:
    """Trains candidates and keeps only their losses.

    Parameters
    ----------
    base
        Configuration of the run with all paths filled in.
    runner
        Runner that holds the model.
    folder
        Temporary folder, removed after each run.
    on_run
        Called with each finished run.
    """

    def __init__(
        self, base: TrainingConfig, runner: Runner, folder: Path, on_run: Callable[[ShortRun], object]
    ) -> None:
        self._base = base
        self._runner = runner
        self._folder = folder
        self._on_run = on_run

    def run(self, candidate: Candidate, number: int, steps: int) -> ShortRun:
        """Train ``candidate`` for ``steps`` in round ``number``.

        Raises
        ------
        ConfigError, DatasetError
            If every run would fail for the same reason.
        """
        started = perf_counter()
        config = replace(candidate.apply(self._base), iters=steps)
        loss: float | None = None
        reason: str | None = None
        try:
            loss = self._runner.train(config, self._folder, _ignore).metrics["loss_after"]
        except (ConfigError, DatasetError):
            raise
        except ToolkitError as error:
            reason = str(error)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
        run = ShortRun(
            candidate=candidate,
            round=number,
            steps=steps,
            loss=loss,
            reason=reason,
            seconds=perf_counter() - started,
        )
        self._on_run(run)
        return run


def _ignore(_place: int, _loss: float) -> None:
    """Observe losses without stopping the run."""
