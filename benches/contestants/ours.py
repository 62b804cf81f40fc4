"""Our toolkit, through the engine that its Python classes call."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from _job import Job, Laps, Result, ids, main, speed_of, speed_of_passes, speed_of_updates, updates
from _job import divergence as compare


def train(job: Job) -> Result:
    """Train for `warmup` + `steps` steps with the trainer behind `MLXTrainer`.

    Adapters on a checkpoint in 4 bits are QLoRA; nothing else tells it from LoRA.
    """
    from efficientai_toolkit import _core

    model, tokenizer = _core.models.load(job["checkpoint"], None, job["dtype"])
    laps = Laps(job["warmup"])

    def observe(event: str) -> None:
        name = json.loads(event)["event"]
        if name == "step":
            laps.lap()
        elif name == "evaluated":
            laps.restart()

    with tempfile.TemporaryDirectory() as folder:
        config = {
            "method": "full" if job["method"] == "full" else "lora",
            "data": job["data"],
            "output": str(Path(folder) / "run"),
            "iters": job["warmup"] + job["steps"],
            "lr": job["lr"],
            "batch_size": job["batch"],
            "max_seq_length": job["length"] + 1,
            "lora_rank": job["rank"],
            "lora_alpha": job["alpha"],
            "dtype": job["dtype"],
            "seed": job["seed"],
            "weight_decay": 0.01,
            "schedule": "constant",
            "warmup_ratio": 0.0,
            "max_grad_norm": 0.0,
            "eval_every": 0,
            "eval_batches": 0,
            "save_every": 0,
        }
        report = json.loads(_core.lora.train(model, tokenizer, json.dumps(config), observe))
    return {
        **laps.speed(job),
        "trainable_parameters": report["trainable_parameters"],
        "loss_before": report["loss_before"],
        "final_loss": report["train_losses"][-1],
    }


def generate(job: Job) -> Result:
    """Decode greedily; the first run is the warm-up."""
    from efficientai_toolkit import _core

    model, tokenizer = _core.models.load(job["checkpoint"], None, job["dtype"])
    config = json.dumps({"max_tokens": job["new_tokens"]})
    for _ in range(2):
        report = json.loads(_core.generate.generate(model, tokenizer, job["prompt"], config, None))
    return {
        "prefill_tokens_per_second": report["prompt_tokens_per_second"],
        "decode_tokens_per_second": report["tokens_per_second"],
        "generated": report["generated_tokens"],
        "ids": ids(report["text"])[: job["check"]],
    }


def quantize(job: Job) -> Result:
    """Quantize as `eat.quantize` does.

    Its seconds include reading the text and saving the model, and those of the processor loading as well.
    """
    from efficientai_toolkit.quantize import quantize as run

    cpu_start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        result = run(
            job["checkpoint"],
            output=f"{folder}/run",
            technique=job["technique"],
            bits=job["bits"],
            group_size=job["group_size"],
            embedding_bits=job["embedding_bits"],
            calibration=str(Path(job["text"]) / "calibration.jsonl"),
            calibration_sequences=job["sequences"],
            sequence_length=job["length"],
            learned_start=job["start"],
            learned_epochs=job["epochs"],
            learned_batch_size=job["batch"],
            seed=job["seed"],
            show_progress=False,
        )
        return {
            "seconds": result.seconds,
            "cpu_seconds": time.process_time() - cpu_start,
            "bits_per_weight": result.bits_per_weight,
            **compare(job, result.output),
        }


def divergence(job: Job) -> Result:
    """Compare the predictions of a quantized model with those of the original one on held-out text."""
    import efficientai_toolkit
    from efficientai_toolkit import _core

    rows = json.loads((Path(job["text"]) / "held_out.json").read_text(encoding="utf-8"))
    quantized, _ = efficientai_toolkit.load(job["quantized"])
    reference, _ = efficientai_toolkit.load(job["checkpoint"])
    return {"divergence": json.loads(_core.evaluate.divergence(quantized, reference, rows))}


def batch(job: Job) -> Result:
    """Continue all prompts together; the clock runs once all are read. The first run is the warm-up."""
    from efficientai_toolkit import _core

    model, tokenizer = _core.models.load(job["checkpoint"], None, job["dtype"])
    accuracy = job["accuracy"] if job["variant"] else None
    config = json.dumps({"max_tokens": job["new_tokens"], "ignore_eos": True})
    result: Result = {}
    for _ in range(2):
        settings = json.dumps({"max_batch": len(job["prompts"])})
        engine = _core.generate.Engine(model, tokenizer, settings, accuracy)
        for prompt in job["prompts"]:
            engine.add(prompt, config)
        seen: set[int] = set()
        counted = generated = 0
        clocks = time.perf_counter(), time.process_time()
        while engine.running + engine.waiting:
            reading = len(seen) < len(job["prompts"])
            for event in json.loads(engine.step()):
                seen.add(event["id"])
                generated += len(event["tokens"])
                counted += 0 if reading else len(event["tokens"])
            if reading:
                clocks = time.perf_counter(), time.process_time()
        result = {
            "tokens_per_second": counted / (time.perf_counter() - clocks[0]),
            "tokens_per_cpu_second": counted / (time.process_time() - clocks[1]),
            "generated": generated,
        }
    return result


def linear(job: Job) -> Result:
    """Measure the kernel alone. Activations are rounded no further than the contestant's name tells."""
    from efficientai_toolkit import kernels

    accuracy = {"float32": "f32", "float16": "f32", "bfloat16": "bf16"}[job["dtype"]]
    quantized = {"bits": 4, "group_size": job["group"], "accuracy": job["variant"] or accuracy}
    seconds = kernels.measure(
        job["task"],
        rows=job["rows"],
        inputs=job["inputs"],
        outputs=job["outputs"],
        dtype=job["dtype"],
        **quantized if job["task"] == "quantized_linear" else {},
    )
    return speed_of(job, seconds)


