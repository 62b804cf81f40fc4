"""Summaries of the commands."""

COMMANDS = {
    "train": "fine-tune a language model; without options, a small embedded one in about a minute",
    "optimize": "search for the best hyperparameters",
    "analyze": "choose the rank of each layer from the data, its gradients and short runs",
    "compare": "compare LoRA, QLoRA, DoRA and full fine-tuning on your data, and recommend one",
    "generate": "generate text from a prompt, with or without an adapter",
    "serve": "serve a model with its adapters over HTTP, in the manner of OpenAI's API",
    "ui": "open a page in the browser: data, training, runs, chat, models",
    "evaluate": "evaluate a model: perplexity, accuracy, generated answers, lm-eval tasks",
    "validate": "check environment, model and data before a run",
    "fuse": "merge an adapter into its model, and measure what rounding loses",
    "convert": "convert an adapter between the formats of mlx-lm and Hugging Face PEFT",
    "export": "write a model in the format of another program, such as GGUF for llama.cpp",
    "info": "explain fine-tuning, its commands and defaults",
}
