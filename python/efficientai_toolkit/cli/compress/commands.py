"""Summaries of the commands."""

COMMANDS = {
    "compress": "make a model smaller and faster within a budget: prune, recover, quantize, measure, choose",
    "prune": "remove weights of a model: magnitude, Wanda, SparseGPT; unstructured or N:M",
    "distill": "train a student, such as a pruned model, to predict what a teacher predicts",
    "evaluate": "measure perplexity, divergence from a reference, and answers to questions",
    "compare": "measure models beside the first one, with a paired test",
    "simulate": "run a model with limited cores, memory and threads, and time its tokens",
    "benchmark": "measure a model in this engine, onnxruntime and llama.cpp",
    "export": "write a model in the format of another program, such as GGUF for llama.cpp",
    "validate": "check environment, model, settings and calibration text before a run",
    "info": "explain compression, its commands and defaults",
}
