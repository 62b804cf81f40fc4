"""Teach the embedded model a preference, with ORPO: answers of one sentence rather than long ones.

uv run python examples/preferences.py
"""

import json
from pathlib import Path

import efficientai_toolkit as eat
from efficientai_toolkit._base.assets import INSTRUCTIONS
from efficientai_toolkit.callbacks import ProgressBar
from efficientai_toolkit.lora import MLXTrainer, TrainingConfig, new_run

output = new_run(Path("runs"), kind="orpo")
# Rows of your own: a prompt, the answer that is better, and one that is not.
data = Path(f"{output}-data")
data.mkdir(parents=True, exist_ok=True)
for split in ("train", "valid"):
    with (data / f"{split}.jsonl").open("w", encoding="utf-8") as file:
        for line in (Path(INSTRUCTIONS) / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
            answer = json.loads(line)
            sentence = answer["completion"].partition(".")[0] + "."
            pair = {"chosen": sentence, "rejected": answer["completion"]}
            file.write(json.dumps({"prompt": answer["prompt"], **pair}) + "\n")

config = TrainingConfig(data=str(data), output=str(output), objective="orpo", lr=3e-3, epochs=1)
result = MLXTrainer(config, callback=ProgressBar()).train()
before, after = result.metrics["rewards_before"], result.metrics["rewards_after"]
print(f"pairs it gets right: {before['accuracy']:.0%} → {after['accuracy']:.0%}")

prompt = "Question: What is a fork for?\nAnswer:"
for adapter in (None, result.adapter_path):
    model, tokenizer = eat.load(config.model_path, adapter_path=adapter)
    print("after: " if adapter else "before:", eat.generate(model, tokenizer, prompt, max_tokens=64))
