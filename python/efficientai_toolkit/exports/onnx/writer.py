"""ONNX, the format of onnxruntime and onnxruntime-genai."""

from pathlib import Path
from typing import TYPE_CHECKING

from efficientai_toolkit._base.extras import require
from efficientai_toolkit._base.files import replace_folder
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.exports.graph_writer import GraphWriter
from efficientai_toolkit.exports.onnx import genai
from efficientai_toolkit.exports.onnx.decoder import Decoder
from efficientai_toolkit.exports.onnx.graph import Graph
from efficientai_toolkit.exports.onnx.linears import DenseLinears, HalfLinears, Linears
from efficientai_toolkit.exports.onnx.matmul_nbits import BlockLinears
from efficientai_toolkit.exports.onnx.qdq import QdqLinears
from efficientai_toolkit.exports.outline import Outline, describe
from efficientai_toolkit.exports.parameters import Parameters
from efficientai_toolkit.exports.types import BITS, Choices, choose_type
from efficientai_toolkit.exports.writer import Verified, Written

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model, Tokenizer

_CHOICES = Choices(title="ONNX", numbers={"float16": "f16", "": "f32"}, unblocked="f32, f16 or qdq")

_ROTATED = 16
"""Rotated elements of a head come in multiples of this many in onnxruntime."""


class OnnxWriter(GraphWriter):
    """Writes a folder with a graph, its weights, and what runs them."""

    def check(self) -> None:
        """Refuse adapters alone, calibration, and missing libraries."""
        super().check()
        require("onnx", extra="onnx", purpose="the ONNX export")
        if self.job.config.verify == "on":
            require("onnxruntime", extra="onnx", purpose="the verification of an ONNX export (`verify`)")

    def write(self) -> Written:
        """Write the folder, tensor by tensor."""
        model, tokenizer = self._load()
        parameters = Parameters(model, self.report_parts())
        outline = describe(model, parameters, title="ONNX")
        _check_rotations(model, outline)
        config = self.job.config
        kind = choose_type(
            str(config.type), model, parameters, group_size=config.columns_per_scale, choices=_CHOICES
        )
        notes = [] if kind == config.type else [f"type {kind}, the closest to the model's own numbers"]
        if outline.context_length < outline.model_context_length:
            notes.append(
                f"sequences have at most {outline.context_length} tokens, not "
                f"{outline.model_context_length}: the graph has one rotation for each position"
            )

        def fill(folder: Path) -> None:
            self._write_graph(folder, kind, parameters, outline)
            genai.write_companions(folder, model, tokenizer, outline)

        replace_folder(self.job.output, fill)
        return Written(notes=notes)

    def verify(self) -> Verified:
        """Run the graph, in one piece and in several, and compare logits with those of the model."""
        from efficientai_toolkit.exports.onnx.verification import compare

        model, _ = self._load()
        return Verified(largest_difference=compare(model, self.job.output), compared="logits")

    def _load(self) -> "tuple[Model, Tokenizer]":
        """Return the model; in float32 where its logits are the measure."""
        # Numbers of a GGUF file may have no dtype of their own, and be rounded to the next best.
        exact = self.job.config.verify == "off" and self.job.source.is_dir()
        return self.load("auto" if exact else "float32")

    def _write_graph(self, folder: Path, kind: str, parameters: Parameters, outline: Outline) -> None:
        with (folder / genai.DATA_FILE).open("xb") as data:
            graph = Graph(data=data, data_name=genai.DATA_FILE)
            linears = self._linears(kind, graph, parameters)
            Decoder(graph, parameters, linears, outline).build()
        graph.save(folder / genai.MODEL_FILE, "decoder")

    def _linears(self, kind: str, graph: Graph, parameters: Parameters) -> Linears:
        if kind in BITS:
            config = self.job.config
            return BlockLinears(
                graph,
                parameters,
                bits=BITS[kind],
                group_size=config.columns_per_scale,
                accuracy_level=config.accuracy_level,
                # What is closest to the model rounds nothing.
                keeps_dense=config.type == "auto",
            )
        return {"f32": DenseLinears, "f16": HalfLinears, "qdq": QdqLinears}[kind](graph, parameters)


def _check_rotations(model: "Model", outline: Outline) -> None:
    for block in outline.blocks:
        if block.rope is not None and 2 * len(block.rope.frequencies) % _ROTATED:
            message = (
                f"{model.path}: heads of which {2 * len(block.rope.frequencies)} elements are rotated do not "
                f"fit onnxruntime's attention, which rotates multiples of {_ROTATED}"
            )
            raise ConfigError(message)
