"""Presets: settings that go together."""

from collections.abc import Mapping
from typing import Any, Literal

Preset = Literal["q4-best", "q4-fast", "q3", "q8"]
"""Names of the presets."""

PRESETS: dict[str, dict[str, Any]] = {
    "q4-best": {"technique": "mixed", "target_bpw": 4.5, "calibration_sequences": 128},
    "q4-fast": {"technique": "rtn", "bits": 4},
    "q3": {"technique": "mixed", "target_bpw": 3.5, "calibration_sequences": 128},
    "q8": {"technique": "rtn", "bits": 8},
}
"""Fields of :class:`~efficientai_toolkit.quantize.QuantizeConfig` that each preset sets."""


def fill_preset(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of ``given["preset"]``, if there is any; what is ``given`` wins."""
    preset = PRESETS.get(str(given.get("preset")), {})
    other_technique = given.get("technique", preset.get("technique")) != preset.get("technique")
    if other_technique or given.get("target_bytes") is not None:
        # A size is the setting of one technique, and there is only one.
        preset = {name: value for name, value in preset.items() if name != "target_bpw"}
    return {**preset, **given}
