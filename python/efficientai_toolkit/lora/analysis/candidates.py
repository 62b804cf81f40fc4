"""Candidate ranks for short runs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from efficientai_toolkit.lora.analysis.allocation import Layer, allocate, allocate_uniformly, count_parameters
from efficientai_toolkit.lora.config import TrainingConfig

Form = Literal["spectrum", "uniform"]
"""Allocated by gradient spectrum, or the same rank for all layers."""

REFERENCE_RANKS = (4, 8, 16, 32)
"""Commonly used uniform ranks."""

_BUDGETS = 5
GAINS = (1.0, 2.0, 4.0)
"""Factors of the adapter scale; fewer parameters may need larger updates."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """Ranks of all layers and the scale of the adapters."""

    mean_rank: float
    """Parameter budget, expressed as a uniform rank."""
    form: Form
    gain: float
    """Factor applied to the adapter scale of the run."""
    ranks: dict[str, int]
    """Rank by layer; 0 for no adapter."""
    parameters: int
    lora_alpha: float
    """Value for ``use_rslora``: the scale of a layer is ``lora_alpha / √rank``."""

    def apply(self, base: TrainingConfig) -> TrainingConfig:
        """Return the configuration of a run with these ranks."""
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
    """Compute the ``lora_alpha`` for which rsLoRA has the same scale as ``base``."""
    return base.lora_alpha if base.use_rslora else base.lora_alpha / base.lora_rank**0.5


def propose_candidates(
    layers: Sequence[Layer], base: TrainingConfig, largest: float
) -> list[list[Candidate]]:
    """Propose candidates for budgets from ``largest`` downwards, each half of the previous one.

    Scales are proportional to ``1 / √rank`` as in `rsLoRA <https://arxiv.org/abs/2312.03732>`_, so that one
    learning rate suits all ranks. At rank ``base.lora_rank`` the scale equals that of ``base``.
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
    """Return ``base`` with each of :data:`REFERENCE_RANKS` and its own scale."""
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
