"""llama.cpp: what its own `llama-bench` measures. Its decoding starts from an empty context."""

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


main({"generate": generate}, ())
