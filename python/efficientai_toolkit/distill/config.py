"""Configuration of distillation, beside that of training."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from efficientai_toolkit import hub
from efficientai_toolkit._base.config import Config, setting
from efficientai_toolkit.exceptions import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class DistillConfig(Config):
    """What distillation needs beside a :class:`~efficientai_toolkit.lora.TrainingConfig`."""

    teacher: str | None = setting(
        None,
        "model to learn from, with the tokenizer of the student: a folder in Hugging Face format, or hub id "
        "org/name[@revision]",
    )
    through: list[str] = setting(
        [],
        "models between the two, from the larger to the smaller one: each learns from the one before, in "
        "full, and the student from the last; separate several by commas",
        separator=",",
    )
    loss: Literal["forward_kl", "reverse_kl", "js", "skewed_kl"] = setting(
        "forward_kl",
        "divergence of the student from the teacher: KL(teacher, student), which covers all that the teacher "
        "says (forward_kl), KL(student, teacher), which says nothing that the teacher would not "
        "(reverse_kl), between the two (js), or KL(teacher, mixture of both), which is bounded (skewed_kl)",
    )
    temperature: float = setting(
        1.0, "divisor of the logits of both models; higher ones weigh unlikely tokens more"
    )
    alpha: float = setting(1.0, "weight of the divergence; the rest is that of the cross-entropy of the data")
    js_beta: float = setting(0.5, "js: weight of the teacher in the mixture")
    skew: float = setting(0.1, "skewed_kl: weight of the teacher in the mixture")
    on_policy: float = setting(
        0.0,
        "fraction of the batches whose answers the student writes itself, so that it learns from its own "
        "mistakes",
    )
    max_new_tokens: int = setting(128, "on_policy: maximum number of tokens that the student writes")
    select_tokens: Literal["student_entropy", "divergence"] | None = setting(
        None,
        "learn from some tokens of each row only: those of which the student is least certain "
        "(student_entropy), or those on which it differs most from the teacher (divergence) (default: all)",
    )
    select_share: float = setting(0.5, "select_tokens: fraction of the tokens")
    teacher_cache: str | None = setting(
        None,
        "folder for the most likely tokens of the teacher, which then reads the data only once, for all runs "
        "(default: it reads every batch)",
    )
    teacher_top_k: int = setting(
        50, "teacher_cache: number of these tokens at each position; all others count as one"
    )

    def check(self) -> None:
        """Let the engine check the values."""
        # The defaults are valid, and loading the engine takes time.
        if any(self._displayed()):
            from efficientai_toolkit._engine.core import core

            core.distill.check(self.to_json())

    def with_defaults_filled(self, *, show_progress: bool = True) -> "DistillConfig":
        """Return a copy with the folders of all teachers, which are downloaded if necessary.

        Raises
        ------
        ConfigError
            If there is no ``teacher``.
        ModelLoadingError
            If one cannot be found.
        """
        if self.teacher is None:
            message = "`teacher` is missing: give the model to learn from with --teacher"
            raise ConfigError(message)
        cache = self.teacher_cache
        return replace(
            self,
            teacher=str(hub.resolve(self.teacher, show_progress=show_progress)),
            through=[str(hub.resolve(name, show_progress=show_progress)) for name in self.through],
            teacher_cache=None if cache is None else str(Path(cache).expanduser()),
        )
