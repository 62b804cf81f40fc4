"""mlx-lm's quantization, as its commands `mlx_lm.gptq`, `mlx_lm.awq` and `mlx_lm.dwq` run it.

Instead of the text that these download, they get the tokens of the job.
"""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import mlx.core as mx
from _job import Job, Result, sequences

Quantized = tuple[Any, dict[str, Any]]


def quantize(model: Any, job: Job) -> tuple[Any, dict[str, Any], Result]:
    """Give the quantized model, its configuration, and how long it took, without loading and saving."""
    config = json.loads((Path(job["checkpoint"]) / "config.json").read_text(encoding="utf-8"))
    dtype = getattr(mx, config.get("torch_dtype") or config["dtype"])
    tokens = sequences(job)
    mx.random.seed(job["seed"])
    start, cpu_start = time.perf_counter(), time.process_time()
    model, config = TECHNIQUES[job["technique"]](model, config, tokens, job)
    mx.eval(model.parameters())
    took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu_start}
    model.set_dtype(dtype)
    return model, config, took


def gptq(model: Any, config: dict[str, Any], tokens: list[list[int]], job: Job) -> Quantized:
    """Round column by column."""
    from mlx_lm.quant.gptq import gptq_quantize

    model, config["quantization"] = gptq_quantize(
        model, mx.array(tokens), job["bits"], job["group_size"], job["embedding_bits"], job["group_size"]
    )
    return model, config


def awq(model: Any, config: dict[str, Any], tokens: list[list[int]], job: Job) -> Quantized:
    """Scale channels by activations, and clip."""
    from mlx_lm.quant.awq import AWQ_MODEL_CONFIGS, awq_quantize, update_config

    awq_quantize(
        model,
        mx.array(tokens),
        AWQ_MODEL_CONFIGS[config["model_type"]],
        bits=job["bits"],
        group_size=job["group_size"],
        embed_bits=job["embedding_bits"],
        embed_group_size=job["group_size"],
    )
    return model, update_config(model, config)


def dwq(model: Any, config: dict[str, Any], tokens: list[list[int]], job: Job) -> Quantized:
    """Round to nearest, and learn scales and biases; every eighth sequence is for validation, as in ours."""
    from mlx.optimizers import Adam
    from mlx_lm.quant.dwq import dwq_quantize
    from mlx_lm.utils import quantize_model

    def form(path: str, _: Any) -> bool | dict[str, Any]:
        ends = path.rpartition(".")[2] in {"embed_tokens", "lm_head"}
        return {"group_size": job["group_size"], "bits": job["embedding_bits"]} if ends else True

    train = [(row, 0) for number, row in enumerate(tokens) if number % 8 != 7]
    quantized, config = quantize_model(
        copy.deepcopy(model), config, job["group_size"], job["bits"], quant_predicate=form
    )
    dwq_quantize(
        quantized,
        lambda batch, *_, **__: model(batch),
        Adam(learning_rate=job["lr"], bias_correction=True),
        train * job["epochs"],
        [(row, 0) for row in tokens[7::8]],
        batch_size=job["batch"],
        max_seq_length=job["length"],
        seed=job["seed"],
        dtype=getattr(mx, job["dtype"]),
    )
    return quantized, config


TECHNIQUES = {"gptq": gptq, "awq": awq, "learned": dwq}
