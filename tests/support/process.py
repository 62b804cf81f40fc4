"""A server in a process of its own."""

import json
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager

import httpx

from support.command import PROGRAM


@contextmanager
def serving(*words: str, namespace: str = "serve") -> Generator[tuple[subprocess.Popen[str], str]]:
    """A server and its address, once it has told it and is ready."""
    command = [str(PROGRAM), namespace, "--port", "0", "--json", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            while httpx.get(f"{url}/ready").status_code != 200:
                time.sleep(0.05)
            yield process, url
        finally:
            process.kill()
