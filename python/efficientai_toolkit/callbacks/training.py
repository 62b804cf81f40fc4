"""What a training run tells."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Indexed:
    """Some of a file whose rows stay on disk was read for the first time."""

    path: str
    bytes: int
    """Bytes so far."""
    total: int
    """All of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Referenced:
    """The untouched model has read some of the pairs from whose log-probabilities training measures."""

    pairs: int
    """Pairs so far."""
    total: int
    """All of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """Everything is loaded; the first step follows."""

    steps: int
    """Optimizer steps in the whole run."""
    first_step: int
    """Step this run continues from; 0 for a fresh one."""
    trainable_parameters: int
    total_parameters: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimated:
    """What the run is expected to take of MLX's memory, in bytes."""

    weights: int
    """The model, and what is trained in float32 where the model has another format."""
    optimizer: int
    """Gradients, what the optimizer remembers, and the best weights so far."""
    activations: int
    """What a pass over the longest rows keeps for its gradient."""
    update: int
    """What an update of the parameters takes for a moment."""
    peak: int
    """All of it."""
    available: int
    """What there is: the budget, or else the device's memory."""
    rows: int
    """The longest rows that go through the model at once, at most a batch; the rest of a batch follows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One optimizer step was taken."""

    step: int
    """1-based."""
    steps: int
    """Optimizer steps in the whole run."""
    epoch: float
    """Passes over the data so far."""
    loss: float
    """Of this step's batch; for ``sft`` the mean cross-entropy per target token, in nats."""
    lr: float
    grad_norm: float
    """Before clipping."""
    tokens_per_second: float
    """Tokens that went through the model, padding not counted, since the last step."""
    peak_memory: int
    """Of MLX's allocator so far, in bytes."""
    reward_accuracy: float | None = None
    """Share of this step's pairs whose chosen answer has the higher reward."""
    reward_margin: float | None = None
    """Mean of the chosen answer's reward less the other's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Overflow:
    """In place of a :class:`Step` whose gradients overflowed in float16: nothing was changed."""

    step: int
    """1-based."""
    steps: int
    """Optimizer steps in the whole run."""
    loss: float
    """Of this step's batch; for ``sft`` the mean cross-entropy per target token, in nats."""
    loss_scale: float
    """What the loss is multiplied with from now on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutOfMemory:
    """Memory ran out: what was computed is computed again, with fewer rows at once."""

    step: int
    """1-based; the step that begins again, or that follows the validation that does."""
    rows: int
    """The longest rows that go through the model at once from now on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluated:
    """The validation set was scored."""

    step: int
    """Steps taken before; 0 is the untouched model."""
    loss: float
    """For ``sft`` the mean cross-entropy per target token, in nats."""
    perplexity: float | None
    """``exp(loss)``, for ``sft``."""
    reward_accuracy: float | None = None
    """Share of pairs whose chosen answer has the higher reward."""
    reward_margin: float | None = None
    """Mean of the chosen answer's reward less the other's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stopped:
    """The validation loss has not improved for long enough: there are no more steps."""

    step: int
    """Steps taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A checkpoint is on disk."""

    step: int
    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """The run is complete and its result is on disk."""

    step: int
    path: str


def describe_memory(event: Estimated) -> str:
    """What a run is expected to take, in one line."""
    parts = {
        "weights": event.weights,
        "optimizer": event.optimizer + event.update,
        "activations": event.activations,
    }
    told = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items())
    return (
        f"about {event.peak / 1e9:.2f} of {event.available / 1e9:.2f} GB ({told}), "
        f"{event.rows:,} rows at once"
    )
