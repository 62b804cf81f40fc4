"""Commands of the namespace ``quantized-model-benchmarks``."""
