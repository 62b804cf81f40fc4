"""Configuration of a simulation."""

import os
from dataclasses import dataclass

from efficientai_toolkit._base.config import Config, setting
from efficientai_toolkit._base.units import parse_size
from efficientai_toolkit.exceptions import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class SimulationConfig(Config):
    """Limits under which a model runs, and what it does."""

    model_path: str | None = setting(
        None, "folder in Hugging Face format, or hub id org/name[@revision] (default: the embedded model)"
    )
    cores: int | None = setting(None, "processor cores that the process may use (default: all)")
    memory: str | None = setting(
        None, "memory that the process may use, such as 2GB or 512MB (default: no limit)"
    )
    threads: int | None = setting(None, "threads of the engine (default: one per core that it may use)")
    prompt: str | None = setting(None, "text that is continued (default: from the bundled instructions)")
    prompt_tokens: int = setting(128, "tokens of the prompt; a shorter text is repeated, a longer one cut")
    generated_tokens: int = setting(64, "generated tokens per repeat")
    repeats: int = setting(3, "repeats, after one that is not counted")
    timeout: float = setting(1800.0, "seconds after which the process is ended")

    def check(self) -> None:
        """Validate the configuration.

        Raises
        ------
        ConfigError
            If a number is out of range, or there are not so many cores.
        """
        for name, least in (
            ("cores", 1), ("threads", 1), ("prompt_tokens", 1), ("generated_tokens", 2), ("repeats", 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < least:
                message = f"`{name}` must be at least {least}, not {value}"
                raise ConfigError(message)
        if self.timeout <= 0:
            message = f"`timeout` must be above 0, not {self.timeout}"
            raise ConfigError(message)
        if self.prompt is not None and not self.prompt.strip():
            message = "`prompt` is empty"
            raise ConfigError(message)
        if self.memory is not None:
            parse_size("memory", self.memory)
        if self.cores is not None:
            self._check_cores(self.cores)

    @staticmethod
    def _check_cores(cores: int) -> None:
        if not hasattr(os, "sched_getaffinity"):
            message = "`cores` needs a system that binds processes to cores, such as Linux: use `threads`"
            raise ConfigError(message)
        available = len(os.sched_getaffinity(0))
        if cores > available:
            message = f"`cores` must be at most {available}, what this process may use, not {cores}"
            raise ConfigError(message)