def sparse_linear(job: Job) -> Result:
    """Measure decoding with a dense weight and with weights of more and more zeros, in turns."""
    from efficientai_toolkit import kernels

    size = {name: job[name] for name in ("rows", "inputs", "outputs", "dtype")}
    if job["bits"]:
        accuracy = job["variant"] or None
        size |= {"bits": job["bits"], "group_size": job["group"], "accuracy": accuracy}
    operation = "quantized_linear" if job["bits"] else "linear"
    laps: dict[str, list[float]] = {}
    for _ in range(job["rounds"]):
        for percent in (None, *job["sparsities"]):
            name = "dense" if percent is None else f"zeros_{percent}"
            sparsity = None if percent is None else percent / 100
            laps.setdefault(name, []).append(kernels.measure(operation, sparsity=sparsity, **size))
    # Shared machines are never faster than they are: the least time is what the kernel takes.
    least = {name: min(seconds) for name, seconds in laps.items()}
    ratios = {name: least["dense"] / seconds for name, seconds in least.items() if name != "dense"}
    return {**ratios, "seconds": least}


def prune_layer(job: Job) -> Result:
    """Prune one layer once by each method."""
    from efficientai_toolkit._engine.core import core

    names = ("rows", "columns", "tokens", "sequence_length", "sparsity")
    parts = json.loads(core.prune.measure(json.dumps({name: job[name] for name in names})))
    return {
        "wanda": parts["norms"] + parts["wanda"],
        "sparsegpt": parts["hessian"] + parts["factor"] + parts["sparsegpt"],
        "parts": parts,
    }


def conv2d(job: Job) -> Result:
    """Measure the kernels alone."""
    from efficientai_toolkit import kernels

    sizes = {
        name: job[name] for name in ("batch", "height", "width", "inputs", "outputs", "kernel", "groups")
    }
    seconds = {
        part: kernels.measure_convolution(**sizes, dtype=job["dtype"], part=part)
        for part in ("forward", "input_gradient", "weight_gradient")
    }
    return speed_of_passes(job, seconds)


def aggregate(job: Job) -> Result:
    """Measure one rule on updates that are there already, or the mean of those that come one by one."""
    from efficientai_toolkit import federated

    rule, f = job["rule"], job["f"]
    if rule == "streamed":
        mean, seconds = federated.Accumulator(), 0.0
        for array in updates(job):
            start = time.perf_counter()
            mean.add({"w": array})
            seconds += time.perf_counter() - start
        mean.average()
        return {"gbs": 4e-9 * job["clients"] * job["parameters"] / seconds, "seconds": seconds}
    options = {} if rule in {"fedavg", "median"} else {"f": f}
    arrays = [{"w": array} for array in updates(job)]
    return speed_of_updates(job, lambda: federated.aggregate(arrays, rule=rule, **options))


main(
    {
        "aggregate": aggregate,
        "train": train,
        "generate": generate,
        "batch": batch,
        "quantize": quantize,
        "divergence": divergence,
        "linear": linear,
        "quantized_linear": linear,
        "sparse_linear": sparse_linear,
        "prune_layer": prune_layer,
        "conv2d": conv2d,
    },
    ("efficientai_toolkit", "mlx"),
)
