"""Metrics of events, under names with the groups of trackers, such as ``train/loss`` and ``valid/loss``."""

from efficientai_toolkit.callbacks.events import Event
from efficientai_toolkit.callbacks.run import numbers
from efficientai_toolkit.callbacks.training import Evaluated, OutOfMemory, Overflow, Step


def get_metrics(event: Event) -> tuple[int, dict[str, float]] | None:
    """Return the step of an event and its metrics; ``None`` if it has none."""
    match event:
        case Step():
            metrics = {
                "train/loss": event.loss,
                "train/lr": event.lr,
                "train/grad_norm": event.grad_norm,
                "train/epoch": event.epoch,
                "train/tokens_per_second": event.tokens_per_second,
                "train/peak_memory_gb": event.peak_memory / 1e9,
                "train/reward_accuracy": event.reward_accuracy,
                "train/reward_margin": event.reward_margin,
            }
        case Evaluated():
            metrics = {
                "valid/loss": event.loss,
                "valid/perplexity": event.perplexity,
                "valid/reward_accuracy": event.reward_accuracy,
                "valid/reward_margin": event.reward_margin,
            }
        case Overflow():
            metrics = {"train/loss_scale": event.loss_scale}
        case OutOfMemory():
            metrics = {"train/rows_at_once": event.rows}
        case _:
            return None
    return event.step, numbers(metrics)
