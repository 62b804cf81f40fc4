"""Each case runs in a process of its own: what is replaced in MLX stays replaced."""

import subprocess
import sys

import pytest

linux = pytest.mark.skipif(sys.platform != "linux", reason="MLX's wheels elsewhere bring a fast BLAS")

PREPARE = """
import mlx.core as mx
import numpy as np

import efficientai_toolkit as eat
from efficientai_toolkit._engine.core import core

random = np.random.default_rng(0)


def worst(m, k, n):
    a = random.standard_normal((m, k), dtype=np.float32)
    b = random.standard_normal((n, k), dtype=np.float32)
    plain = mx.matmul(mx.array(a), mx.array(b.T.copy()), stream=mx.cpu)
    turned = mx.matmul(mx.array(a), mx.array(b).T, stream=mx.cpu)
    added = mx.addmm(mx.ones((m, n)), mx.array(a.T.copy()).T, mx.array(b).T, 0.5, 2.0, stream=mx.cpu)
    exact = a.astype(np.float64) @ b.T.astype(np.float64)
    pairs = [(plain, exact), (turned, exact), (added, 0.5 * exact + 2.0)]
    return max(float(np.abs(np.array(ours) - exact).max()) for ours, exact in pairs)


SHAPES = [(1, 1, 1), (1, 300, 70), (5, 64, 33), (70, 129, 300)]
"""


def run(body: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", PREPARE + body], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr


@linux
def test_products_are_ours_and_equal_numpy() -> None:
    run("""
eat.accelerate_mlx()
eat.accelerate_mlx()
before = core.device.sgemm_calls()
assert all(worst(*shape) < 1e-3 for shape in SHAPES)
assert core.device.sgemm_calls() >= before + 3 * len(SHAPES)
""")


def test_importing_the_package_leaves_mlx_alone() -> None:
    run("""
assert all(worst(*shape) < 1e-3 for shape in SHAPES)
assert core.device.sgemm_calls() == 0
""")


@linux
def test_it_is_never_too_late() -> None:
    run("""
assert worst(8, 8, 8) < 1e-3
eat.accelerate_mlx()
before = core.device.sgemm_calls()
assert worst(8, 8, 8) < 1e-3
assert core.device.sgemm_calls() == before + 3
""")


@linux
def test_an_mlx_without_such_a_function_is_named() -> None:
    run("""
import types
import efficientai_toolkit._engine.core as engine

device = types.SimpleNamespace(accelerate_mlx=lambda: False, sgemm_calls=lambda: 0)
engine.core = types.SimpleNamespace(device=device)
try:
    eat.accelerate_mlx()
except eat.exceptions.DependencyError as error:
    assert "pip install" in str(error)
else:
    raise AssertionError("no error")
""")


def test_elsewhere_it_does_nothing() -> None:
    run("""
import sys

sys.platform = "darwin"
eat.accelerate_mlx()
assert core.device.sgemm_calls() == 0
""")
