"""Summaries of the commands."""

COMMANDS = {
    "train": "fine-tune a language model; without options, a small embedded one in about a minute",
    "optimize": "search for the best settings of a run",
    "analyze": "find a rank for each layer, from the data, the gradients and short runs",
    "compare": "compare LoRA, QLoRA, DoRA and full fine-tuning on your data, and recommend one",
    "generate": "continue a prompt, with or without adapters",
    "evaluate": "measure a model: perplexity, token accuracy, answers against right ones, lm-eval tasks",
    "validate": "check environment, model and data before a run",
    "fuse": "merge an adapter into its model, after checking that nothing is lost",
    "convert": "write an adapter in the other format, of mlx-lm or Hugging Face PEFT",
    "info": "explain fine-tuning, its commands and defaults",
}
