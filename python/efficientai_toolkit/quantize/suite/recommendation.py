"""Recommendation of one of the variants of a benchmark."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from efficientai_toolkit._base.config import Config, setting
from efficientai_toolkit._base.display import Displayed
from efficientai_toolkit._base.units import format_size, parse_percent, parse_size
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.quantize.suite.measurement import Measurement
from efficientai_toolkit.quantize.suite.result import BenchmarkResult


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class RecommendationConfig(Config):
    """Constraints of :func:`efficientai_toolkit.quantize.recommend`, and what to prefer within them."""

    max_memory: str | None = setting(None, "largest peak memory while generating, such as 4GB")
    max_size: str | None = setting(None, "largest size of the weights on disk, such as 500MB")
    max_loss: str | None = setting(
        None, "largest increase of the perplexity over the original's, in percent, such as 1%"
    )
    max_kl: float | None = setting(None, "largest mean KL divergence from the original, in nats")
    min_speed: float | None = setting(None, "least decoding speed in tokens per second")
    prefer: Literal["speed", "size", "quality"] = setting(
        "speed",
        "what counts among the variants that meet the constraints: the highest decoding speed, the smallest "
        "size, or the lowest KL divergence",
    )
    model: str | None = setting(None, "consider this model only (default: all models of the results)")

    def check(self) -> None:
        """Validate the configuration.

        Raises
        ------
        ConfigError
            If a size, a share or a number is none or out of range.
        """
        self.list_limits()

    def list_limits(self) -> "list[_Limit]":
        """Return the constraints that are set."""
        limits: list[_Limit] = []
        if self.max_memory is not None:
            bound = parse_size("max_memory", self.max_memory)
            limits.append(_Limit("max_memory", bound, _memory, format_size))
        if self.max_size is not None:
            limits.append(_Limit("max_size", parse_size("max_size", self.max_size), _size, format_size))
        if self.max_loss is not None:
            limits.append(_Limit("max_loss", parse_percent("max_loss", self.max_loss), _loss, _percent))
        if self.max_kl is not None:
            limits.append(_Limit("max_kl", self.max_kl, _divergence, _kl))
        if self.min_speed is not None:
            limits.append(_Limit("min_speed", self.min_speed, _decode, _speed, is_least=True))
        for limit in limits:
            if limit.value < 0:
                message = f"`{limit.name}` must not be negative, not {limit.value:g}"
                raise ConfigError(message)
        return limits


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Recommendation(Displayed):
    """Result of :func:`recommend`."""

    row: Measurement | None
    """The recommended variant; ``None`` if none meets the constraints."""
    reason: str
    excluded: dict[str, str]
    """Why other variants do not come into question, by name."""


@dataclass(frozen=True, slots=True)
class _Limit:
    """A constraint on a measured quantity."""

    name: str
    value: float
    measure: Callable[[Measurement], float]
    show: Callable[[float], str]
    is_least: bool = False

    def find_breach(self, row: Measurement) -> str | None:
        """Return how a row breaks the constraint."""
        value = self.measure(row)
        if value >= self.value if self.is_least else value <= self.value:
            return None
        side = "below" if self.is_least else "above"
        return f"{_QUANTITIES[self.name]} {self.show(value)} is {side} {self.name} {self.show(self.value)}"

    def describe_best(self, rows: Sequence[Measurement]) -> str:
        """Return the value of this constraint that at least one row meets."""
        best = max(map(self.measure, rows)) if self.is_least else min(map(self.measure, rows))
        return f"the {'highest' if self.is_least else 'lowest'} {_QUANTITIES[self.name]} is {self.show(best)}"


def recommend(
    results: BenchmarkResult | Path | str, config: RecommendationConfig | None = None, **overrides: Any
) -> Recommendation:
    """Recommend a variant that meets constraints: the fastest, the smallest, or the closest to the original.

    >>> from efficientai_toolkit.quantize import recommend
    >>> recommend("runs/quantization-0001", max_memory="4GB", max_loss="1%", prefer="speed")  # doctest: +SKIP

    Parameters
    ----------
    results
        Result of a benchmark, or its folder.
    config
        Constraints and preference; by default no constraints, and the fastest.
    **overrides
        Fields of :class:`RecommendationConfig` that override ``config``.

    Returns
    -------
    Recommendation
        Without a row if no variant meets the constraints.

    Raises
    ------
    ConfigError
        If there are no results, or a constraint is invalid.
    """
    config = (config or RecommendationConfig()).with_values(overrides)
    if not isinstance(results, BenchmarkResult):
        results = BenchmarkResult.load(results)
    rows = results.rows
    models = list(dict.fromkeys(row.model for row in rows))
    if config.model is not None:
        if config.model not in models:
            message = f"`model` {config.model} is not among the models of the results: {', '.join(models)}"
            raise ConfigError(message)
        rows = [row for row in rows if row.model == config.model]
    names = {id(row): _name(row, models) for row in rows}
    excluded = {names[id(row)]: f"failed: {row.error}" for row in rows if row.error is not None}
    done = [row for row in rows if row.error is None]
    limits = config.list_limits()
    for row in done:
        breaches = [breach for limit in limits if (breach := limit.find_breach(row)) is not None]
        if breaches:
            excluded[names[id(row)]] = "; ".join(breaches)
    left = [row for row in done if names[id(row)] not in excluded]
    if not left:
        closest = "; ".join(limit.describe_best(done) for limit in limits) if done else "every variant failed"
        return Recommendation(
            row=None, reason=f"no variant meets the constraints: {closest}", excluded=excluded
        )
    chosen = min(left, key=_ORDERS[config.prefer])
    return Recommendation(row=chosen, reason=_explain(chosen, left, config, names), excluded=excluded)


def _name(row: Measurement, models: Sequence[str]) -> str:
    return row.variant if len(models) == 1 else f"{row.model}/{row.variant}"


def _explain(
    chosen: Measurement, left: Sequence[Measurement], config: RecommendationConfig, names: dict[int, str]
) -> str:
    best = {
        "speed": f"the fastest, {_speed(_decode(chosen))}",
        "size": f"the smallest, {format_size(_size(chosen))}",
        "quality": f"the closest to the original, a mean KL divergence of {_kl(_divergence(chosen))}",
    }[config.prefer]
    others = [row for row in left if row is not chosen]
    first = f"of {len(left)} that meet the constraints it is {best}"
    texts = [first if others else "the only one that meets the constraints"]
    texts.append(
        f"perplexity {chosen.perplexity:,.3f} ({_percent(_loss(chosen))}), "
        f"{format_size(_size(chosen))} on disk, "
        f"{format_size(_memory(chosen))} of memory, {_speed(_decode(chosen))}"
    )
    if others:
        second = min(others, key=_ORDERS[config.prefer])
        texts.append(
            f"next would be {names[id(second)]}: {_speed(_decode(second))}, "
            f"{format_size(_size(second))}, KL {_kl(_divergence(second))}"
        )
    return "; ".join(texts)


def _memory(row: Measurement) -> float:
    return row.peak_memory_bytes or 0


def _size(row: Measurement) -> float:
    return row.size_bytes or 0


def _loss(row: Measurement) -> float:
    return row.perplexity_increase or 0.0


def _divergence(row: Measurement) -> float:
    return row.mean_kl or 0.0


def _decode(row: Measurement) -> float:
    return row.decode_tokens_per_second or 0.0


def _percent(value: float) -> str:
    return f"{value:+.2%}"


def _kl(value: float) -> str:
    return f"{value:.4g}"


def _speed(value: float) -> str:
    return f"{value:,.1f} tokens/s"


_QUANTITIES = {
    "max_memory": "peak memory",
    "max_size": "size",
    "max_loss": "increase of the perplexity",
    "max_kl": "KL divergence",
    "min_speed": "decoding speed",
}
"""What each constraint limits."""

_ORDERS: dict[str, Callable[[Measurement], tuple[float, float]]] = {
    "speed": lambda row: (-_decode(row), _divergence(row)),
    "size": lambda row: (_size(row), _divergence(row)),
    "quality": lambda row: (_divergence(row), _size(row)),
}
"""Keys whose least one is preferred; the second part breaks ties."""
