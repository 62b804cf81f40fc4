"""PyTorch: transformers and PEFT with a plain training and decoding loop, without a trainer's overhead."""

from __future__ import annotations

import time
from typing import Any

from _job import Job, Laps, Result, ids, main, operands, rows, seconds_per_call, speed_of

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


def _load(job: Job) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(job["checkpoint"], dtype=getattr(torch, job["dtype"]))
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


main({"train": train, "generate": generate, "linear": linear}, ("torch", "transformers", "peft"))
