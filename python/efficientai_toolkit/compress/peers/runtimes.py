"""Runtimes: what each needs, and how its speed is measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from efficientai_toolkit.compress.peers.work import Work
from efficientai_toolkit.exceptions import DependencyError


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """A runtime."""

    measure: Callable[[Work], dict[str, float]]
    """Returns seconds to ``load``, tokens per second of ``prefill`` and ``decode``, and ``size`` in bytes."""
    format: str | None = None
    """Format of the export that it reads; ``None`` for the model itself."""


def measure_engine(work: Work) -> dict[str, float]:
    """Measure this engine on the device that it chooses."""
    from efficientai_toolkit.compress.fidelity import stored_dtype
    from efficientai_toolkit.evaluation import speed

    return speed.measure_speed(
        work.model,
        speed.SpeedSettings(
            data=work.data,
            prompt_tokens=work.prompt_tokens,
            generated_tokens=work.generated_tokens,
            repeats=work.repeats,
            dtype=stored_dtype(work.model),
        ),
    )


def measure_engine_on_cpu(work: Work) -> dict[str, float]:
    """Measure this engine on the CPU of a machine that has a GPU.

    Raises
    ------
    DependencyError
        If there is no GPU, so that this would be measured twice.
    """
    from efficientai_toolkit.device import hardware

    if hardware().backend == "cpu":
        message = "there is no GPU, so that `engine` runs on the CPU"
        raise DependencyError(message)
    mlx: Any = import_module("mlx.core")
    mlx.set_default_device(mlx.cpu)
    return measure_engine(work)


def measure_onnxruntime(work: Work) -> dict[str, float]:
    """Measure onnxruntime on the CPU, with a cache that grows in place."""
    from efficientai_toolkit.exports.onnx.session import Session

    folder = work.find_export("onnx")
    start = perf_counter()
    session = Session(folder)
    loaded = perf_counter() - start
    prompt = work.read_prompt()

    def generate(count: int) -> float:
        begin = perf_counter()
        session.generate(prompt, max_tokens=count, ignore_eos=True)
        return perf_counter() - begin

    return {"load": loaded, **_time(work, generate), "size": _measure_size(folder)}


def measure_llama_cpp(work: Work) -> dict[str, float]:
    """Measure llama.cpp through llama-cpp-python, on the CPU."""
    try:
        llama_cpp: Any = import_module("llama_cpp")
    except ImportError as error:
        message = f"llama.cpp needs `pip install llama-cpp-python`, which builds it ({error})"
        raise DependencyError(message) from error
    file = work.find_export("gguf")
    threads = work.threads
    start = perf_counter()
    model = llama_cpp.Llama(
        str(file),
        n_ctx=work.prompt_tokens + work.generated_tokens,
        n_batch=max(work.prompt_tokens, 32),
        n_gpu_layers=0,
        n_threads=threads,
        n_threads_batch=threads,
        verbose=False,
    )
    loaded = perf_counter() - start
    prompt = work.read_prompt()

    def generate(count: int) -> float:
        model.reset()
        begin = perf_counter()
        model.eval(prompt)
        for _ in range(count - 1):
            model.eval([model.sample(temp=0.0)])
        return perf_counter() - begin

    return {"load": loaded, **_time(work, generate), "size": _measure_size(file)}


def _time(work: Work, generate: Callable[[int], float]) -> dict[str, float]:
    """Return both speeds from the times of one token and of all; the first tells the prompt's."""
    generate(2)
    first = median(generate(1) for _ in range(work.repeats))
    whole = median(generate(work.generated_tokens) for _ in range(work.repeats))
    decode = (work.generated_tokens - 1) / max(whole - first, 1e-9)
    return {"prefill": work.prompt_tokens / first, "decode": decode}


def _measure_size(path: Path) -> float:
    if path.is_file():
        return float(path.stat().st_size)
    return float(sum(file.stat().st_size for file in path.iterdir() if file.name.startswith("model.onnx")))


RUNTIMES: Mapping[str, Runtime] = {
    "engine": Runtime(measure=measure_engine),
    "engine-cpu": Runtime(measure=measure_engine_on_cpu),
    "onnxruntime": Runtime(measure=measure_onnxruntime, format="onnx"),
    "llama.cpp": Runtime(measure=measure_llama_cpp, format="gguf"),
}
"""Runtimes by name."""
