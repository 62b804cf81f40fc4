"""Made-up rows and results of benchmarks of quantized models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from efficientai_toolkit.quantize import BenchmarkResult, Measurement


def make_row(variant: str, **values: Any) -> Measurement:
    numbers: dict[str, Any] = {
        "size_bytes": 10_000_000, "bits_per_weight": 4.5, "perplexity": 10.0, "perplexity_increase": 0.0,
        "mean_kl": 0.01, "p99_kl": 0.1, "top_agreement": 0.9, "load_seconds": 0.1,
        "prefill_tokens_per_second": 1000.0, "decode_tokens_per_second": 100.0,
        "peak_memory_bytes": 20_000_000,
    }  # fmt: skip
    return Measurement(**({"model": "m", "variant": variant} | numbers | values))


def make_result(rows: list[Measurement], output: Path = Path("results")) -> BenchmarkResult:
    return BenchmarkResult(output=output, rows=rows)


ROWS = [
    make_row(
        "original", size_bytes=40_000_000, mean_kl=0.0, decode_tokens_per_second=50.0,
        peak_memory_bytes=50_000_000,
    ),
    make_row(
        "small", size_bytes=8_000_000, perplexity_increase=0.05, mean_kl=0.05, decode_tokens_per_second=90.0
    ),
    make_row("fast", perplexity_increase=0.02, mean_kl=0.02, decode_tokens_per_second=150.0),
    make_row("good", size_bytes=12_000_000, perplexity_increase=0.002, mean_kl=0.002),
    make_row("bad", size_bytes=13_000_000, perplexity_increase=0.004, mean_kl=0.004),
    Measurement(model="m", variant="broken", error="quantize: no way"),
]  # fmt: skip
