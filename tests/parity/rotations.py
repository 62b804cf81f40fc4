"""Rotations whose keys compete: ``rope_scaling`` beside ``rope_parameters``, nulls, keys in two places."""

from __future__ import annotations

import json
from typing import Any

Edits = dict[str, Any]
"""New values of keys; ``...`` removes a key."""

LENGTH = 40
"""Longer than every window and every original context here."""

DEFAULT = {"rope_type": "default", "rope_theta": 500.0}
LINEAR = {"rope_type": "linear", "factor": 4.0}
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
NO_ROPE: Edits = {"rope_parameters": ..., "rope_scaling": ..., "rope_theta": ...}


def old(scaling: Edits | None, theta: float = 300.0, **more: Any) -> Edits:
    """Keys as transformers 4 wrote them."""
    return {**NO_ROPE, "rope_scaling": scaling, "rope_theta": theta, "max_position_embeddings": 64, **more}


def new(parameters: Edits | None, **more: Any) -> Edits:
    """Keys as transformers 5 writes them."""
    return {**NO_ROPE, "rope_parameters": parameters, "max_position_embeddings": 64, **more}


def typed(rope: Edits) -> Edits:
    """The same with the older name of ``rope_type``."""
    return {"type" if key == "rope_type" else key: value for key, value in rope.items()}


def yarn(**more: Any) -> Edits:
    """YaRN in the new form, with further keys."""
    return new({**YARN, "rope_theta": 300.0, **more})


WHERE: dict[str, Edits] = {
    "theta nowhere": NO_ROPE,
    "theta at the top": old(None),
    "theta inside": new(DEFAULT),
    "theta in both places": new(DEFAULT, rope_theta=30.0),
    "theta beside parameters without": new({"rope_type": "default"}, rope_theta=300.0),
    "theta null at the top": new(DEFAULT, rope_theta=None),
    "theta of the scaling": old({**LINEAR, "rope_theta": 50.0}),
    "both null": new(None, rope_scaling=None, rope_theta=300.0),
    "parameters empty": new({}, rope_theta=300.0),
    "scaling over parameters": new(DEFAULT, rope_scaling=YARN),
    "scaling over parameters, theta at the top": new(DEFAULT, rope_scaling=YARN, rope_theta=300.0),
    "default scaling over yarn": new({**YARN, "rope_theta": 300.0}, rope_scaling=DEFAULT),
    "scaling null beside parameters": new({**YARN, "rope_theta": 300.0}, rope_scaling=None),
    "scaling empty beside parameters": new({**YARN, "rope_theta": 300.0}, rope_scaling={}),
    "parameters null beside scaling": old(LINEAR, rope_parameters=None),
    "type": old({"type": "linear", "factor": 4.0}),
    "type in parameters": new({"type": "linear", "factor": 4.0, "rope_theta": 300.0}),
    "rope_type over type": old({"type": "linear", "rope_type": "default", "factor": 4.0}),
    "rope_type over type, scaled": old({"type": "default", "rope_type": "linear", "factor": 4.0}),
    "no type": old({"factor": 4.0}),
    "default with keys of others": new({**DEFAULT, "factor": 4.0, "beta_fast": 3.0}),
    "partial at the top": new(DEFAULT, partial_rotary_factor=0.5),
    "partial inside": new({**DEFAULT, "partial_rotary_factor": 0.5}),
    "partial null": new({**DEFAULT, "partial_rotary_factor": None}),
    "partial of one at the top": new({**LINEAR, "rope_theta": 300.0}, partial_rotary_factor=1.0),
}

METHODS: dict[str, Edits] = {
    "linear": new({**LINEAR, "rope_theta": 300.0}),
    "linear, whole numbers": new({"rope_type": "linear", "factor": 4, "rope_theta": 300}),
    "dynamic, short": new({**DYNAMIC, "rope_theta": 300.0}),
    "dynamic, long": new({**DYNAMIC, "rope_theta": 300.0}, max_position_embeddings=16),
    "dynamic, as long as trained": new({**DYNAMIC, "rope_theta": 300.0}, max_position_embeddings=LENGTH),
    "dynamic, old keys": old({"type": "dynamic", "factor": 4.0}, max_position_embeddings=16),
    "dynamic, original at the top": old(
        DYNAMIC, max_position_embeddings=32, original_max_position_embeddings=16
    ),
    "llama3": new({**LLAMA3, "rope_theta": 300.0, "original_max_position_embeddings": 16}),
    "llama3, original at the top": old(LLAMA3, original_max_position_embeddings=16),
    "llama3, original in both places": old(
        {**LLAMA3, "original_max_position_embeddings": 32}, original_max_position_embeddings=16
    ),
    "llama3, original nowhere": old(LLAMA3, max_position_embeddings=32),
    "yarn": yarn(),
    "yarn, old keys": old(typed(YARN)),
    "yarn, original at the top": old(
        {"rope_type": "yarn", "factor": 4.0}, original_max_position_embeddings=16
    ),
    "yarn, original in both places": old(
        {**YARN, "original_max_position_embeddings": 48}, original_max_position_embeddings=16
    ),
    "yarn, original nowhere": old({"rope_type": "yarn", "factor": 4.0}),
    "yarn, neither length": old({"rope_type": "yarn", "factor": 4.0}, max_position_embeddings=...),
    "yarn, factor null": yarn(factor=None),
    "yarn, factor of one": yarn(factor=1.0),
    "yarn, attention_factor": yarn(attention_factor=0.7),
    "yarn, attention_factor null": yarn(attention_factor=None),
    "yarn, betas": yarn(beta_fast=8.0, beta_slow=0.5),
    "yarn, betas null": yarn(beta_fast=None, beta_slow=None),
    "yarn, betas zero": yarn(beta_fast=0, beta_slow=0),
    "yarn, betas swapped": yarn(beta_fast=1.0, beta_slow=4.0),
    "yarn, mscales": yarn(mscale=0.7, mscale_all_dim=1.3),
    "yarn, mscales equal": yarn(mscale=1.0, mscale_all_dim=1.0),
    "yarn, mscale_all_dim zero": yarn(mscale=0.7, mscale_all_dim=0),
    "yarn, mscale_all_dim null": yarn(mscale=0.7, mscale_all_dim=None),
    "yarn, mscale null": yarn(mscale=None, mscale_all_dim=0.7),
    "yarn, attention_factor over mscales": yarn(attention_factor=0.7, mscale=2.0, mscale_all_dim=1.0),
    "yarn, truncate false": yarn(truncate=False),
    "yarn, truncate null": yarn(truncate=None),
    "yarn, partial of one": yarn(partial_rotary_factor=1.0),
}


