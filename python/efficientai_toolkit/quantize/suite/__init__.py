"""Benchmark of quantized models: quality, size, memory and speed of models × techniques × settings."""
