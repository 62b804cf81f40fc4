"""Fine-tune a GGUF file of llama.cpp with LoRA, and answer with the adapter: python examples/gguf.py model.gguf."""

import sys

import efficientai_toolkit as eat


def main(path: str) -> None:
    model, tokenizer = eat.load(path)
    question = [{"role": "user", "content": "Which colour has the door of the shed?"}]
    prompt = question if tokenizer.has_chat_template else question[0]["content"]
    print(f"{model.model_type}, {model.num_parameters:,} parameters, weights: {model.config.get('quantization')}")
    print("before:", eat.generate(model, tokenizer, prompt, max_tokens=40))

    config = eat.lora.TrainingConfig(model_path=path, data="shed.jsonl", output="shed-adapter", iters=30)
    eat.lora.MLXTrainer(config).train()
    adapted, tokenizer = eat.load(path, adapter_path="shed-adapter")
    print("after:", eat.generate(adapted, tokenizer, prompt, max_tokens=40))


if __name__ == "__main__":
    main(sys.argv[1])
