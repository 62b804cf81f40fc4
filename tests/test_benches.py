"""The suites of ``benches/``: their cases, and one that needs nothing but numpy."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from efficientai_toolkit import benchmark, load
from efficientai_toolkit.benchmark import Suite
from efficientai_toolkit.exceptions import ConfigError

BENCHES = Path(__file__).parents[1] / "benches"


def suite(name: str, **arguments: object) -> Suite:
    return Suite(source=str(BENCHES / f"{name}.py"), arguments=arguments)


def test_like_is_compared_with_like() -> None:
    cases = benchmark.list_cases(suite("kernels", operation="quantized_linear", sizes="8x64x64"))
    groups: dict[str, list[str]] = {}
    for case in cases:
        groups.setdefault(case["group"], []).append(case["case"].rpartition(" ")[2])
    assert groups == {
        "quantized_linear 8x64x64 float32": ["ours", "onnxruntime"],
        "quantized_linear 8x64x64 bfloat16": ["ours-bf16"],
        "quantized_linear 8x64x64 float32 int8": ["ours-int8", "onnxruntime-int8"],
    }


@pytest.mark.parametrize(
    ("name", "arguments", "names"),
    [
        (
            "lora",
            {"method": "full", "contestants": "ours,torch-compile-bf16"},
            ["ours", "torch-compile-bf16"],
        ),
        ("generate", {"contestants": "ours,mlx-lm"}, ["ours", "mlx-lm"]),
        ("batching", {"contestants": "ours,ours-q4"}, ["ours", "ours-q4"]),
        ("accelerate", {}, ["mlx-lm", "mlx-lm-accelerated"]),
    ],
)
def test_cases_of_models(
    name: str, arguments: Mapping[str, object], names: list[str], tmp_path: Path
) -> None:
    cases = benchmark.list_cases(suite(name, cache=str(tmp_path), sizes="1x8", **arguments))
    assert [case["case"].rpartition(" ")[2] for case in cases] == names
    assert {case["kind"] for case in cases} == {"command"}
    assert all(case["same"] for case in cases)
    assert (tmp_path / "tiny" / "model.safetensors").is_file()


def test_cases_of_aggregation() -> None:
    cases = suite("federated", rules="median,bulyan", sizes="20x10,5x10").load()
    assert [case.name for case in cases] == [
        f"{rule} {size} {who}"
        for size in ("20x10", "5x10")
        for rule in ("median", "bulyan")
        for who in ("ours", "flower")
    ]
    for arguments, message in (
        ({"rules": "mean"}, "rule 'mean' is none of"),
        ({"sizes": "5"}, "give CLIENTSx"),
    ):
        with pytest.raises(ConfigError, match=message):
            suite("federated", **arguments).load()


@pytest.mark.parametrize("technique", ["gptq", "awq", "learned"])
def test_cases_of_quantization_read_the_same_tokens(technique: str, tmp_path: Path) -> None:
    found = suite("quantization", cache=str(tmp_path), technique=technique, sizes="8x32", scored="2x16")
    cases = found.load()
    assert [case.name.rpartition(" ")[2] for case in cases] == ["ours", "mlx-lm", "mlx-lm-accelerated"]
    assert {case.group for case in cases} == {f"{technique} model 4 bits 8x32 float32"}
    (text,) = {json.loads((case.command or [])[-1])["text"] for case in cases}
    calibration, held_out = (
        json.loads((Path(text) / f"{name}.json").read_text()) for name in ("calibration", "held_out")
    )
    assert [len(row) for row in calibration] == [32] * 8
    assert [len(row) for row in held_out] == [16] * 2
    # What ours reads begins with what the others get.
    (row,) = (Path(text) / "calibration.jsonl").read_text().splitlines()
    _, tokenizer = load()
    tokens = tokenizer.encode(json.loads(row)["text"])
    assert calibration == [tokens[start : start + 32] for start in range(0, 8 * 32, 32)]


@pytest.mark.parametrize(
    ("technique", "contestant"),
    [
        ("gptq", "ours"),
        pytest.param("learned", "ours", marks=pytest.mark.slow),
        pytest.param("gptq", "mlx-lm", marks=pytest.mark.slow),
        pytest.param("awq", "mlx-lm", marks=pytest.mark.slow),
        pytest.param("learned", "mlx-lm", marks=pytest.mark.slow),
    ],
)
def test_a_quantization_is_measured(technique: str, contestant: str, tmp_path: Path) -> None:
    chosen = suite(
        "quantization",
        cache=str(tmp_path),
        technique=technique,
        sizes="8x16",
        scored="4x64",
        epochs=1,
        contestants=contestant,
    )
    (result,) = benchmark.run(chosen, output=tmp_path / "r.sqlite").results
    assert result.status == "ok", result.reason
    assert list(result.metrics) == ["seconds", "cpu_seconds", "perplexity", "mean_kl"]
    assert result.higher_is_better == []
    assert 0 < result.metrics["mean_kl"][0] < 0.1
    # 4 bits and 8 bits for the embeddings, each with a scale and a bias per 64 weights.
    parameters, embeddings = 3_475_712, 2048 * 256
    expected = (4.5 * (parameters - embeddings) + 8.5 * embeddings) / 8
    assert result.details["size_bytes"] == pytest.approx(expected, rel=0.02)


def test_zeros_are_measured_beside_dense_weights(tmp_path: Path) -> None:
    chosen = suite("sparse", sizes="1x256x64", formats="bf16,8", sparsities="50,90", rounds=1)
    for result in benchmark.run(chosen, output=tmp_path / "r.sqlite").results:
        assert result.status == "ok", result.reason
        assert list(result.metrics) == ["zeros_50", "zeros_90"]
        assert min(speed for laps in result.metrics.values() for speed in laps) > 0


def test_the_pruning_of_a_layer_is_measured(tmp_path: Path) -> None:
    chosen = suite("pruning", sizes="32x128", tokens=256, contestants="ours")
    (result,) = benchmark.run(chosen, output=tmp_path / "r.sqlite").results
    assert result.status == "ok", result.reason
    assert list(result.metrics) == ["wanda", "sparsegpt"]
    assert result.higher_is_better == []


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("sparse", {"formats": "3bit"}, "format '3bit' is none of f32, bf16, f16, 8, 4"),
        ("kernels", {"operation": "sum"}, "operation 'sum' is none of linear, quantized_linear, conv2d"),
        ("kernels", {"contestants": "them"}, "unknown contestant 'them': use ours, torch, numpy"),
        ("kernels", {"sizes": "2x2"}, "the size 2x2: give rows, inputs, outputs with x between them"),
        ("kernels", {"operation": "conv2d", "sizes": "1x8x8x4x4x2"}, "the kernel must be odd"),
        ("kernels", {"python": {"them": "x"}}, "python: them is none of ours, mlx-lm, torch"),
        ("lora", {"shape": "huge"}, "method and shape are one of"),
        ("lora", {"method": "qlora", "contestants": "torch"}, "PyTorch has no training in 4 bits on a CPU"),
        ("generate", {"shape": "huge"}, "shape 'huge' is none of tiny"),
        ("batching", {"shape": "huge"}, "shape 'huge' is none of tiny"),
        ("quantization", {"technique": "hqq"}, "technique 'hqq' is none of gptq, awq, learned"),
        ("quantization", {"technique": "learned", "sizes": "4x32"}, "the size 4x32: every eighth sequence"),
        (
            "quantization",
            {"sizes": "4000x512"},
            "train.jsonl has text for [0-9]+ sequences of 512 tokens, not",
        ),
    ],
)
def test_bad_arguments_are_named(name: str, arguments: Mapping[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}\.py: cannot yield its cases: ValueError: .*{reason}"):
        benchmark.list_cases(suite(name, **arguments))


def test_a_contestant_is_measured(tmp_path: Path) -> None:
    chosen = suite("kernels", sizes="64x256x256", contestants="numpy", threads=1)
    (result,) = benchmark.run(chosen, output=tmp_path / "r.sqlite").results
    assert list(result.metrics) == ["gflops"]
    assert result.higher_is_better == ["gflops"]
    assert "numpy" in result.details["versions"]
