"""Configuration of a compression."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from efficientai_toolkit._base.assets import INSTRUCTIONS, MODEL
from efficientai_toolkit._base.config import Config, setting
from efficientai_toolkit._base.units import parse_percent
from efficientai_toolkit.compress.budget import Budget
from efficientai_toolkit.compress.candidates import (
    NONE,
    Candidate,
    list_candidates,
    read_pruning,
    read_quantization,
    read_recovery,
)
from efficientai_toolkit.compress.recovery import RECOVERIES
from efficientai_toolkit.evaluation.items import read_items
from efficientai_toolkit.evaluation.text import find_text
from efficientai_toolkit.exceptions import ConfigError, DatasetError
from efficientai_toolkit.exports.formats import FORMATS
from efficientai_toolkit.study.folder import RUNS, new_run

_QUANTIZATIONS = (NONE, "rtn-8", "gptq-4", "gptq-4-e4")
"""Quantizations that are tried by default."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class CompressConfig(Config):
    """Configuration of :func:`efficientai_toolkit.compress.compress`."""

    model_path: str | None = setting(
        None, "folder in Hugging Face format, or hub id org/name[@revision] (default: the embedded model)"
    )
    output: str | None = setting(
        None, "folder of the compressed model and the report (default: a new numbered one under runs/)"
    )
    budget: str | None = setting(
        None,
        "what the model may need, as fractions of the original: size (of the weights on disk), latency (time "
        "per generated token) and memory (peak while generating), such as size=0.25,latency=0.5 (default: no "
        "limit)",
    )
    max_loss: str = setting("2%", "largest increase of the perplexity over the original's, in percent")
    prefer: Literal["quality", "size", "speed"] = setting(
        "quality",
        "what counts among the candidates within budget and loss: the lowest perplexity, the smallest "
        "size or "
        "the highest decoding speed",
    )
    prune: list[str] = setting(
        [NONE, "width-0.1", "depth-0.1", "width-0.2", "depth-0.2"],
        "prunings to try: none, depth-0.1 and width-0.1 (fraction of blocks or feed-forward channels), "
        "unstructured-0.5 or N:M, whose zeros take as much room as other weights",
        separator=",",
    )
    recover: list[str] | None = setting(
        None,
        f"trainings to try after pruning: none, {', '.join(RECOVERIES)} (default: none, or with data the "
        "first "
        "training)",
        separator=",",
    )
    quantize: list[str] | None = setting(
        None,
        "quantizations to try: none, TECHNIQUE-BITS, also with a group size (-g32) and bits of the "
        "embeddings (-e4), mixed-4.5 (bits per weight), or mixed, as large as the budget of the size allows "
        f"(default: {','.join(_QUANTIZATIONS)}, and mixed if the budget has a size)",
        separator=",",
    )
    calibration: str | None = setting(
        None,
        "calibration text of prunings and quantizations: a data file or folder, as for training "
        "(default: the "
        "bundled instructions)",
    )
    calibration_sequences: int = setting(64, "maximum number of calibration sequences")
    sequence_length: int = setting(512, "tokens per calibration sequence")
    data: str | None = setting(
        None, "data to train on after pruning, as for fine-tuning (default: no training)"
    )
    recovery_steps: int = setting(200, "optimizer steps of a training")
    recovery_batch_size: int = setting(4, "batch size of a training")
    recovery_length: int = setting(512, "maximum sequence length of a training")
    recovery_lr: float = setting(2e-4, "peak learning rate of a training; a tenth of it if it is full")
    heldout: str | None = setting(
        None,
        "held-out text for perplexity and divergence: a jsonl file, or a folder with test.jsonl or "
        "valid.jsonl "
        "(default: the bundled instructions)",
    )
    sequences: int = setting(32, "maximum number of sequences of held-out text")
    length: int = setting(256, "tokens per sequence of held-out text")
    task: str | None = setting(
        None,
        "jsonl file of questions, whose answers are compared with the original's in a paired test: rows with "
        "prompt, choices and answer (place of the right one), or with prompt and completion",
    )
    items: int = setting(1000, "maximum number of questions")
    prompt_tokens: int = setting(128, "tokens of the prompt when speed is measured")
    generated_tokens: int = setting(64, "generated tokens when speed is measured")
    repeats: int = setting(3, "generations per process, of which the median counts")
    rounds: int = setting(
        2, "rounds in which the original and all candidates are timed, each in a process of its own"
    )
    stop_factor: float = setting(
        3.0, "a pruned model is given up, with all that builds on it, above this many times the largest loss"
    )
    candidates: int | None = setting(None, "maximum number of candidates to build (default: all)")
    timeout_minutes: float | None = setting(
        None, "time limit after which no candidate is begun (default: none)"
    )
    export: list[str] = setting(
        [],
        "formats in which the chosen model is written too, FORMAT or FORMAT:TYPE, such as "
        "gguf:q4_k_m,onnx:int4",
        separator=",",
    )
    keep_models: bool = setting(False, "keep the models of all candidates")
    plots: bool = setting(True, "draw plots; needs matplotlib")
    seed: int = setting(0, "random seed")
    resume: bool = setting(
        False, "continue an interrupted compression; what is built and measured is not done again"
    )
    overwrite: bool = setting(False, "replace the compression in the output folder")

    def check(self) -> None:
        """Validate the configuration.

        Raises
        ------
        ConfigError
            If a value is invalid; the message names the key.
        """
        limits = Budget.parse(self.budget).limits
        if parse_percent("max_loss", self.max_loss) <= 0:
            message = f"`max_loss` must be above 0, not {self.max_loss}"
            raise ConfigError(message)
        self._check_steps(limits)
        for name in ("prune", "quantize", "recover", "export"):
            values = getattr(self, name) or ()
            if len(set(values)) < len(values):
                message = f"`{name}` must name each value once, not {', '.join(values)}"
                raise ConfigError(message)
        if self.data is None and any(one != NONE for one in self.recover or ()):
            message = "`recover` needs `data` to train on: give --data too"
            raise ConfigError(message)
        self._check_numbers()
        for _, kind, chosen in self.list_exports():
            FORMATS[chosen].find_type(kind)
        if not self.list_candidates():
            message = "there is nothing to try: name at least one pruning or quantization other than none"
            raise ConfigError(message)

    def _check_steps(self, limits: Mapping[str, float]) -> None:
        for text in self.prune:
            read_pruning(text)
        for text in self.recover or ():
            read_recovery(text)
        for text in self.quantize or ():
            if read_quantization(text) == {"technique": "mixed"} and "size" not in limits:
                message = (
                    "`quantize` has mixed, which is made for the size of the budget: give --budget "
                    "size=…, or "
                    "the bits per weight, such as mixed-4.5"
                )
                raise ConfigError(message)

    def _check_numbers(self) -> None:
        counts = (
            "calibration_sequences", "sequence_length", "recovery_steps", "recovery_batch_size",
            "recovery_length", "sequences", "items", "prompt_tokens", "generated_tokens", "repeats", "rounds",
            "candidates",
        )  # fmt: skip
        for name in counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                message = f"`{name}` must be at least 1, not {value}"
                raise ConfigError(message)
        for name, least in (("length", 2), ("stop_factor", 1)):
            if getattr(self, name) < least:
                message = f"`{name}` must be at least {least}, not {getattr(self, name)}"
                raise ConfigError(message)
        for name in ("timeout_minutes", "recovery_lr"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                message = f"`{name}` must be above 0, not {value}"
                raise ConfigError(message)

    @property
    def limits(self) -> Budget:
        """The budget."""
        return Budget.parse(self.budget)

    @property
    def largest_loss(self) -> float:
        """``max_loss`` as a fraction."""
        return parse_percent("max_loss", self.max_loss)

    def list_candidates(self) -> list[Candidate]:
        """Return the combinations to try."""
        recoveries = self.recover
        if recoveries is None:
            recoveries = [NONE] if self.data is None else [NONE, next(iter(RECOVERIES))]
        quantizations = self.quantize
        if quantizations is None:
            quantizations = [*_QUANTIZATIONS, *(["mixed"] if "size" in self.limits.limits else [])]
        return list_candidates(self.prune, recoveries, quantizations)

    def list_exports(self) -> list[tuple[str, str | None, str]]:
        """Return the exports: as they are written, the type and the format.

        Raises
        ------
        ConfigError
            If there is no such format.
        """
        found: list[tuple[str, str | None, str]] = []
        for text in self.export:
            chosen, _, kind = text.partition(":")
            if chosen not in FORMATS:
                message = f"`export` has the unknown format {chosen!r}; there are {', '.join(FORMATS)}"
                raise ConfigError(message)
            found.append((text, kind or None, chosen))
        return found

    def with_defaults_filled(self) -> "CompressConfig":
        """Return a copy with model, texts and output folder filled in, after checking that texts exist.

        Raises
        ------
        ConfigError
            If ``resume`` is set without ``output``.
        DatasetError
            If a text does not exist or cannot be used.
        """
        if self.resume and self.output is None:
            message = "`resume` needs `output`, the folder of the compression to resume: give --output too"
            raise ConfigError(message)
        filled = {
            name: None if (path := getattr(self, name)) is None else str(Path(path).expanduser())
            for name in ("calibration", "heldout", "task")
        }
        for name, path in filled.items():
            if path is not None and not Path(path).exists():
                message = f"there is no folder or file {path}, which `{name}` names"
                raise DatasetError(message)
        find_text(filled["heldout"])
        if filled["task"] is not None:
            read_items(Path(filled["task"]), self.items)
        return replace(
            self,
            calibration=filled["calibration"] or str(INSTRUCTIONS),
            heldout=filled["heldout"],
            task=filled["task"],
            model_path=self.model_path or str(MODEL),
            output=str(
                new_run(Path(RUNS), "compress") if self.output is None else Path(self.output).expanduser()
            ),
        )
