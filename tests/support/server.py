"""A server on a free port in a thread of the test process, and models for it."""

import contextlib
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI
from safetensors.numpy import save_file

from efficientai_toolkit._base.assets import MODEL
from efficientai_toolkit.server.app import create_app
from efficientai_toolkit.server.backend import Adapter, Event
from efficientai_toolkit.server.config import ServeConfig

TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}"
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls "
    "}}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}{# <tool_call> #}"
)
"""A chat template; the comment tells the dialect."""


WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def allowed(mode: str, *names: str) -> Any:
    """A choice among some tools."""
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


TIME: Any = {"type": "function", "function": {"name": "time"}}


def chat_model(folder: Path, template: str = TEMPLATE) -> Path:
    """The embedded model with a chat template."""
    shutil.copytree(MODEL, folder)
    (folder / "chat_template.jinja").write_text(template)
    return folder


def adapter(folder: Path, seed: int) -> Path:
    """An adapter of the embedded model that changes what it says."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    keys = ["self_attn.q_proj", "self_attn.o_proj"]
    tensors = {}
    for layer in range(4):
        for key in keys:
            name = f"model.layers.{layer}.{key}"
            tensors[f"{name}.lora_a"] = rng.normal(size=(256, 2)).astype(np.float32)
            tensors[f"{name}.lora_b"] = rng.normal(size=(2, 256)).astype(np.float32)
    save_file(tensors, folder / "adapters.safetensors")
    parameters = {"rank": 2, "scale": 1.0, "dropout": 0.0, "keys": keys}
    config = {"fine_tune_type": "lora", "num_layers": 4, "lora_parameters": parameters}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def whole_adapter(folder: Path) -> Path:
    """An adapter of the embedded model with an output head of its own."""
    rng = np.random.default_rng(9)
    folder.mkdir(parents=True)
    config = json.loads((MODEL / "config.json").read_text())
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    shapes = {
        f"{layer}.lora_A.weight": (2, config["hidden_size"]),
        f"{layer}.lora_B.weight": (config["hidden_size"], 2),
        "base_model.model.lm_head.weight": (config["vocab_size"], config["hidden_size"]),
    }
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    settings: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    settings |= {"layers_to_transform": [0], "modules_to_save": ["lm_head"]}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


@dataclass
class Running:
    """A server and its address."""

    url: str
    app: FastAPI
    server: uvicorn.Server
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        """The response to a JSON body."""
        return self.client.post(path, json=body, **options)

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = self.client.get("/metrics").text.splitlines()
        return sum(
            float(line.rpartition(" ")[2])
            for line in lines
            if line.partition("{")[0].partition(" ")[0] == name
        )


@contextlib.contextmanager
def running(config: ServeConfig, *, waits: bool = True) -> Iterator[Running]:
    """Serve; with ``waits`` until the default model is loaded."""
    app = create_app(config)
    listener = socket.create_server((config.host, 0))
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=5)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    found = Running(f"http://127.0.0.1:{listener.getsockname()[1]}", app, server)
    try:
        while not server.started or (waits and found.client.get("/ready").status_code != 200):
            assert thread.is_alive()
            time.sleep(0.01)
        yield found
    finally:
        found.client.close()
        server.should_exit = True
        thread.join()
        listener.close()


class ScriptedBackend:
    """Generates given texts, a few characters at a step, for what no small model writes."""

    def __init__(self, texts: list[str], *, size: int = 3, pause: float = 0.0) -> None:
        self.texts = texts
        self.size = size
        self.pause = pause
        self.requests: list[dict[str, Any]] = []
        self.prompts: list[list[int]] = []
        self.cancelled: list[int] = []
        self._left: dict[int, str] = {}
        self._sent: dict[int, int] = {}

    def add(self, prompt: list[int], settings: dict[str, Any], adapter: Adapter | None) -> int:
        """Take the next text."""
        assert adapter is None
        number = len(self.requests)
        self.requests.append(settings)
        self.prompts.append(list(prompt))
        self._left[number] = self.texts[number % len(self.texts)]
        self._sent[number] = 0
        return number

    def cancel(self, number: int) -> None:
        """Forget a request."""
        self.cancelled.append(number)
        self._left.pop(number, None)

    def step(self) -> list[tuple[int, Event]]:
        """A piece for everybody."""
        time.sleep(self.pause)
        return [(number, self._advance(number)) for number in list(self._left)]

    def count_cached_bytes(self) -> int:
        """Nothing is kept."""
        return 0

    def close(self) -> None:
        """Nothing is written."""

    def _advance(self, number: int) -> Event:
        left = self._left.pop(number)
        self._sent[number] += 1
        is_full = self._sent[number] >= self.requests[number]["max_tokens"]
        rest = left[self.size :]
        reason = "stop" if not rest else "length" if is_full else None
        if reason is None:
            self._left[number] = rest
        return Event(
            text=left[: self.size],
            finish_reason=reason,
            prompt_tokens=len(self.prompts[number]),
            generated_tokens=self._sent[number],
        )
