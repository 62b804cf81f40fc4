"""Configuration of a benchmark of runtimes."""

from collections.abc import Mapping
from dataclasses import dataclass

from efficientai_toolkit._base.config import Config, setting
from efficientai_toolkit.compress.peers.runtimes import RUNTIMES
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.exports.formats import FORMATS


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class PeersConfig(Config):
    """Configuration of :func:`efficientai_toolkit.compress.benchmark`."""

    model_path: str | None = setting(
        None, "folder in Hugging Face format, or hub id org/name[@revision] (default: the embedded model)"
    )
    output: str | None = setting(
        None, "folder of exports and results (default: a new numbered one under runs/)"
    )
    runtimes: list[str] = setting(
        list(RUNTIMES),
        f"what is measured, among {', '.join(RUNTIMES)}; what is not installed is skipped",
        separator=",",
    )
    onnx_type: str = setting("auto", "number format of the ONNX export, as in :export")
    gguf_type: str = setting("auto", "number format of the GGUF export, as in :export")
    data: str | None = setting(
        None, "text of the prompt, as held-out text in :compress (default: the bundled instructions)"
    )
    prompt_tokens: int = setting(128, "tokens of the prompt")
    generated_tokens: int = setting(64, "generated tokens")
    repeats: int = setting(3, "generations per process, of which the median counts")
    rounds: int = setting(3, "rounds, every second one backwards, in which each runtime has a process")
    timeout: float = setting(3600.0, "seconds after which a process is ended")
    overwrite: bool = setting(False, "replace the results in the output folder")

    def check(self) -> None:
        """Validate the configuration.

        Raises
        ------
        ConfigError
            If a runtime or number format is unknown, or a number out of range.
        """
        for name in self.runtimes:
            if name not in RUNTIMES:
                message = f"`runtimes` names the unknown `{name}`; there are {', '.join(RUNTIMES)}"
                raise ConfigError(message)
        if not self.runtimes or len(set(self.runtimes)) < len(self.runtimes):
            message = f"`runtimes` must name each runtime once, not {self.runtimes}"
            raise ConfigError(message)
        for name in ("prompt_tokens", "repeats", "rounds", "generated_tokens"):
            least = 2 if name == "generated_tokens" else 1
            if getattr(self, name) < least:
                message = f"`{name}` must be at least {least}, not {getattr(self, name)}"
                raise ConfigError(message)
        if self.timeout <= 0:
            message = f"`timeout` must be above 0, not {self.timeout}"
            raise ConfigError(message)
        for name in self.list_formats():
            FORMATS[name].find_type(getattr(self, f"{name}_type"))

    def list_formats(self) -> Mapping[str, str]:
        """Return the formats that runtimes need, with their number formats."""
        needed = [RUNTIMES[name].format for name in self.runtimes]
        return {name: getattr(self, f"{name}_type") for name in needed if name is not None}
