"""Which ranks are worth a short run."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from efficientai_toolkit.lora.analysis.allocation import Layer, allocate, allocate_uniformly, count_parameters
from efficientai_toolkit.lora.config import TrainingConfig

Form = Literal["spectrum", "uniform"]
"""Where the gradient has its energy, or the same rank everywhere."""

REFERENCE_RANKS = (4, 8, 16, 32)
"""Single ranks that people choose from."""

_BUDGETS = 5
GAINS = (1.0, 2.0, 4.0)
"""Fewer parameters may need to move further."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """Ranks of all layers, and how strongly their adapters act."""

    mean_rank: float
    """What the budget would be as one rank for all layers."""
    form: Form
    gain: float
    """Factor of the scale that the run would have."""
    ranks: dict[str, int]
    """By layer; 0 for no adapter."""
    parameters: int
    lora_alpha: float
    """With ``use_rslora``: the scale of a layer is this over the root of its rank."""

    def apply(self, base: TrainingConfig) -> TrainingConfig:
        """The run with these ranks."""
        # The rank that most layers have needs no line for each of them.
        usual, _ = Counter(rank for rank in self.ranks.values() if rank > 0).most_common(1)[0]
        pattern = {path: rank for path, rank in self.ranks.items() if rank != usual}
        values: dict[str, Any] = {
            "lora_rank": usual,
            "lora_alpha": self.lora_alpha,
            "use_rslora": True,
            "rank_pattern": pattern or None,
        }
        if pattern:
            # The other format has one rank for all and would be filled up with zeros.
            values["adapter_format"] = "peft"
        return base.with_values(values)


def compute_neutral_alpha(base: TrainingConfig) -> float:
    """``lora_alpha`` with which rsLoRA has the scale of ``base`` at its rank."""
    return base.lora_alpha if base.use_rslora else base.lora_alpha / base.lora_rank**0.5


def propose_candidates(
    layers: Sequence[Layer], base: TrainingConfig, largest: float
) -> list[list[Candidate]]:
    """Budgets from ``largest`` down, each a half of the one before, and the ways to spend each of them.

    The scale of a layer falls with the root of its rank, as `rsLoRA <https://arxiv.org/abs/2312.03732>`_
    asks for, so that one learning rate suits all ranks; where the rank is ``base.lora_rank`` it is that of
    ``base``.
    """
    per_rank = sum(layer.cost for layer in layers)
    alpha = compute_neutral_alpha(base)
    budgets: list[list[Candidate]] = []
    seen: set[tuple[int, ...]] = set()
    for number in range(_BUDGETS):
        mean_rank = largest / 2**number
        forms: list[Candidate] = []
        budget = round(mean_rank * per_rank)
        spent: dict[Form, dict[str, int]] = {
            "spectrum": allocate(layers, budget),
            "uniform": allocate_uniformly(layers, budget),
        }
        for form, ranks in spent.items():
            key = tuple(ranks.values())
            if key in seen or not any(key):
                continue
            seen.add(key)
            forms += [
                Candidate(
                    mean_rank=mean_rank,
                    form=form,
                    gain=gain,
                    ranks=ranks,
                    parameters=count_parameters(layers, ranks),
                    lora_alpha=round(alpha * gain, 6),
                )
                for gain in GAINS
            ]
        if forms:
            budgets.append(forms)
    return budgets


def propose_references(layers: Sequence[Layer], base: TrainingConfig) -> list[Candidate]:
    """``base`` with each of :data:`REFERENCE_RANKS`, scaled as it says itself."""
    found: list[Candidate] = []
    for rank in REFERENCE_RANKS:
        ranks = {layer.path: rank for layer in layers}
        alpha = base.lora_alpha if base.use_rslora else base.lora_alpha / rank**0.5
        found.append(
            Candidate(
                mean_rank=float(rank),
                form="uniform",
                gain=alpha / compute_neutral_alpha(base),
                ranks=ranks,
                parameters=count_parameters(layers, ranks),
                lora_alpha=round(alpha, 6),
            )
        )
    return found
