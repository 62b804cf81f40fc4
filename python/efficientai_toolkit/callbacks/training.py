"""Events of a training run."""

from dataclasses import dataclass

from efficientai_toolkit._base.units import format_size


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """Model and data are loaded; the first step follows."""

    steps: int
    """Total number of optimizer steps."""
    first_step: int
    """Step the run resumes from; 0 for a new run."""
    trainable_parameters: int
    total_parameters: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimated:
    """Estimated memory use of the run in MLX's allocator, in bytes."""

    weights: int
    """Model weights, including float32 copies of trained parameters."""
    optimizer: int
    """Gradients, optimizer state and the best weights so far."""
    activations: int
    """Activations kept for the backward pass over the longest rows."""
    update: int
    """Temporary memory of a parameter update."""
    peak: int
    """Total."""
    available: int
    """Memory budget, or the memory of the device."""
    rows: int
    """Number of the longest rows processed at once; larger batches are split."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """An optimizer step was completed."""

    step: int
    """1-based."""
    steps: int
    """Total number of optimizer steps."""
    epoch: float
    """Epochs completed so far."""
    loss: float
    """Loss of this step; for ``sft`` the mean cross-entropy per target token in nats."""
    lr: float
    grad_norm: float
    """Gradient norm before clipping."""
    tokens_per_second: float
    """Throughput since the previous step, without padding."""
    peak_memory: int
    """Peak of MLX's allocator so far, in bytes."""
    reward_accuracy: float | None = None
    """Fraction of this step's pairs whose chosen answer has the higher reward."""
    reward_margin: float | None = None
    """Mean difference between the rewards of the chosen and the rejected answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Overflow:
    """A step was skipped because its gradients overflowed in float16."""

    step: int
    """1-based."""
    steps: int
    """Total number of optimizer steps."""
    loss: float
    """Loss of this step; for ``sft`` the mean cross-entropy per target token in nats."""
    loss_scale: float
    """New loss scale."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutOfMemory:
    """Memory ran out; the computation is retried with fewer rows at once."""

    step: int
    """1-based; the step that is retried, or that follows the retried validation."""
    rows: int
    """New number of the longest rows processed at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """The model was evaluated on the validation set."""

    step: int
    """Completed steps; 0 before training."""
    loss: float
    """Validation loss; for ``sft`` the mean cross-entropy per target token in nats."""
    perplexity: float | None
    """``exp(loss)``, for ``sft``."""
    reward_accuracy: float | None = None
    """Fraction of pairs whose chosen answer has the higher reward."""
    reward_margin: float | None = None
    """Mean difference between the rewards of the chosen and the rejected answers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopped:
    """Training stopped early because the validation loss did not improve."""

    step: int
    """Completed steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A checkpoint was saved."""

    step: int
    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """The run finished and its result was saved."""

    step: int
    path: str


def describe_memory(event: Estimated) -> str:
    """Format the memory estimate as one line."""
    parts = {
        "weights": event.weights,
        "optimizer": event.optimizer + event.update,
        "activations": event.activations,
    }
    told = ", ".join(f"{name} {format_size(size)}" for name, size in parts.items())
    return (
        f"about {format_size(event.peak)} of {format_size(event.available)} ({told}), "
        f"{event.rows:,} rows at once"
    )
