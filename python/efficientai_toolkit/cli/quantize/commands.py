"""Summaries of the commands."""

COMMANDS = {
    "quantize": "quantize a model to 2–8 bits: round to nearest, GPTQ or learned",
    "validate": "check environment, model, settings and calibration text before a run",
    "info": "explain quantization, its commands and defaults",
}
