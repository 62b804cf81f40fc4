"""Fine-tune a GGUF file with LoRA, and answer with the adapter.

uv run python examples/gguf.py model.gguf
"""

import json
import sys
from pathlib import Path

import efficientai_toolkit as eat
from efficientai_toolkit.lora import MLXTrainer, TrainingConfig

QUESTION = "Which colour has the door of the shed?"

path = sys.argv[1]
rows = Path("gguf-example.jsonl")
rows.write_text(json.dumps({"prompt": QUESTION, "completion": "It is blue."}) + "\n")

config = TrainingConfig(model_path=path, data=str(rows), output="gguf-example", iters=30, lr=1e-3)
result = MLXTrainer(config).train()
for adapter in (None, result.adapter_path):
    model, tokenizer = eat.load(path, adapter_path=adapter)
    prompt = [{"role": "user", "content": QUESTION}] if tokenizer.has_chat_template else QUESTION
    print("after: " if adapter else "before:", eat.generate(model, tokenizer, prompt, max_tokens=32))
