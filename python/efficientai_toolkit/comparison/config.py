"""Everything a user may set about a comparison."""

from dataclasses import dataclass, replace
from typing import Literal

from efficientai_toolkit._config import Config, options, setting
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.lora import TrainingConfig

_QLORA = "qlora"
_QLORA_BITS = 4
_FULL_LR = 0.1
"""Adapters are best trained with about ten times the learning rate of the whole model."""


def available_methods() -> tuple[str, ...]:
    """Everything ``TrainingConfig.method`` offers, and ``qlora``: adapters on weights of 4 bits."""
    choices = next(option.choices for option in options(TrainingConfig) if option.name == "method")
    return (*choices, _QLORA)


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonConfig(Config):
    """What is compared, and what is recommended for; the run itself stands in the ``TrainingConfig``."""

    methods: list[str] = setting(
        ["lora", "qlora", "dora", "full"],
        f"ways to fine-tune to compare, of {', '.join(available_methods())}",
        separator=",",
    )
    full_lr: float | None = setting(
        None, "learning rate where every number is trained (default: a tenth of --lr, which suits adapters)"
    )
    tolerance: float = setting(
        5.0, "a method is good enough when its validation loss is within so many % of the best"
    )
    prefer: Literal["memory", "time"] = setting("memory", "what the recommended one needs the least of")
    plots: bool = setting(True, "draw comparison.png; needs matplotlib")

    def check(self) -> None:
        """Refuse what cannot work.

        Raises
        ------
        ConfigError
            A method is unknown or comes twice, a number is out of range.
        """
        known = available_methods()
        for name in self.methods:
            if name not in known:
                message = f"`methods` names the unknown `{name}`; there are {', '.join(known)}"
                raise ConfigError(message)
        if not self.methods or len(set(self.methods)) < len(self.methods):
            message = f"`methods` must name each of its methods once, not {self.methods}"
            raise ConfigError(message)
        if self.tolerance < 0:
            message = f"`tolerance` must not be below 0, but is {self.tolerance}"
            raise ConfigError(message)
        if self.full_lr is not None and self.full_lr <= 0:
            message = f"`full_lr` must be above 0, not {self.full_lr}"
            raise ConfigError(message)

    def apply(self, method: str, base: TrainingConfig) -> TrainingConfig:
        """The run of one method."""
        if method == _QLORA:
            return base.with_values({"method": "lora", "bits": base.bits or _QLORA_BITS})
        if method == "full":
            lr = base.lr * _FULL_LR if self.full_lr is None else self.full_lr
            return base.with_values({"method": "full", "bits": None, "lr": lr})
        return replace(base.with_values({"method": method}), bits=None)
