"""The process of a simulation."""

import os
import resource
import sys
from time import perf_counter
from typing import Any

from efficientai_toolkit.compress.simulation.energy import count_joules, read_zones
from efficientai_toolkit.exceptions import ToolkitError
from efficientai_toolkit.study.job import Emit, peak_memory

OUT_OF_MEMORY = "out of memory"
"""Outcome of a process that the limit of memory has ended."""

_THREADS = "EAT_NUM_THREADS"


def simulate(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Limit this process, load the model and continue a prompt.

    Parameters
    ----------
    request
        ``model``, ``cores``, ``memory`` (bytes), ``threads``, ``prompt``, ``prompt_tokens``,
        ``generated_tokens`` and ``repeats``.
    emit
        Told the stages ``load`` and ``generate``.

    Returns
    -------
    dict
        ``load``, ``first`` (times to the first token), ``tokens`` (times of the others), ``seconds``,
        ``peak_memory`` and ``energy`` in joules or the reason why there is none; or ``outcome``, how the
        memory ran out.
    """
    if request["cores"] is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: request["cores"]])
    if request["threads"] is not None:
        # Read by the engine when it starts.
        os.environ[_THREADS] = str(request["threads"])
    limit = request["memory"]
    if limit is not None and sys.platform == "linux":
        # What is allocated counts, files that are mapped and address space that is reserved do not.
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        found = _run(request, emit)
    except MemoryError:
        return {"outcome": OUT_OF_MEMORY, "peak_memory": peak_memory()}
    except ToolkitError as error:
        if limit is None or not is_about_memory(str(error)):
            raise
        return {"outcome": OUT_OF_MEMORY, "peak_memory": peak_memory()}
    if limit is not None and found["peak_memory"] > limit:
        # Mapped files are resident too.
        found["outcome"] = OUT_OF_MEMORY
    return found


def is_about_memory(reason: str) -> bool:
    """Return whether the reason of a failure tells that memory ran out."""
    text = reason.lower()
    return any(
        word in text for word in ("bad_alloc", "memory", "allocat", "signal 6", "signal 9", "signal 11")
    )


def _run(request: dict[str, Any], emit: Emit) -> dict[str, Any]:
    from efficientai_toolkit.compress.fidelity import stored_dtype
    from efficientai_toolkit.models.loading import load

    emit({"stage": "load"})
    start = perf_counter()
    model, tokenizer = load(request["model"], dtype=stored_dtype(request["model"]), show_progress=False)
    loaded = perf_counter() - start
    prompt = _make_prompt(tokenizer, request["prompt"], request["prompt_tokens"])
    count = request["generated_tokens"]
    _time_tokens(model, tokenizer, prompt, 2)
    first: list[float] = []
    tokens: list[float] = []
    emit({"stage": "generate"})
    zones = read_zones()
    start = perf_counter()
    for _ in range(request["repeats"]):
        times = _time_tokens(model, tokenizer, prompt, count)
        first.append(times[0])
        tokens += times[1:]
    seconds = perf_counter() - start
    later = read_zones()
    energy = (
        zones if isinstance(zones, str) else later if isinstance(later, str) else count_joules(zones, later)
    )
    return {
        "load": loaded,
        "first": first,
        "tokens": tokens,
        "seconds": seconds,
        "peak_memory": peak_memory(),
        "energy": energy,
    }


def _make_prompt(tokenizer: Any, text: str | None, count: int) -> list[int]:
    from efficientai_toolkit.evaluation.text import read_sequences

    if text is None:
        return read_sequences(tokenizer, None, count=1, length=count)[0]
    ids: list[int] = tokenizer.encode(text)
    while len(ids) < count:
        ids += tokenizer.encode(text, add_special_tokens=False)
    return ids[:count]


def _time_tokens(model: Any, tokenizer: Any, prompt: list[int], count: int) -> list[float]:
    """Return the time to the first token, and those from each token to the next."""
    from efficientai_toolkit.models.generation import GenerateConfig, Requests

    requests = Requests(model, tokenizer, GenerateConfig(max_tokens=count, ignore_eos=True))
    times: list[float] = []
    last = perf_counter()
    requests.add(prompt)
    for _ in requests.events():
        now = perf_counter()
        times.append(now - last)
        last = now
    return times
