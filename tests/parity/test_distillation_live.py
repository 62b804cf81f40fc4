"""Losses and gradients of distillation are those of PyTorch, with the formulas of the papers and of TRL."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from efficientai_toolkit.callbacks.training import Step
from efficientai_toolkit.distill import distill
from support.engine import MODELS
from support.rows import EOS, random_ids, write_words

if TYPE_CHECKING:
    from support.figures import Check

pytestmark = [pytest.mark.parity, pytest.mark.timeout(600)]

TEACHER, STUDENT = MODELS / "llama_gqa", MODELS / "llama_tied"
ROWS = random_ids(3, [14, 14, 14], seed=3)


def divergence(teacher: Any, student: Any, settings: dict[str, Any]) -> Any:
    """Per position, with ``F.kl_div``, whose first argument is the approximation."""
    import torch

    p, q = torch.log_softmax(teacher, -1), torch.log_softmax(student, -1)

    def kl(approximation: Any, target: Any) -> Any:
        both = torch.nn.functional.kl_div(approximation, target, reduction="none", log_target=True)
        return both.sum(-1)

    def mixture(weight: float) -> Any:
        share = torch.tensor(weight)
        return torch.logsumexp(torch.stack([p + share.log(), q + torch.log1p(-share)]), 0)

    match settings["loss"]:
        case "reverse_kl":
            return kl(p, q)
        case "js":
            beta, m = settings["js_beta"], mixture(settings["js_beta"])
            return beta * kl(m, p) + (1 - beta) * kl(m, q)
        case "skewed_kl":
            return kl(mixture(settings["skew"]), p)
        case _:
            return kl(q, p)


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "forward_kl", "temperature": 1.0, "alpha": 1.0},
        {"loss": "reverse_kl", "temperature": 2.0, "alpha": 1.0},
        {"loss": "js", "js_beta": 0.3, "temperature": 1.0, "alpha": 0.6},
        {"loss": "skewed_kl", "skew": 0.2, "temperature": 1.5, "alpha": 0.5},
    ],
    ids=lambda settings: settings["loss"],
)
def test_loss_and_gradient_are_those_of_pytorch(
    ref: ModuleType, tmp_path: Path, figure: Check, settings: dict[str, Any]
) -> None:
    import torch

    teacher, student = ref.load(TEACHER), ref.load(STUDENT)
    ids = torch.tensor([[*row, EOS] for row in ROWS])
    with torch.no_grad():
        expected = teacher(ids[:, :-1]).logits
    logits = student(ids[:, :-1]).logits
    temperature, alpha = settings["temperature"], settings["alpha"]
    distilled = divergence(expected / temperature, logits / temperature, settings).mean() * temperature**2
    labelled = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    loss = alpha * distilled + (1 - alpha) * labelled
    loss.backward()
    expected_loss = float(loss.detach())
    norm = sum(float(x.grad.square().sum()) for x in student.parameters() if x.grad is not None) ** 0.5

    steps: list[Step] = []
    distill(
        STUDENT,
        teacher=TEACHER,
        data=write_words(tmp_path / "data", ROWS),
        output=tmp_path / "out",
        method="full",
        iters=1,
        batch_size=len(ROWS),
        dtype="float32",
        callback=lambda event: steps.append(event) if isinstance(event, Step) else None,
        **settings,
    )
    figure(f"{settings['loss']} loss", abs(steps[0].loss / expected_loss - 1), 1e-5)
    figure(f"{settings['loss']} norm of the gradient", abs(steps[0].grad_norm / norm - 1), 1e-4)
