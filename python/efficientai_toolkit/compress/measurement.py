"""Measurements of the original and of candidates."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from efficientai_toolkit.compress.candidates import NONE, Candidate
from efficientai_toolkit.evaluation.paired import PairedDifference, compare_answers, compare_losses
from efficientai_toolkit.quantize.suite.config import ORIGINAL
from efficientai_toolkit.quantize.suite.measurement import Measurement


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class CandidateRow(Measurement):
    """A row of a compression: the original, or a candidate."""

    pruning: str = NONE
    recovery: str = NONE
    quantization: str = NONE
    parameters: int | None = None
    """Number of parameters, zeros included."""
    loss_low: float | None = None
    """Lower end of the 95 % interval of ``perplexity_increase``, over sequences."""
    loss_high: float | None = None
    """Upper end."""
    accuracy: float | None = None
    """Fraction of the questions answered right."""
    accuracy_difference: float | None = None
    """The accuracy less the original's."""
    accuracy_low: float | None = None
    """Lower end of the 95 % interval of the difference."""
    accuracy_high: float | None = None
    """Upper end."""
    accuracy_p: float | None = None
    """Two-sided p-value of McNemar's exact test of the difference."""
    questions: int | None = None
    """Number of questions."""
    size_ratio: float | None = None
    """Size relative to the original's."""
    latency_ratio: float | None = None
    """Time per generated token relative to the original's in the same round, median of the rounds."""
    memory_ratio: float | None = None
    """Peak memory relative to the original's."""
    given_up: str | None = None
    """Why it was not built or not measured to the end; ``None`` if it was."""

    @property
    def is_measured(self) -> bool:
        """Whether everything is known of it."""
        return self.error is None and self.given_up is None

    @property
    def ratios(self) -> dict[str, float]:
        """What a budget limits, relative to the original."""
        found = {"size": self.size_ratio, "latency": self.latency_ratio, "memory": self.memory_ratio}
        return {name: value for name, value in found.items() if value is not None}


def describe_candidate(candidate: Candidate, model: str, **known: Any) -> CandidateRow:
    """Return a row with the steps of a candidate."""
    steps = {
        name: step
        for name in ("pruning", "recovery", "quantization")
        if (step := getattr(candidate, name)) != NONE
    }
    variant = candidate.name if steps else ORIGINAL
    return CandidateRow(model=model, variant=variant, settings=dict(steps), **(known | steps))


def read_quality(quality: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a row that its quality and size tell; ``reference`` is the original's."""
    size: int = quality["size"]
    loss = compare_losses(quality["losses"], reference["losses"], quality["tokens"])
    fields: dict[str, Any] = {
        "size_bytes": size,
        "size_ratio": size / reference["size"],
        "bits_per_weight": 8 * size / quality["parameters"],
        "parameters": quality["parameters"],
        "perplexity": quality["perplexity"],
        "perplexity_increase": quality["perplexity"] / quality["reference_perplexity"] - 1,
        "loss_low": loss.low,
        "loss_high": loss.high,
        "mean_kl": quality["mean_kl"],
        "p99_kl": quality["p99_kl"],
        "top_agreement": quality["top_agreement"],
        "positions": int(quality["positions"]),
    }
    answers = quality["answers"]
    if answers:
        difference: PairedDifference = compare_answers(answers, reference["answers"])
        fields |= {
            "accuracy": sum(answers) / len(answers),
            "accuracy_difference": difference.value,
            "accuracy_low": difference.low,
            "accuracy_high": difference.high,
            "accuracy_p": difference.p,
            "questions": difference.count,
        }
    return fields


def read_speeds(speeds: list[dict[str, float]], reference: list[dict[str, float]]) -> dict[str, Any]:
    """Return the fields of a row that its rounds tell; ``reference`` are the rounds of the original."""
    samples = {name: [one[name] for one in speeds] for name in ("load", "prefill", "decode", "memory")}
    memory = median(samples["memory"])
    return {
        "load_seconds": median(samples["load"]),
        "prefill_tokens_per_second": median(samples["prefill"]),
        "decode_tokens_per_second": median(samples["decode"]),
        "peak_memory_bytes": int(memory),
        "samples": samples,
        # In the same round, since the speed of a machine changes.
        "latency_ratio": median(
            other["decode"] / one["decode"] for one, other in zip(speeds, reference, strict=True)
        ),
        "memory_ratio": memory / median(one["memory"] for one in reference),
    }