def longrope(pairs: int, original: int | None, **more: Any) -> dict[str, Any]:
    """LongRoPE for heads of ``pairs`` rotated pairs."""
    factors = {
        "short_factor": [1.0 + 0.1 * i for i in range(pairs)],
        "long_factor": [1.0 + 1.5 * i for i in range(pairs)],
    }
    inside = {} if original is None else {"original_max_position_embeddings": original}
    return {"rope_type": "longrope", "rope_theta": 300.0, **factors, **inside, **more}


def longropes(pairs: int) -> dict[str, Edits]:
    """LongRoPE of all families but Phi-3."""
    return {
        "longrope, short": new(longrope(pairs, 48)),
        "longrope, long": new(longrope(pairs, 16)),
        "longrope, as long as trained": new(longrope(pairs, LENGTH)),
        "longrope, old keys": old(typed(longrope(pairs, 16))),
        "longrope, original at the top": new(longrope(pairs, None), original_max_position_embeddings=16),
        "longrope, original in both places": new(longrope(pairs, 48), original_max_position_embeddings=16),
        "longrope, original nowhere": new(longrope(pairs, None)),
        "longrope, factor": new(longrope(pairs, 16, factor=9.0)),
        "longrope, factor null": new(longrope(pairs, 16, factor=None)),
        "longrope, factor of one": new(longrope(pairs, 16, factor=1.0)),
        "longrope, attention_factor": new(longrope(pairs, 16, attention_factor=1.5)),
        "longrope, attention_factor null": new(longrope(pairs, 16, attention_factor=None, factor=3.0)),
    }


GEMMA3_YARN = {"full_attention": {**YARN, "rope_theta": 300.0}, "sliding_attention": DEFAULT}
GEMMA3_THETAS: Edits = {"rope_theta": 300.0, "rope_local_base_freq": 30.0}


def gemma3(full: Edits | None, sliding: Edits | None, **more: Any) -> Edits:
    """Parameters of each type of layer."""
    return new({"full_attention": full, "sliding_attention": sliding}, rope_local_base_freq=..., **more)


