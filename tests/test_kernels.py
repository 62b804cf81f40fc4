"""What the report of the kernels holds, and what `measure` refuses. Never how fast anything is."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

import efficientai_toolkit as eat
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.kernels import measure, measure_convolution

SMALL: dict[str, Any] = {"rows": 2, "inputs": 128, "outputs": 8}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "operation",
    [
        {"operation": "linear"},
        {"operation": "quantized_linear", "bits": 4},
        {"operation": "quantized_linear", "bits": 3, "group_size": 128, "accuracy": "int8"},
    ],
    ids=str,
)
def test_a_layer_takes_time(operation: dict[str, Any], dtype: str) -> None:
    assert 0 < measure(**operation, **SMALL, dtype=dtype) < 10


IMAGES: dict[str, Any] = {"batch": 1, "height": 6, "width": 7, "inputs": 4, "outputs": 8, "kernel": 3}


@pytest.mark.parametrize("part", ["forward", "input_gradient", "weight_gradient"])
@pytest.mark.parametrize("settings", [{}, {"groups": 4, "stride": 2}, {"dtype": "bfloat16"}], ids=str)
def test_a_convolution_takes_time(part: Any, settings: dict[str, Any]) -> None:
    assert 0 < measure_convolution(**IMAGES, **settings, part=part) < 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"part": "both"}, "pass: unknown variant `both`, expected one of `forward`"),
        ({"kernel": 0}, "`kernel` must be from 1 to 1048576, not 0"),
        ({"kernel": 7}, "`kernel` must be at most `height` and `width`, not 7"),
        ({"batch": -1}, "batch is -1, but must not be negative"),
        ({"groups": 3}, "`groups` must divide `inputs` (4) and `outputs` (8), not 3"),
        ({"height": 2**20, "width": 2**20}, "the images must have at most 268435456 numbers"),
    ],
    ids=str,
)
def test_impossible_convolutions_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        measure_convolution(**{**IMAGES, **arguments})
    assert message in str(error.value)


def test_integers_of_numpy_are_sizes() -> None:
    assert measure("linear", rows=np.int64(2), inputs=np.int32(8), outputs=3) > 0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"operation": "conv"}, "operation: unknown variant `conv`, expected `linear` or `quantized_linear`"),
        ({"dtype": "int8"}, "dtype: unknown variant `int8`, expected one of `float32`"),
        ({"rows": 0}, "`rows` must be from 1 to 1048576, not 0"),
        ({"rows": -1}, "rows is -1, but must not be negative"),
        ({"inputs": 1.5}, "inputs: invalid type: floating point `1.5`"),
        ({"outputs": "8"}, 'outputs: invalid type: string "8"'),
        ({"outputs": 2**40}, "`outputs` must be from 1 to 1048576"),
        ({"inputs": 2**20, "outputs": 2**20}, "`inputs` times `outputs` must be at most 268435456"),
        ({"bits": 4}, "`bits` and `accuracy` are for quantized_linear"),
        ({"accuracy": "int8"}, "`bits` and `accuracy` are for quantized_linear"),
        ({"operation": "quantized_linear"}, "quantized_linear needs `bits`: 2, 3, 4, 5, 6 or 8"),
        ({"operation": "quantized_linear", "bits": 7}, "not 7 bits and groups of 64"),
        ({"operation": "quantized_linear", "bits": 4, "group_size": 48}, "not 4 bits and groups of 48"),
        ({"operation": "quantized_linear", "bits": 4, "inputs": 96}, "`inputs` must be a multiple of"),
        ({"operation": "quantized_linear", "bits": 4, "accuracy": "f16"}, "accuracy: unknown variant `f16`"),
    ],
    ids=str,
)
def test_impossible_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        measure(**{"operation": "linear", **SMALL, **arguments})
    assert message in str(error.value)


def test_the_report_covers_every_operation() -> None:
    report = eat.kernels.report()
    assert report.threads > 0
    assert report.peaks.f32_gflops > 0
    assert report.peaks.read_gbs > 0
    operations = {row.operation for row in report.rows}
    assert operations >= {"linear", "attention backward", "rms_norm", "cross_entropy", "adamw"}
    assert {row.format for row in report.rows} == {"f32", "bf16", "int8"}
    for row in report.rows:
        assert row.seconds > 0
        assert row.gbs > 0
        assert row.path
        assert row.bound == "memory" or row.gflops > 0
        assert (row.share is None) == report.gpu
    table = str(report).splitlines()
    assert report.isa in table[0]
    assert len(table) == len(report.rows) + 5
    assert asdict(report)["rows"][0]["operation"] == "linear"
