"""PEFT's LoRA on given batches: how low the loss gets, not how fast."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from _job import Job, Result, main


def fit(job: Job) -> Result:
    """Take one step per batch of token ids, with AdamW and nothing else."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    job = json.loads(Path(job["job"]).read_text(encoding="utf-8"))
    torch.manual_seed(job["seed"])
    model = AutoModelForCausalLM.from_pretrained(job["checkpoint"], dtype=torch.float32)
    config = LoraConfig(r=job["rank"], lora_alpha=job["alpha"], target_modules="all-linear")
    model = get_peft_model(model, config)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=job["lr"], weight_decay=0.01)

    def losses(batch: list[list[int]]) -> tuple[Any, int]:
        longest = max(map(len, batch))
        padded = torch.tensor([[*row, *[0] * (longest - len(row))] for row in batch])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
        logits = model(input_ids=padded[:, :-1], attention_mask=mask[:, :-1], use_cache=False).logits
        targets = padded[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        return loss, int(mask[:, 1:].sum())

    def validate() -> float:
        with torch.no_grad():
            pairs = [losses([row]) for row in job["valid"]]
        return sum(loss.item() for loss, _ in pairs) / sum(count for _, count in pairs)

    before = validate()
    for batch in job["train"]:
        loss, count = losses(batch)
        (loss / count).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    parameters = sum(p.numel() for p in trainable)
    return {"trainable_parameters": parameters, "loss_before": before, "loss_after": validate()}


main({"fit": fit}, ("torch", "transformers", "peft"))
