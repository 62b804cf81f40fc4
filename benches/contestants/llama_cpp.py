"""llama.cpp: what its own `llama-bench` and `llama-batched-bench` measure.

Decoding of the first starts from an empty context.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys

from _job import Job, Result, main

UNIT = 1 if sys.platform == "darwin" else 1024
"""macOS counts bytes, Linux kibibytes."""


def generate(job: Job) -> Result:
    """Read random tokens, then write; `llama-bench` warms up before each."""
    program = shutil.which(job["llama_bench"])
    if program is None:
        return {"missing": job["llama_bench"], "versions": {}}
    threads = ["-t", str(job["threads"])] if job["threads"] else []
    sizes = ["-p", str(job["prompt_tokens"]), "-n", str(job["new_tokens"])]
    command = [program, "-m", job["checkpoint"], *sizes, *threads, "-ngl", "0", "-r", "1", "-o", "json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    prefill, decode = json.loads(done.stdout)
    return {
        "prefill_tokens_per_second": prefill["avg_ts"],
        "decode_tokens_per_second": decode["avg_ts"],
        "generated": decode["n_gen"],
        "ids": None,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * UNIT,
        "versions": {"llama.cpp": f"{decode['build_number']} ({decode['build_commit']})"},
    }


def batch(job: Job) -> Result:
    """Write several sequences at once, each after a prompt of its own."""
    program = shutil.which(job["llama_batched_bench"])
    if program is None:
        return {"missing": job["llama_batched_bench"], "versions": {}}
    threads = ["-t", str(job["threads"])] if job["threads"] else []
    count, length = len(job["prompts"]), job["prompt_tokens"] + job["new_tokens"]
    sizes = ["-npp", str(job["prompt_tokens"]), "-ntg", str(job["new_tokens"]), "-npl", str(count)]
    context = ["-c", str(count * length), "-ngl", "0", "--output-format", "jsonl"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [program, "-m", job["checkpoint"], *sizes, *context, *threads],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    (found,) = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    generated = count * job["new_tokens"]
    return {
        "tokens_per_second": found["speed_tg"],
        # Of the whole run: loading and reading the prompts are in it.
        "tokens_per_cpu_second": generated / seconds,
        "generated": generated,
        "peak_rss_bytes": after.ru_maxrss * UNIT,
        "versions": {"llama.cpp": program},
    }


main({"generate": generate, "batch": batch}, ())
