"""Summaries of the commands."""

COMMANDS = {
    "prune": "remove weights of a model: magnitude, Wanda, SparseGPT; unstructured or N:M",
    "distill": "train a student, such as a pruned model, to predict what a teacher predicts",
    "validate": "check environment, model, settings and calibration text before a run",
    "info": "explain compression, its commands and defaults",
}
