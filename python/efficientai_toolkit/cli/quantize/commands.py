"""Summaries of the commands."""

COMMANDS = {
    "quantize": "quantize a model to 2–8 bits: round to nearest, GPTQ, AWQ, learned or mixed precision",
    "validate": "check environment, model, settings and calibration text before a run",
    "info": "explain quantization, its commands and defaults",
}
