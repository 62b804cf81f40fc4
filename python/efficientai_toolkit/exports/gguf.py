"""GGUF, the format of llama.cpp; the engine writes it."""

import json
from dataclasses import replace
from typing import Any

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.exports.card import Card, read_card
from efficientai_toolkit.exports.writer import Verified, Writer, Written

_PLAIN = ("auto", "f32", "f16", "bf16", "q8_0")
"""Types whose rounding is not weighted."""


class GgufWriter(Writer):
    """Writes a GGUF file."""

    def check(self) -> None:
        """Refuse calibration text for types that do not use it."""
        config = self.job.config
        if config.calibration is not None and (config.type in _PLAIN or not config.merge_adapter):
            message = (
                f"`calibration` has no effect on {config.type if config.merge_adapter else 'an adapter'}: "
                "leave it out, or choose another `type`, such as q4_k_m"
            )
            raise ConfigError(message)

    def write(self) -> Written:
        """Write the file, tensor by tensor."""
        from efficientai_toolkit._engine.core import core

        job = self.job
        model, tokenizer = job.loaded
        if job.config.merge_adapter and job.source.is_file():
            card = core.exports.read_gguf_card(str(job.source))
        else:
            card = self._card().to_json()
        output = str(job.output)
        if job.config.merge_adapter:
            report = core.exports.write_gguf(model, tokenizer, self._settings(), card, output, job.observe)
        else:
            report = core.exports.write_gguf_adapter(model, self._settings(), card, output, job.observe)
        found = json.loads(report)
        return Written(notes=found["notes"], types=found["types"])

    def verify(self) -> Verified:
        """Decode every tensor of the file and compare it with the model."""
        from efficientai_toolkit._engine.core import core

        job = self.job
        model, _ = job.loaded
        if job.config.merge_adapter:
            difference = core.exports.verify_gguf(model, str(job.output), job.observe)
        else:
            difference = core.exports.verify_gguf_adapter(model, str(job.output))
        return Verified(largest_difference=difference, compared="weights")

    def _card(self) -> Card:
        """Return the card of what is exported; an adapter names its model."""
        job = self.job
        if job.config.merge_adapter or job.adapter is None:
            return read_card(job.source)
        card = read_card(job.adapter)
        return card if card.base_models else replace(card, base_models=[str(job.config.model_path)])

    def _settings(self) -> str:
        config: dict[str, Any] = self.job.config.to_dict()
        names = ("type", "calibration", "calibration_sequences", "sequence_length", "seed")
        return json.dumps({name: config[name] for name in names})
