"""Core ML, the format of Apple's devices."""

from pathlib import Path
from typing import TYPE_CHECKING

from efficientai_toolkit._base.files import replace_folder
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.exports.coreml import package, swift
from efficientai_toolkit.exports.coreml.library import import_coremltools
from efficientai_toolkit.exports.coreml.targets import TARGETS, Target, check_type
from efficientai_toolkit.exports.coreml.weights import Weights
from efficientai_toolkit.exports.description import write_description
from efficientai_toolkit.exports.graph_writer import GraphWriter
from efficientai_toolkit.exports.outline import Outline, describe
from efficientai_toolkit.exports.parameters import Parameters
from efficientai_toolkit.exports.types import Choices, choose_type
from efficientai_toolkit.exports.writer import Verified, Written

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model

SUFFIX = ".mlpackage"
"""Ending of packages. An output with it is the package alone."""

PACKAGE = f"Model{SUFFIX}"
"""Name of the package in a folder."""

_CONTEXT_LENGTH = 2048
"""Tokens that the state has room for, unless the model or the user says otherwise."""

_CHOICES = Choices(title="Core ML", numbers={"": "f16"}, unblocked="f16 or palette4")


class CoreMLWriter(GraphWriter):
    """Writes a package, alone or in a folder with what runs it."""

    def check(self) -> None:
        """Refuse adapters alone, calibration, types that the target has not, and missing libraries."""
        super().check()
        config = self.job.config
        check_type(str(config.type), config.minimum_deployment_target)
        if config.swift and not self._target.has_state:
            message = (
                "`swift` is for programs that remember what they have read: choose "
                "`minimum_deployment_target` iOS18"
            )
            raise ConfigError(message)
        if config.swift and self._is_alone:
            message = (
                f"{self.job.output}: with `swift` the output is a folder, a Swift package with the program "
                f"in it: choose a name without {SUFFIX}"
            )
            raise ConfigError(message)
        import_coremltools()

    def write(self) -> Written:
        """Write the package, and what lies beside it."""
        config = self.job.config
        target = config.minimum_deployment_target
        model, tokenizer = self.load()
        parameters = Parameters(model, self.report_parts())
        outline = describe(model, parameters, title="Core ML")
        _check_heads(model, outline)
        outline = outline.cut(self.choose_length(outline, at_most=_CONTEXT_LENGTH))
        kind = choose_type(
            str(config.type), model, parameters, group_size=config.columns_per_scale, choices=_CHOICES
        )
        if config.type == "auto" and not self._target.has_blocks:
            kind = "f16"
        weights = Weights(
            parameters,
            kind=kind,
            target=target,
            group_size=config.columns_per_scale,
            # What is closest to the model rounds nothing.
            keeps_dense=config.type == "auto",
        )
        program = package.build(weights, outline, target=target)
        facts = {
            "context_length": str(outline.context_length),
            "eos_token_ids": ",".join(map(str, tokenizer.eos_token_ids)),
            "model_type": model.model_type,
        }

        def fill(folder: Path) -> None:
            place = folder / (PACKAGE if self._is_alone else self._place)
            place.parent.mkdir(parents=True, exist_ok=True)
            package.save(program, place, target=target, context_length=outline.context_length, facts=facts)
            if self._is_alone:
                for part in place.iterdir():
                    part.replace(folder / part.name)
                place.rmdir()
                return
            write_description(place.parent, model)
            if config.swift:
                swift.write(folder)

        replace_folder(self.job.output, fill)
        return Written(notes=self._notes(kind, weights, outline), types=weights.types)

    def verify(self) -> Verified:
        """Read the package back, decode its weights, and compare them with those of the model."""
        from efficientai_toolkit.exports.coreml.verification import compare

        model, _ = self.load()
        path = self.job.output if self._is_alone else self.job.output / self._place
        parameters = Parameters(model, lambda _done, _total: None)
        offset = describe(model, parameters, title="Core ML").blocks[0].norm_offset
        return Verified(largest_difference=compare(parameters, path, offset), compared="weights")

    @property
    def _target(self) -> Target:
        return TARGETS[self.job.config.minimum_deployment_target]

    @property
    def _is_alone(self) -> bool:
        return self.job.output.suffix == SUFFIX

    @property
    def _place(self) -> Path:
        """Place of the package in the folder."""
        return (swift.RESOURCES if self.job.config.swift else Path()) / PACKAGE

    def _notes(self, kind: str, weights: Weights, outline: Outline) -> list[str]:
        notes = (
            [] if kind == self.job.config.type else [f"type {kind}, the closest to the model's own numbers"]
        )
        if outline.context_length < outline.model_context_length:
            notes.append(
                f"sequences have at most {outline.context_length} tokens, not {outline.model_context_length} "
                "(`context_length`)"
            )
        if weights.rounded:
            notes.append(
                f"{weights.rounded:,} blocks of weights were rounded again: float16 has not their scales or "
                "offsets"
            )
        return notes


def _check_heads(model: "Model", outline: Outline) -> None:
    found = {(block.kv_heads, block.head_dim) for block in outline.blocks}
    if len(found) > 1:
        message = (
            f"{model.path}: keys and values of all layers lie in one state, so that layers must have the "
            f"same number and size of heads, not {sorted(found)}"
        )
        raise ConfigError(message)
