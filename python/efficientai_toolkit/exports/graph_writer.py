"""What writers of graphs with whole weights have in common."""

from typing import TYPE_CHECKING

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.exports.outline import Outline
from efficientai_toolkit.exports.writer import Writer
from efficientai_toolkit.models.loading import load

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model, Tokenizer


class GraphWriter(Writer):
    """Writes graphs, which hold whole weights in the number formats of another runtime."""

    _loaded: "tuple[Model, Tokenizer] | None" = None

    def check(self) -> None:
        """Refuse adapters alone, and calibration."""
        config = self.job.config
        if not config.merge_adapter:
            message = "`merge_adapter` is off, but a graph holds whole weights: adapters are merged into them"
            raise ConfigError(message)
        if config.calibration is not None:
            message = (
                f"`calibration` has no effect on {config.format}: leave it out, or quantize the model with "
                "it first (quantized-model-benchmarks:quantize) and export the result"
            )
            raise ConfigError(message)

    def load(self, dtype: str = "float32") -> "tuple[Model, Tokenizer]":
        """Return the model, in ``dtype`` unless it was given, and its tokenizer."""
        job = self.job
        if job.given is not None:
            return job.given
        if self._loaded is None:
            self._loaded = load(job.source, job.adapter, dtype)
        return self._loaded

    def choose_length(self, outline: Outline, *, at_most: int) -> int:
        """Return ``context_length``; by default that of the model, but at most so many tokens.

        Raises
        ------
        ConfigError
            If positions of the model end before.
        """
        wanted = self.job.config.context_length
        if wanted is not None and wanted > outline.context_length:
            message = (
                f"`context_length` {wanted} is more than the {outline.context_length} tokens whose positions "
                f"{self.job.source} knows"
            )
            raise ConfigError(message)
        return wanted or min(outline.context_length, at_most)
