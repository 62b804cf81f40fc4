"""One candidate, trained for a few steps."""

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
    """What became of it."""

    candidate: Candidate
    round: int
    """From 1."""
    steps: int
    loss: float | None
    """Of the validation data afterwards, in nats per token; ``None`` where the run failed."""
    reason: str | None
    """Why it failed."""
    seconds: float


class ShortRunner:
    """Trains candidates, and keeps nothing of them but their losses.

    Parameters
    ----------
    base
        The run, with paths filled in.
    runner
        Has the model.
    folder
        Where runs may write; gone after each of them.
    on_run
        Receives each run when it has ended.
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
            Every run would fail alike.
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
    """Nothing is stopped early."""
