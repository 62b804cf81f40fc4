"""LiteRT, the format of TensorFlow Lite."""

from pathlib import Path

from efficientai_toolkit._base.extras import require
from efficientai_toolkit._base.files import replace_folder
from efficientai_toolkit._base.units import format_size
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.exports.description import write_description
from efficientai_toolkit.exports.graph_writer import GraphWriter
from efficientai_toolkit.exports.outline import Outline, describe
from efficientai_toolkit.exports.parameters import Parameters
from efficientai_toolkit.exports.tflite.decoder import Decoder
from efficientai_toolkit.exports.tflite.graph import Graph
from efficientai_toolkit.exports.tflite.positions import Positions
from efficientai_toolkit.exports.tflite.session import MODEL_FILE
from efficientai_toolkit.exports.tflite.weights import Weights
from efficientai_toolkit.exports.types import BITS, check_places, is_quantized
from efficientai_toolkit.exports.writer import Verified, Written

_SUFFIX = ".tflite"

_LENGTH = 128
"""Tokens that are computed at once, unless the model or the user says otherwise."""

_LEVELS = {0: False, 1: False, 4: True}
"""Values of ``accuracy_level`` that runtimes have, and whether they round activations."""

_LIMIT = (1 << 31) - (1 << 24)
"""Most bytes of weights and tables: places in a file are numbers of 31 bits."""


class TfliteWriter(GraphWriter):
    """Writes a folder with a file of LiteRT and the tokenizer."""

    def check(self) -> None:
        """Refuse adapters alone, calibration, precisions that LiteRT has not, and missing libraries."""
        super().check()
        config = self.job.config
        if config.accuracy_level not in _LEVELS:
            message = (
                f"`accuracy_level` {config.accuracy_level} is none of LiteRT's, which multiplies int4 and "
                "int8 weights in float32 (0 or 1) or with activations rounded to 8 bits (4)"
            )
            raise ConfigError(message)
        if self.job.output.suffix == _SUFFIX:
            message = (
                f"{self.job.output}: the output is a folder, with {MODEL_FILE} and the tokenizer in it: "
                f"choose a name without {_SUFFIX}"
            )
            raise ConfigError(message)
        for module in ("flatbuffers", "ai_edge_litert"):
            require(module, extra="tflite", purpose="the LiteRT export")

    def write(self) -> Written:
        """Write the file, and what lies beside it."""
        model, _ = self.load()
        config = self.job.config
        parameters = Parameters(model, self.report_parts())
        check_places(model, parameters, title="LiteRT")
        outline = describe(model, parameters, title="LiteRT")
        outline = outline.cut(self.choose_length(outline, at_most=_LENGTH))
        kind = str(config.type)
        if kind == "auto":
            kind = "int8" if is_quantized(parameters) else {"float16": "f16"}.get(model.dtype, "f32")
        graph = Graph()
        weights = Weights(
            graph,
            parameters,
            kind=kind,
            rounds_activations=_LEVELS[config.accuracy_level],
            block_size=self._block_size(kind),
        )
        self._check_size(weights.size() + Positions.size(outline))

        def fill(folder: Path) -> None:
            Decoder(graph, weights, outline).build()
            with (folder / MODEL_FILE).open("xb") as file:
                graph.save(file)
            write_description(folder, model)

        replace_folder(self.job.output, fill)
        return Written(notes=self._notes(kind, parameters, outline), types=weights.types)

    def verify(self) -> Verified:
        """Run the file, and compare logits with those of the model."""
        from efficientai_toolkit.exports.tflite.verification import compare

        model, _ = self.load()
        return Verified(largest_difference=compare(model, self.job.output), compared="logits")

    def _block_size(self, kind: str) -> int | None:
        """Return ``group_size``, which codes of 4 bits have if it is set."""
        config = self.job.config
        if kind != "int4" or config.group_size is None:
            return None
        if not _LEVELS[config.accuracy_level]:
            message = (
                f"`accuracy_level` {config.accuracy_level} does not go with `group_size`: LiteRT multiplies "
                "int4 weights in groups with activations rounded to 8 bits (4)"
            )
            raise ConfigError(message)
        return config.group_size

    def _check_size(self, size: int) -> None:
        if size > _LIMIT:
            message = (
                f"{self.job.source}: a file of LiteRT has at most 2 GiB, and {format_size(size)} of weights "
                "and tables are more: choose a type of fewer bits (int8 or int4), or a smaller "
                "`context_length`"
            )
            raise ConfigError(message)

    def _notes(self, kind: str, parameters: Parameters, outline: Outline) -> list[str]:
        notes: list[str] = []
        if kind != self.job.config.type:
            notes.append(f"type {kind}, the closest to the model's own numbers")
        if outline.context_length < outline.model_context_length:
            notes.append(
                f"texts have at most {outline.context_length} tokens, not {outline.model_context_length}, "
                "and each call computes as many (`context_length`)"
            )
        if kind in BITS and parameters.formats:
            notes.append(
                f"{len(parameters.formats):,} quantized layers were rounded again: LiteRT has scales for "
                "rows, and groups whose zero is the middle of all codes"
            )
        return notes
