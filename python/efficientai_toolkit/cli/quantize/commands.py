"""Summaries of the commands."""

COMMANDS = {
    "quantize": "quantize a model to 2–8 bits: round to nearest, GPTQ, AWQ, learned or mixed precision",
    "select": "choose a few rows of a data set that stand for all, for training or calibration",
    "run": "measure quality, size, memory and speed of models quantized in several ways",
    "recommend": "choose a variant from measured results within limits of memory and loss",
    "compare": "compare two variants, or two benchmarks, side by side",
    "export": "write a model in the format of another program, such as GGUF for llama.cpp",
    "demo": "open a page in the browser that shows results, filters them and starts runs",
    "validate": "check environment, model, settings and calibration text before a run",
    "info": "explain quantization, its commands and defaults",
}
