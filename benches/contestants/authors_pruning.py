"""Wanda and SparseGPT by the formulas of their authors' code, in PyTorch.

https://github.com/locuslab/wanda and https://github.com/IST-DASLab/sparsegpt, whose code needs a GPU.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from _job import Job, Result, main

if TYPE_CHECKING:
    import torch

BLOCK = 128
"""Columns that SparseGPT prunes before it changes those behind them."""

DAMPING = 0.01


def prune_layer(job: Job) -> Result:
    """Prune one layer once by each method."""
    import torch

    torch.manual_seed(0)
    columns, sparsity, step = job["columns"], job["sparsity"], job["sequence_length"]
    weight = torch.randn(job["rows"], columns)
    inputs = [
        torch.randn(min(step, job["tokens"] - start), columns) for start in range(0, job["tokens"], step)
    ]
    with torch.inference_mode():
        norms, squares = timed(column_squares, inputs)
        wanda, _ = timed(prune_wanda, weight, squares, sparsity)
        hessian, moments = timed(second_moments, inputs)
        factor, upper = timed(inverse_factor, moments)
        sparsegpt, _ = timed(prune_sparsegpt, weight, upper, sparsity)
    parts = {"norms": norms, "wanda": wanda, "hessian": hessian, "factor": factor, "sparsegpt": sparsegpt}
    return {"wanda": norms + wanda, "sparsegpt": hessian + factor + sparsegpt, "parts": parts}


def timed(work: Any, *arguments: Any) -> tuple[float, Any]:
    """Give the seconds of a call and its result."""
    start = time.perf_counter()
    result = work(*arguments)
    return time.perf_counter() - start, result


def column_squares(inputs: list[torch.Tensor]) -> torch.Tensor:
    """Mean over the sequences of the squared norm of each column."""
    import torch

    squares = torch.zeros(inputs[0].shape[1])
    for seen, x in enumerate(inputs):
        squares *= seen / (seen + 1)
        squares += torch.norm(x.t(), p=2, dim=1) ** 2 / (seen + 1)
    return squares


def prune_wanda(weight: torch.Tensor, squares: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Remove the lowest `|w|·norm(x)` of each row."""
    import torch

    metric = weight.abs() * torch.sqrt(squares.reshape(1, -1))
    mask = torch.zeros_like(metric) == 1
    order = torch.sort(metric, dim=-1, stable=True)[1]
    mask.scatter_(1, order[:, : int(weight.shape[1] * sparsity)], value=True)
    pruned = weight.clone()
    pruned[mask] = 0
    return pruned


def second_moments(inputs: list[torch.Tensor]) -> torch.Tensor:
    """Mean over the sequences of `2·xᵀ·x`."""
    import torch

    columns = inputs[0].shape[1]
    moments = torch.zeros(columns, columns)
    for seen, x in enumerate(inputs):
        moments *= seen / (seen + 1)
        scaled = (2 / (seen + 1)) ** 0.5 * x.t()
        moments += scaled.matmul(scaled.t())
    return moments


def inverse_factor(moments: torch.Tensor) -> torch.Tensor:
    """Give the upper factor of the inverse of the damped Hessian."""
    import torch

    diagonal = torch.arange(moments.shape[0])
    moments[diagonal, diagonal] += DAMPING * torch.mean(torch.diag(moments))
    lower = torch.linalg.cholesky(moments)
    return torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)


def prune_sparsegpt(weight: torch.Tensor, factor: torch.Tensor, sparsity: float) -> torch.Tensor:
    """Remove weights column by column, and let those behind them make up for it."""
    import torch

    weight = weight.clone()
    for start in range(0, weight.shape[1], BLOCK):
        end = min(start + BLOCK, weight.shape[1])
        block = weight[:, start:end].clone()
        kept, errors = torch.zeros_like(block), torch.zeros_like(block)
        part = factor[start:end, start:end]
        scores = block**2 / torch.diag(part).reshape((1, -1)) ** 2
        removed = scores <= torch.sort(scores.flatten())[0][int(scores.numel() * sparsity)]
        for i in range(end - start):
            column = block[:, i]
            stays = column.clone()
            stays[removed[:, i]] = 0
            kept[:, i] = stays
            error = (column - stays) / part[i, i]
            block[:, i:] -= error.unsqueeze(1).matmul(part[i, i:].unsqueeze(0))
            errors[:, i] = error
        weight[:, start:end] = kept
        weight[:, end:] -= errors.matmul(factor[start:end, end:])
    return weight


main({"prune_layer": prune_layer}, ("torch",))
