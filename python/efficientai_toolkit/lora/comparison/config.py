"""Configuration of a comparison."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from efficientai_toolkit._base.config import Config, list_options, setting
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.lora.config import TrainingConfig

_VARIANTS: dict[str, tuple[str, Any]] = {
    "qlora": ("bits", 4),
    "rslora": ("use_rslora", True),
    # The ratio that the paper recommends.
    "lora_plus": ("loraplus_lr_ratio", 16.0),
    "pissa": ("lora_init", "pissa"),
}
"""Names of LoRA variants with the setting each of them changes, unless the run sets it."""

_FULL_LR = 0.1
"""Full fine-tuning needs about a tenth of the learning rate of adapters."""


def available_methods() -> tuple[str, ...]:
    """Return the values of ``TrainingConfig.method`` and the variants of LoRA.

    ``qlora`` quantizes the base model to 4 bits, ``rslora`` changes the scale, ``lora_plus`` uses a higher
    learning rate for ``B``, and ``pissa`` changes the initialization.
    """
    choices = next(option.choices for option in list_options(TrainingConfig) if option.name == "method")
    return (*choices, *_VARIANTS)


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class ComparisonConfig(Config):
    """Configuration of :func:`efficientai_toolkit.lora.compare`."""

    methods: list[str] = setting(
        ["lora", "qlora", "dora", "full"],
        f"methods to compare, among {', '.join(available_methods())}",
        separator=",",
    )
    full_lr: float | None = setting(
        None, "learning rate of the method full (default: a tenth of lr, which suits adapters)"
    )
    tolerance: float = setting(
        5.0, "recommend a method only if its validation loss is within this % of the best"
    )
    prefer: Literal["memory", "time"] = setting("memory", "resource that the recommended method minimizes")
    plots: bool = setting(True, "draw comparison.png; needs matplotlib")

    def check(self) -> None:
        """Validate the configuration.

        Raises
        ------
        ConfigError
            If a method is unknown or repeated, or a number is out of range.
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

    def runs(self, base: TrainingConfig) -> dict[str, TrainingConfig | str]:
        """Return the configuration of each method's run, or why its settings are refused.

        Raises
        ------
        ConfigError
            If two configurations are equal, or all are refused.
        """
        runs: dict[str, TrainingConfig | str] = {}
        for method in self.methods:
            try:
                run = self.apply(method, base)
            except ConfigError as error:
                runs[method] = str(error)
                continue
            for other, theirs in runs.items():
                if run == theirs:
                    message = f"`methods` names {other} and {method}, which are the same with these settings"
                    raise ConfigError(message)
            runs[method] = run
        if all(isinstance(run, str) for run in runs.values()):
            reasons = "; ".join(f"{method}: {reason}" for method, reason in runs.items())
            message = f"no method of `methods` can run with these settings: {reasons}"
            raise ConfigError(message)
        return runs

    def apply(self, method: str, base: TrainingConfig) -> TrainingConfig:
        """Return the configuration of a method's run.

        Raises
        ------
        ConfigError
            If a setting is not for this method.
        """
        dense = replace(base, bits=None)
        if method in _VARIANTS:
            name, usual = _VARIANTS[method]
            given = getattr(base, name)
            changed = given != getattr(TrainingConfig(), name)
            return dense.with_values({"method": "lora", name: given if changed else usual})
        if method == "full":
            lr = base.lr * _FULL_LR if self.full_lr is None else self.full_lr
            return dense.with_values({"method": "full", "lr": lr})
        return dense.with_values({"method": method})
