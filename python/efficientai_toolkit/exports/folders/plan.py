"""Which layers are quantized, and how."""

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.exports.folders.layout import FUSED, Layer, Layout
from efficientai_toolkit.exports.parameters import HEAD, Parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from efficientai_toolkit._core.models import Model

FAMILIES = ("gemma2", "gemma3_text", "llama", "mistral", "phi3", "qwen2", "qwen3", "smollm3")
"""Model types whose parameters have the names and shapes of their checkpoints."""

_LINEAR = re.compile(
    r"(model\.layers\.\d+\.(?:self_attn\.(?:q|k|v|o|qkv)_proj|mlp\.(?:gate|up|down|gate_up)_proj))\.weight"
)
_SIZES = (128, 64, 32)
"""Group sizes of MLX."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Formats of linear layers."""

    layers: dict[str, Layer]
    """Quantized layers by path."""
    dense: list[str]
    """Linear layers that are not quantized, the output head included."""
    unfit: int
    """How many of these would be quantized if words held them."""


def check_family(model: "Model") -> None:
    """Refuse models whose checkpoints are not their parameters.

    Raises
    ------
    ConfigError
        If the model is of another family.
    """
    if model.model_type not in FAMILIES:
        message = (
            f"{model.path}: models of type {model.model_type} are not exported to folders; those that are: "
            f"{', '.join(FAMILIES)}"
        )
        raise ConfigError(message)


def make_plan(
    model: "Model", parameters: Parameters, layout: Layout, *, bits: int | None, group_size: int
) -> Plan:
    """Choose a format for each linear layer.

    Parameters
    ----------
    model, parameters
        The model; if none of its layers is quantized, or adapters are merged into it, dense ones are rounded.
    layout
        The quantization method.
    bits
        Bits of all layers; ``None`` for those that each has, or 4.
    group_size
        Columns that share a scale in layers that are not quantized yet.

    Raises
    ------
    ConfigError
        If ``bits`` is ``None`` and a layer has others than the method, or rows are no whole groups.
    """
    linear = [found[1] for name in parameters.shapes if (found := _LINEAR.fullmatch(name))]
    rounds = bool(model.adapters) or not any(path in parameters.formats for path in linear)
    wanted = {
        path: _choose(model, parameters, layout, path, bits=bits, group_size=group_size)
        for path in linear
        if rounds or path in parameters.formats
    }
    wanted = _agree(wanted, layout)
    layers = {path: layer for path, layer in wanted.items() if layout.fits(layer)}
    if not layers:
        message = f"{model.path}: no layer has a shape that {layout.method} can hold: choose safetensors"
        raise ConfigError(message)
    dense = [path for path in linear if path not in layers]
    if f"{HEAD}.weight" in parameters:
        dense.append(HEAD)
    return Plan(layers=layers, dense=dense, unfit=len(wanted) - len(layers))


def _choose(
    model: "Model", parameters: Parameters, layout: Layout, path: str, *, bits: int | None, group_size: int
) -> Layer:
    rows, columns = parameters.size(path)
    mode, own, size = parameters.formats.get(path, ("", layout.bits[0], group_size))
    if mode == "affine":
        group_size = size
    if mode and bits is None and own not in layout.bits:
        message = (
            f"{model.path}: {path} has {own} bits, {layout.method} holds "
            f"{' and '.join(map(str, layout.bits))}: {_way_out(own, layout)}"
        )
        raise ConfigError(message)
    if layout.by_row:
        return Layer(rows=rows, columns=columns, bits=layout.bits[0], group_size=columns)
    if columns % group_size:
        sizes = [size for size in _SIZES if columns % size == 0]
        way = f"choose group_size {sizes[0]}" if sizes else "choose safetensors"
        message = (
            f"{model.path}: rows of {columns} weights of {path} are no whole number of groups of "
            f"{group_size}: {way}"
        )
        raise ConfigError(message)
    return Layer(rows=rows, columns=columns, bits=bits or own, group_size=group_size)


def _way_out(own: int, layout: Layout) -> str:
    wider = [bits for bits in layout.bits if bits > own]
    if wider:
        return f"type int{wider[0]} stores the same codes in {wider[0]} bits"
    return f"type int{layout.bits[-1]} rounds them again, and gptq and compressed-tensors hold 8 bits"


def _agree(layers: "Mapping[str, Layer]", layout: Layout) -> dict[str, Layer]:
    """Give layers that have to be alike the most bits and the smallest groups among them."""
    alike: dict[str, list[str]] = {}
    for path in layers:
        parent, _, name = path.rpartition(".")
        fused = next((fused for fused, parts in FUSED.items() if name in parts), name)
        alike.setdefault(f"{parent}.{fused}" if layout.mixes else "", []).append(path)
    agreed: dict[str, Layer] = {}
    for paths in alike.values():
        bits = max(layers[path].bits for path in paths)
        size = min(layers[path].group_size for path in paths)
        for path in paths:
            agreed[path] = replace(
                layers[path], bits=bits, group_size=layers[path].columns if layout.by_row else size
            )
    return {path: agreed[path] for path in layers}