GEMMA3: dict[str, Edits] = {
    "theta nowhere": {**NO_ROPE, "rope_local_base_freq": ...},
    "thetas at the top": {**NO_ROPE, **GEMMA3_THETAS},
    "thetas inside": gemma3(DEFAULT, {**DEFAULT, "rope_theta": 20.0}),
    "thetas in both places": gemma3(DEFAULT, {**DEFAULT, "rope_theta": 20.0}, rope_theta=30.0)
    | {"rope_local_base_freq": 40.0},
    "thetas beside parameters without": gemma3({"rope_type": "default"}, {"rope_type": "default"})
    | GEMMA3_THETAS,
    "theta null at the top": gemma3(DEFAULT, DEFAULT, rope_theta=None) | {"rope_local_base_freq": None},
    "old linear": old(LINEAR, rope_local_base_freq=30.0),
    "old linear, type alone": old(typed(LINEAR), rope_local_base_freq=30.0),
    "scaling with a theta": old({**LINEAR, "rope_theta": 50.0}, rope_local_base_freq=30.0),
    "scaling null": old(None, rope_local_base_freq=30.0),
    "scaling empty": old({}, rope_local_base_freq=30.0),
    "scaling over parameters": gemma3(DEFAULT, DEFAULT, rope_scaling=YARN),
    "scaling over yarn": gemma3({**YARN, "rope_theta": 300.0}, DEFAULT, rope_scaling={"factor": 2.0}),
    "default scaling over yarn": gemma3({**YARN, "rope_theta": 300.0}, DEFAULT, rope_scaling=DEFAULT),
    "scaling over parameters, thetas at the top": gemma3(
        {"rope_type": "default"}, {"rope_type": "default"}, rope_scaling=LINEAR
    )
    | GEMMA3_THETAS,
    "parameters null beside scaling": old(LINEAR, rope_parameters=None, rope_local_base_freq=30.0),
    "parameters of no layer type": new({**LINEAR, "rope_theta": 50.0}, **GEMMA3_THETAS),
    "parameters of full layers alone": new(
        {"full_attention": {**LINEAR, "rope_theta": 50.0}}, **GEMMA3_THETAS
    ),
    "parameters of sliding layers alone": new(
        {"sliding_attention": {**LINEAR, "rope_theta": 50.0}}, **GEMMA3_THETAS
    ),
    "parameters of full layers null": gemma3(None, DEFAULT, rope_theta=300.0),
    "parameters of sliding layers null": gemma3(DEFAULT, None) | {"rope_local_base_freq": 30.0},
    "type of each": gemma3({"type": "linear", "factor": 4.0}, {"type": "linear", "factor": 2.0})
    | GEMMA3_THETAS,
    "both yarn": gemma3({**YARN, "rope_theta": 300.0}, {**YARN, "rope_theta": 30.0, "factor": 2.0}),
    "both dynamic": gemma3(DYNAMIC, DYNAMIC, rope_theta=300.0, max_position_embeddings=16),
    "llama3": gemma3({**LLAMA3, "rope_theta": 300.0, "original_max_position_embeddings": 16}, DEFAULT),
    "original at the top": gemma3(
        {"rope_type": "yarn", "factor": 4.0, "rope_theta": 300.0},
        DEFAULT,
        original_max_position_embeddings=16,
    ),
    "original nowhere": gemma3({"rope_type": "yarn", "factor": 4.0, "rope_theta": 300.0}, DEFAULT),
    "truncate inside": gemma3({**YARN, "rope_theta": 300.0, "truncate": False}, DEFAULT),
    "truncate beside": new({**GEMMA3_YARN, "truncate": False}),
    "yarn, nulls": gemma3(
        {**YARN, "rope_theta": 300.0, "beta_fast": None, "mscale": 0.7, "mscale_all_dim": 0}, DEFAULT
    ),
    "longrope": gemma3(longrope(8, 16), longrope(8, 30, rope_theta=30.0)),
    "longrope, factor null": gemma3(longrope(8, 16, factor=None), DEFAULT),
    "partial inside": gemma3({**DEFAULT, "partial_rotary_factor": 0.5}, DEFAULT),
    "partial at the top": gemma3(DEFAULT, DEFAULT, partial_rotary_factor=0.5),
}


def uses(edits: Edits, *methods: str) -> bool:
    """Whether the rotation, under either key, is one of ``methods``."""
    text = json.dumps([edits.get("rope_scaling"), edits.get("rope_parameters")], default=str)
    return any(method in text for method in methods)


def phi3(scaling: Edits | None, original: int | None = 16, **more: Any) -> Edits:
    """Keys as Phi-3 has them, with the original length at the top."""
    top = {"original_max_position_embeddings": ... if original is None else original}
    return {**old(scaling), **top, **more}


PHI3: dict[str, Edits] = {
    **{
        name: edits
        for name, edits in WHERE.items()
        if not uses(edits, "yarn", "linear") and name != "partial null"
    },
    "partial at the top, theta nowhere": {**NO_ROPE, "partial_rotary_factor": 0.5},
    "partial in both places": new({**DEFAULT, "partial_rotary_factor": 0.5}, partial_rotary_factor=1.0),
    "partial of the scaling": phi3(longrope(2, None, partial_rotary_factor=0.5)),
    "partial beside the scaling": phi3(longrope(2, None), partial_rotary_factor=0.5),
    "partial of the parameters, with a scaling": phi3(
        longrope(4, None), rope_parameters={**DEFAULT, "partial_rotary_factor": 0.5}
    ),
    "scaling over parameters": phi3(longrope(4, None), rope_parameters=DEFAULT),
    "longrope, old name": phi3(typed(longrope(4, None))),
    "longrope, short": phi3(longrope(4, None), 48),
    "longrope, original in both places": phi3(longrope(4, 48)),
    "longrope, original inside alone": phi3(longrope(4, 16), None),
    "longrope, original nowhere": phi3(longrope(4, None), None),
    "su": phi3({**longrope(4, 16), "rope_type": "su"}),
    "yarn for longrope": phi3({**longrope(4, None), "rope_type": "yarn"}),
    "longrope, factor": phi3(longrope(4, None, factor=9.0)),
    "longrope, factor null": phi3(longrope(4, None, factor=None)),
    "longrope, attention_factor": phi3(longrope(4, None, attention_factor=1.5)),
    "longrope, attention_factor null": phi3(longrope(4, None, attention_factor=None)),
    "longrope, longest absent": phi3(longrope(4, None), max_position_embeddings=...),
    "longrope, in the new form": new(longrope(4, None), original_max_position_embeddings=16),
}
