"""Fine-tune the embedded model on the bundled data, and ask it something it has not been asked before.

uv run python examples/lora.py
"""

import efficientai_toolkit as eat
from efficientai_toolkit.callbacks import ProgressBar
from efficientai_toolkit.lora import MLXTrainer, TrainingConfig

# Your own: TrainingConfig(model_path="folder or org/name", data="folder with train.jsonl", epochs=2)
config = TrainingConfig.demo()
result = MLXTrainer(config, callback=ProgressBar()).train()
print(f"perplexity {result.metrics['perplexity_before']:.1f} → {result.perplexity:.1f}")

prompt = "Question: What is a fork for?\nAnswer:"
for adapter in (None, result.adapter_path):
    model, tokenizer = eat.load(config.model_path, adapter_path=adapter)
    print("after: " if adapter else "before:", eat.generate(model, tokenizer, prompt, max_tokens=64))
