"""Which number formats of weights fit a model."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.exports.blocks import CONTAINERS
from efficientai_toolkit.exports.parameters import EMBEDDINGS, HEAD, Parameters

if TYPE_CHECKING:
    from efficientai_toolkit._core.models import Model

BITS = {"int4": 4, "int8": 8}
"""Types in blocks, and the bits that dense weights are rounded to."""

_MATRIX = re.compile(
    rf"({re.escape(EMBEDDINGS)}|{HEAD}|model\.layers\.\d+\.(self_attn\.(q|k|v|o|qkv)_proj|mlp\.(gate|up|down|gate_up)_proj))"
    r"\.(weight|scales|biases|bias)"
)
_NORM = re.compile(
    r"model\.(norm|layers\.\d+\.(self_attn\.[qk]_norm|"
    r"(input|post_attention|pre_feedforward|post_feedforward)_layernorm))\.weight"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """What a format has besides types in blocks."""

    title: str
    """Name of the format in messages."""
    numbers: Mapping[str, str]
    """Type for models with weights of some data type; ``""`` for all others."""
    unblocked: str
    """Types that take rows of any length."""


def choose_type(
    name: str, model: "Model", parameters: Parameters, *, group_size: int, choices: Choices
) -> str:
    """Return the type called ``name``, or the closest to the model's own numbers for ``auto``.

    Raises
    ------
    ConfigError
        If a weight does not fit it, or the graph has no place for a parameter.
    """
    check_places(model, parameters, title=choices.title)
    if name == "auto":
        return _closest(model, parameters, choices)
    if name in BITS:
        _check_formats(name, model, parameters, choices)
        _check_rows(model, parameters, group_size, choices)
    return name


def check_places(model: "Model", parameters: Parameters, *, title: str) -> None:
    """Check that the graph of the format called ``title`` has a place for every parameter.

    Raises
    ------
    ConfigError
        If one is left.
    """
    for parameter in parameters.shapes:
        if not (_MATRIX.fullmatch(parameter) or _NORM.fullmatch(parameter)):
            message = f"{model.path}: the {title} export has no place for the parameter {parameter}"
            raise ConfigError(message)


def is_quantized(parameters: Parameters) -> bool:
    """Return whether most weights of matrices are."""
    paths = [name.removesuffix(".weight") for name in parameters.shapes if is_matrix(name)]
    packed = sum(math.prod(parameters.size(path)) for path in paths if path in parameters.formats)
    return 2 * packed > sum(math.prod(parameters.size(path)) for path in paths)


def _closest(model: "Model", parameters: Parameters, choices: Choices) -> str:
    """Return the type that keeps most of the matrices as they are."""
    is_affine = all(mode == "affine" for mode, _, _ in parameters.formats.values())
    if is_affine and is_quantized(parameters):
        return _type_of([bits for _, bits, _ in parameters.formats.values()])
    return choices.numbers.get(model.dtype, choices.numbers[""])


def is_matrix(name: str) -> bool:
    """Return whether a parameter is a matrix of a layer, or the token embeddings."""
    return name.endswith(".weight") and _MATRIX.fullmatch(name) is not None


def _type_of(bits: list[int]) -> str:
    """Return the type of most weights."""
    return "int4" if 2 * sum(CONTAINERS[each] <= BITS["int4"] for each in bits) >= len(bits) else "int8"


def _check_formats(name: str, model: "Model", parameters: Parameters, choices: Choices) -> None:
    for path, (mode, _, _) in parameters.formats.items():
        if mode != "affine":
            message = (
                f"{model.path}: {path} is in {mode}, whose numbers {name} does not have: choose "
                f"{choices.unblocked}, or export the model that it was made from"
            )
            raise ConfigError(message)
    bits = [bits for _, bits, _ in parameters.formats.values()]
    if bits and _type_of(bits) != name:
        message = (
            f"{model.path}: most weights have {max(set(bits), key=bits.count)} bits already, which {name} "
            f"would round again: choose {_type_of(bits)}, or export the model that it was made from"
        )
        raise ConfigError(message)


def _check_rows(model: "Model", parameters: Parameters, group_size: int, choices: Choices) -> None:
    for name in parameters.shapes:
        path = name.removesuffix(".weight")
        if not is_matrix(name) or path in parameters.formats:
            continue
        columns = parameters.size(path)[1]
        if columns % group_size:
            sizes = [size for size in (32, 64, 128) if columns % size == 0]
            way = f"choose group_size {sizes[-1]}" if sizes else f"choose {choices.unblocked}"
            message = (
                f"{model.path}: rows of {columns} weights of {path} are no whole number of groups of "
                f"{group_size}: {way}"
            )
            raise ConfigError(message)
