"""Candidates: combinations of pruning, recovery and quantization, and how they are written."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from efficientai_toolkit.compress.recovery import RECOVERIES
from efficientai_toolkit.compress.weights import Weights
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.quantize.suite.config import available_techniques

if TYPE_CHECKING:
    from collections.abc import Sequence

NONE = "none"
"""Step that is left out."""

LARGEST_UNIFORM = "rtn-8"
"""Quantization to the most bits that `mixed` chooses from."""

_PRUNING = re.compile(r"(unstructured|width|depth|\d+:\d+)(?:-(0?\.\d+))?")
_QUANTIZATION = re.compile(r"([a-z]+)(?:-(\d+(?:\.\d+)?))?(?:-g(\d+))?(?:-e(\d+))?")

_COSTS = {NONE: 0, "rtn": 1, "gptq": 2, "awq": 3, "mixed": 4, "learned": 5}
"""Rank of techniques by the time that they take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A combination."""

    pruning: str
    recovery: str
    quantization: str

    @property
    def steps(self) -> tuple[str, ...]:
        """Steps that are not left out, in order."""
        return tuple(step for step in (self.pruning, self.recovery, self.quantization) if step != NONE)

    @property
    def name(self) -> str:
        """Steps joined by ``+``, such as ``depth-0.1+lora+gptq-4``."""
        return "+".join(self.steps) or "original"

    @property
    def dense(self) -> "Candidate":
        """The candidate without its quantization."""
        return Candidate(pruning=self.pruning, recovery=self.recovery, quantization=NONE)

    @property
    def pruned(self) -> "Candidate":
        """The candidate without recovery and quantization."""
        return Candidate(pruning=self.pruning, recovery=NONE, quantization=NONE)

    @property
    def cost(self) -> tuple[int, int, int]:
        """Rank by the time that the steps take."""
        technique = self.quantization.partition("-")[0]
        return self.recovery != NONE, self.pruning != NONE, _COSTS.get(technique, len(_COSTS))


def list_candidates(
    prunings: "Sequence[str]", recoveries: "Sequence[str]", quantizations: "Sequence[str]"
) -> list[Candidate]:
    """Return all combinations but the original; what was not pruned needs no recovery."""
    found = [
        Candidate(pruning=pruning, recovery=recovery if pruning != NONE else NONE, quantization=quantization)
        for pruning, recovery, quantization in product(prunings, recoveries, quantizations)
    ]
    return [one for one in dict.fromkeys(found) if one.steps]


def order_candidates(candidates: "Sequence[Candidate]", weights: Weights) -> list[Candidate]:
    """Return candidates in the order in which they are tried: cheap ones first, of these the largest."""
    return sorted(candidates, key=lambda one: (one.cost, -predict_size(one, weights), one.name))


def read_pruning(text: str) -> dict[str, Any]:
    """Return the settings of a pruning, such as ``none``, ``depth-0.1``, ``unstructured-0.5`` or ``2:4``.

    Raises
    ------
    ConfigError
        If it is none of these.
    """
    found = _PRUNING.fullmatch(text)
    if text == NONE:
        return {}
    if found is None or (":" in text) == (found[2] is not None):
        message = (
            f"`prune` has {text!r}; it takes none, depth-0.1, width-0.2, unstructured-0.5 (pattern and "
            "fraction to remove) and N:M, such as 2:4"
        )
        raise ConfigError(message)
    return {"pattern": found[1]} | ({} if found[2] is None else {"sparsity": float(found[2])})


def read_quantization(text: str) -> dict[str, Any]:
    """Return the settings of a quantization, such as ``none``, ``rtn-8``, ``gptq-4-g32-e4`` or ``mixed-4.5``.

    Raises
    ------
    ConfigError
        If it is none of these.
    """
    if text == NONE:
        return {}
    found = _QUANTIZATION.fullmatch(text)
    known = available_techniques()
    is_number = found is not None and (found[1] == "mixed" or (found[2] or "").isdecimal())
    if found is None or found[1] not in known or not is_number:
        message = (
            f"`quantize` has {text!r}; it takes none, mixed (as large as the budget allows), mixed-4.5 "
            f"(bits per weight), and a technique ({', '.join(known)}) with bits, and if you like a group "
            "size (-g32) "
            "and bits of the embeddings (-e4): gptq-4, rtn-8, gptq-4-g32-e4"
        )
        raise ConfigError(message)
    settings: dict[str, Any] = {"technique": found[1]}
    if found[1] == "mixed":
        settings |= {} if found[2] is None else {"target_bpw": float(found[2])}
    else:
        settings["bits"] = int(found[2])
    for place, name in ((3, "group_size"), (4, "embedding_bits")):
        if found[place] is not None:
            settings[name] = int(found[place])
    return settings


def read_recovery(text: str) -> str:
    """Return a recovery after checking that there is one of this name.

    Raises
    ------
    ConfigError
        If there is none.
    """
    if text != NONE and text not in RECOVERIES:
        message = f"`recover` has {text!r}; there are {NONE}, {', '.join(RECOVERIES)}"
        raise ConfigError(message)
    return text


def predict_size(candidate: Candidate, weights: Weights, limit: int | None = None) -> int:
    """Return about how many bytes a candidate has; ``limit`` is the size that ``mixed`` is made for."""
    pruning = read_pruning(candidate.pruning)
    removed = pruning.get("sparsity", 0.0) if pruning.get("pattern") in {"depth", "width"} else 0.0
    left = weights.without(removed, blocks=pruning.get("pattern") == "depth")
    settings: Mapping[str, Any] = read_quantization(candidate.quantization)
    if not settings:
        return left.size
    if settings["technique"] == "mixed":
        bits = settings.get("target_bpw")
        return int(left.parameters * bits / 8) if bits is not None else min(limit or left.size, left.size)
    return left.quantized(settings["bits"], settings.get("group_size", 64), settings.get("embedding_bits", 8))
