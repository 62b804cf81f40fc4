"""Serve the embedded model, stream a text from it, and stop.

uv run --extra serve python examples/server.py
"""

import threading

import httpx2

from efficientai_toolkit.server import ServeConfig, serve

ready = threading.Event()
address: list[str] = []


def start(url: str) -> None:
    """Note where the server listens."""
    address.append(url)
    ready.set()


# Your own: ServeConfig(models={"chat": "folder or org/name"}, adapters={"pirate": "runs/mine"})
config = ServeConfig(port=0)
threading.Thread(target=serve, args=(config,), kwargs={"on_start": start}, daemon=True).start()
ready.wait()

body = {"prompt": "To be, or not to be", "max_tokens": 48, "temperature": 0.7, "stream": True}
with httpx2.stream("POST", f"{address[0]}/generate", json=body, timeout=60) as response:
    for line in response.iter_lines():
        if line:
            print(line.removeprefix("data: "))
