"""Configuration of the server."""

import ipaddress
import math
from dataclasses import dataclass
from typing import Literal

from efficientai_toolkit._base.config import Config, setting
from efficientai_toolkit._base.units import parse_size
from efficientai_toolkit.exceptions import ConfigError

DialectName = Literal["hermes", "llama", "mistral", "lfm2", "harmony"]
"""Formats in which models write tool calls."""

_RANGES = {
    "port": (0, 65535),
    "max_jobs": (1, math.inf),
    "max_batch": (1, math.inf),
    "max_queue": (1, math.inf),
    "max_output_tokens": (1, math.inf),
    "max_prompt_tokens": (1, math.inf),
    "request_timeout": (0.001, math.inf),
    "drain_timeout": (0.001, math.inf),
}


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class ServeConfig(Config):
    """Configuration of the server."""

    models: dict[str, str] = setting(
        {},
        "model to serve, NAME=PATH: a folder in Hugging Face format, or hub id org/name[@revision], which is "
        "downloaded at the start; loaded when it is first asked for; repeat it for more, the first one is "
        "the default",
        flag="--model",
    )
    model_path: str | None = setting(
        None, "the one model to serve, in place of --model (default: the embedded model)"
    )
    served_model_name: str | None = setting(
        None, "name of --model-path in requests (default: the last part of its path)"
    )
    adapters: dict[str, str] = setting(
        {},
        "adapter, NAME=PATH, which requests name as MODEL:NAME; give MODEL:NAME=PATH for another model than "
        "the first; repeat it for more",
        flag="--adapter",
    )
    draft_model: str | None = setting(
        None,
        "small model with the tokenizer of the first one, for which it proposes tokens: a folder or hub id; "
        "texts stay as they are (default: none)",
    )
    host: str = setting("127.0.0.1", "address to listen on; 0.0.0.0: every network of this machine")
    port: int = setting(8000, "port; 0: any free one")
    api_key_file: str | None = setting(
        None, "file of hashed API keys, made by serve:key (default: no key is asked for)"
    )
    allowed_hosts: list[str] = setting(
        [],
        "names in the Host header that are answered (default: those of this machine while listening on it "
        "only, else all)",
        separator=",",
    )
    cors_origins: list[str] = setting(
        [], "origins whose pages in browsers may call the server (default: none)", separator=","
    )
    workspace: str | None = setting(
        None,
        "folder with data, runs and the database of jobs (routes under /jobs), of registered models, which "
        "are served by name, and of deployments (default: none)",
    )
    max_jobs: int = setting(1, "jobs that run at once; they share the device")
    allow_downloads: bool = setting(False, "let jobs name models of the hub, which are downloaded")
    memory_budget: str | None = setting(
        None,
        "memory for the weights of all models, such as 8GB; the least recently used are dropped (default: "
        "no limit)",
    )
    max_batch: int = setting(8, "requests that a model computes at once")
    max_queue: int = setting(64, "requests that wait for a model; more are refused with status 429")
    prompt_cache: str = setting(
        "256MB", "memory per model for the states of earlier prompts, which are not computed again; 0: none"
    )
    prompt_cache_dir: str | None = setting(
        None,
        "folder for the states of earlier prompts, which outlast the server there; only who may read the "
        "prompts should read it (default: none)",
    )
    prompt_cache_disk: str = setting("4GB", "size of the files in --prompt-cache-dir")
    max_body: str = setting("4MB", "largest body of a request")
    max_prompt_tokens: int | None = setting(
        None, "largest prompt (default: the context of the model leaves room for an answer)"
    )
    max_output_tokens: int = setting(4096, "largest number of new tokens, also where a request names none")
    request_timeout: float = setting(600.0, "seconds until an answer is cut off")
    drain_timeout: float = setting(30.0, "seconds that running requests have to end after SIGTERM")
    dtype: Literal["float32", "float16", "bfloat16"] | None = setting(
        None, "data type of the weights (default: float32 on a CPU, that of the checkpoint on a GPU)"
    )
    bits: int | None = setting(None, "quantize the weights to this many bits (default: as in the checkpoint)")
    accuracy: Literal["f32", "bf16", "int8"] | None = setting(
        None,
        "precision of the products of a quantized model on a CPU (default: the fastest that hardly changes "
        "the probabilities)",
    )
    tool_dialect: DialectName | None = setting(
        None, "format in which the models write tool calls (default: told by the chat template)"
    )

    def check(self) -> None:
        """Validate ranges and combinations."""
        if self.models and self.model_path is not None:
            message = "`models` and `model_path` exclude each other: name every model with --model NAME=PATH"
            raise ConfigError(message)
        if self.served_model_name is not None and self.models:
            message = (
                "`served_model_name` is the name of `model_path`; --model NAME=PATH names its model itself"
            )
            raise ConfigError(message)
        for name in [*self.models, *filter(None, [self.served_model_name])]:
            if ":" in name:
                message = f"a model cannot be named {name!r}: the colon stands before the name of an adapter"
                raise ConfigError(message)
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                limits = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
                message = f"`{name}` is {value:g}; it must be {limits}"
                raise ConfigError(message)
        parse_size("max_body", self.max_body)
        if self.prompt_cache != "0":
            parse_size("prompt_cache", self.prompt_cache)
        parse_size("prompt_cache_disk", self.prompt_cache_disk)
        if self.memory_budget is not None:
            parse_size("memory_budget", self.memory_budget)

    @property
    def max_body_bytes(self) -> int:
        """``max_body`` in bytes."""
        return parse_size("max_body", self.max_body)

    @property
    def prompt_cache_bytes(self) -> int:
        """``prompt_cache`` in bytes."""
        return 0 if self.prompt_cache == "0" else parse_size("prompt_cache", self.prompt_cache)

    @property
    def prompt_cache_disk_bytes(self) -> int:
        """``prompt_cache_disk`` in bytes."""
        return parse_size("prompt_cache_disk", self.prompt_cache_disk)

    @property
    def memory_budget_bytes(self) -> int | None:
        """``memory_budget`` in bytes."""
        return None if self.memory_budget is None else parse_size("memory_budget", self.memory_budget)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
