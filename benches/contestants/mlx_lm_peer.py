"""mlx-lm: its own trainer and its own generator, as `mlx_lm.lora` and `mlx_lm.generate` run them.

Adapters on a checkpoint in 4 bits are QLoRA. The variant `accelerated` has MLX use our products of matrices.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

from _job import Job, Laps, Result, divergence, ids, main, rows


def train(job: Job) -> Result:
    """Train for `warmup` + `steps` steps with `mlx_lm.tuner.trainer.train`."""
    model, _ = _load(job)
    import mlx.core as mx
    from mlx.optimizers import AdamW
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.callbacks import TrainingCallback
    from mlx_lm.tuner.trainer import TrainingArgs, evaluate
    from mlx_lm.tuner.trainer import train as run
    from mlx_lm.tuner.utils import linear_to_lora_layers

    mx.random.seed(job["seed"])
    if job["method"] != "full":
        model.freeze()
        scale = job["alpha"] / job["rank"]
        linear_to_lora_layers(model, len(model.layers), {"rank": job["rank"], "scale": scale, "dropout": 0.0})
    if job["dtype"] != "float32":
        model.set_dtype(getattr(mx, job["dtype"]))
    width = job["length"] + 1
    valid = [(row, 0) for row in rows(job, "valid")]
    loss_before = evaluate(model, valid, batch_size=1, num_batches=-1, max_seq_length=width)
    laps = Laps(job["warmup"])

    class Watch(TrainingCallback):
        loss = 0.0

        def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
            laps.lap()
            self.loss = train_info["train_loss"]

    watch = Watch()
    steps = job["warmup"] + job["steps"]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        arguments = TrainingArgs(
            batch_size=job["batch"],
            iters=steps,
            steps_per_report=1,
            steps_per_save=steps + 1,
            max_seq_length=width,
            adapter_file=str(Path(folder) / "adapters.safetensors"),
        )
        optimizer = AdamW(learning_rate=job["lr"], weight_decay=0.01)
        run(
            model,
            optimizer,
            [(row, 0) for row in rows(job, "train")],
            args=arguments,
            training_callback=watch,
        )
    return {
        **laps.speed(job),
        "trainable_parameters": sum(value.size for _, value in tree_flatten(model.trainable_parameters())),
        "loss_before": float(loss_before),
        "final_loss": float(watch.loss),
    }


def generate(job: Job) -> Result:
    """Decode greedily with `mlx_lm.stream_generate`; the first run is the warm-up."""
    model, tokenizer = _load(job)
    from mlx_lm import stream_generate

    for _ in range(2):
        *_, last = stream_generate(model, tokenizer, ids(job["prompt"]), max_tokens=job["new_tokens"])
    text = "".join(
        part.text for part in stream_generate(model, tokenizer, ids(job["prompt"]), max_tokens=job["check"])
    )
    return {
        "prefill_tokens_per_second": last.prompt_tps,
        "decode_tokens_per_second": last.generation_tps,
        "generated": last.generation_tokens,
        "ids": ids(text),
    }


def both(job: Job) -> Result:
    """Train, then generate."""
    return generate(job) | train(job)


def quantize(job: Job) -> Result:
    """Quantize with `mlx_lm.quant`, and save what came out with the floats of the checkpoint."""
    model, tokenizer = _load(job)
    import mlx_lm_quantization
    from mlx_lm.utils import save

    with tempfile.TemporaryDirectory() as folder:
        # The progress goes where it does not hide the result.
        with contextlib.redirect_stdout(sys.stderr):
            model, config, took = mlx_lm_quantization.quantize(model, job)
            save(folder, job["checkpoint"], model, tokenizer, config)
        return {**took, **divergence(job, Path(folder))}


def _load(job: Job) -> tuple[Any, Any]:
    """Load the model; call before any other use of MLX."""
    if job["variant"] == "accelerated":
        import efficientai_toolkit

        efficientai_toolkit.accelerate_mlx()
    import mlx.core as mx
    from mlx_lm import load

    model, tokenizer = load(job["checkpoint"])
    model.set_dtype(getattr(mx, job["dtype"]))
    mx.eval(model.parameters())
    return model, tokenizer


main({"train": train, "generate": generate, "both": both, "quantize": quantize}, ("mlx-lm", "mlx"))
