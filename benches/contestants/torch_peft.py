"""PyTorch: transformers and PEFT with a plain training and decoding loop, without a trainer's overhead."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from _job import Job, Laps, Result, ids, main, operands, rows, seconds_per_call, speed_of, speed_of_passes

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def train(job: Job) -> Result:
    """Train for `warmup` + `steps` steps; in bfloat16 the adapter, or the whole model, is bfloat16 too."""
    import torch

    torch.manual_seed(job["seed"])
    model = _load(job)
    if job["method"] != "full":
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=job["rank"], lora_alpha=job["alpha"], lora_dropout=0.0, target_modules=LINEAR)
        model = get_peft_model(model, config, autocast_adapter_dtype=False)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=job["lr"], weight_decay=0.01)

    def loss_of(forward: Any, batch: list[list[int]]) -> Any:
        tokens = torch.tensor(batch, device=model.device)
        logits = forward(input_ids=tokens[:, :-1], use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())

    model.eval()
    with torch.no_grad():
        loss_before = loss_of(model, rows(job, "valid")).item()
    model.train()
    forward = torch.compile(model, dynamic=False) if job["variant"] == "compile" else model
    data = rows(job, "train")
    laps = Laps(job["warmup"])
    for step in range(job["warmup"] + job["steps"]):
        start = step * job["batch"] % len(data)
        loss = loss_of(forward, data[start : start + job["batch"]])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        final_loss = loss.item()
        laps.lap()
    return {
        **laps.speed(job),
        "trainable_parameters": sum(p.numel() for p in trainable),
        "loss_before": loss_before,
        "final_loss": final_loss,
    }


def generate(job: Job) -> Result:
    """Decode greedily with a key-value cache; the first run is the warm-up."""
    import torch

    model = _load(job).eval()
    prompt = torch.tensor([ids(job["prompt"])], device=model.device)
    with torch.inference_mode():
        for _ in range(2):
            start = time.perf_counter()
            out = model(input_ids=prompt, use_cache=True, logits_to_keep=1)
            tokens = [out.logits[0, -1].argmax().item()]
            first = time.perf_counter()
            while len(tokens) < job["new_tokens"]:
                token = torch.tensor([tokens[-1:]], device=model.device)
                out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
                tokens.append(out.logits[0, -1].argmax().item())
            end = time.perf_counter()
    return {
        "prefill_tokens_per_second": prompt.numel() / (first - start),
        "decode_tokens_per_second": (len(tokens) - 1) / (end - first),
        "generated": len(tokens),
        "ids": tokens[: job["check"]],
    }


def linear(job: Job) -> Result:
    """Measure one linear layer without a bias."""
    import torch

    x, weight = (torch.from_numpy(a).to(getattr(torch, job["dtype"])) for a in operands(job))
    with torch.inference_mode():
        return speed_of(job, seconds_per_call(lambda: torch.nn.functional.linear(x, weight)))


def conv2d(job: Job) -> Result:
    """Measure a convolution and its gradients, with channels last, as torch advises on a CPU."""
    import torch

    side, dtype = job["kernel"], getattr(torch, job["dtype"])
    shapes = {
        "x": (job["batch"], job["inputs"], job["height"], job["width"]),
        "weight": (job["outputs"], job["inputs"] // job["groups"], side, side),
        "dy": (job["batch"], job["outputs"], job["height"], job["width"]),
    }
    x, weight, dy = (
        torch.randn(shape).to(dtype).to(memory_format=torch.channels_last) for shape in shapes.values()
    )
    half, groups = [side // 2] * 2, job["groups"]
    options = {"stride": [1, 1], "padding": half, "dilation": [1, 1], "groups": groups}
    # What autograd calls.
    backward = partial(
        torch.ops.aten.convolution_backward,
        *(dy, x, weight, None),
        **options,
        transposed=False,
        output_padding=[0, 0],
    )

    with torch.inference_mode():
        seconds = {
            "forward": seconds_per_call(lambda: torch.nn.functional.conv2d(x, weight, **options)),
            "input_gradient": seconds_per_call(lambda: backward(output_mask=[True, False, False])),
            "weight_gradient": seconds_per_call(lambda: backward(output_mask=[False, True, False])),
        }
    return speed_of_passes(job, seconds)


def _load(job: Job) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(job["checkpoint"], dtype=getattr(torch, job["dtype"]))
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


main(
    {"train": train, "generate": generate, "linear": linear, "conv2d": conv2d},
    ("torch", "transformers", "peft"),
)
