"""Codecs of updates: error feedback, means of what is rounded by chance, sizes, and damaged messages."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.federated.codecs import Codec, ErrorFeedback, choose

SHAPES: dict[str, tuple[int, ...]] = {"w": (64, 32), "b": (32,), "v": (32, 10), "c": (10,)}
NUMBERS = 64 * 32 + 32 + 32 * 10 + 10
CODECS: list[tuple[str, dict[str, Any]]] = [
    ("fp16", {}),
    ("int8", {}),
    ("qsgd", {"levels": 7}),
    ("qsgd", {"levels": 1}),
    ("sign", {}),
    ("top_k", {"fraction": 0.1}),
    ("power_sgd", {"rank": 2}),
]


def update(seed: int, dtype: Any = np.float32) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {name: (rng.standard_normal(shape) * 0.01).astype(dtype) for name, shape in SHAPES.items()}


@pytest.mark.parametrize(("name", "options"), CODECS)
def test_what_is_lost_is_sent_later(name: str, options: dict[str, Any]) -> None:
    codec = Codec(name, **options)
    feedback = ErrorFeedback(codec)
    kept = {key: np.zeros(shape) for key, shape in SHAPES.items()}
    for number in range(5):
        wanted = {key: value.astype(np.float64) + kept[key] for key, value in update(number).items()}
        messages = feedback.encode(update(number), seed=number)
        sent = codec.decode(messages, SHAPES)
        kept = feedback.residual
        for key in SHAPES:
            # float64 holds the difference of what is wanted and a float32 but for its last bits.
            assert np.abs(wanted[key] - (sent[key] + kept[key])).max() <= 1e-15 * np.abs(wanted[key]).max()


def test_the_sum_of_what_arrives_is_the_sum_of_updates() -> None:
    for name, options in CODECS:
        feedback = ErrorFeedback(Codec(name, **options))
        total = {key: np.zeros(shape) for key, shape in SHAPES.items()}
        for number in range(30):
            for key, value in feedback.codec.decode(
                feedback.encode(update(number), seed=number), SHAPES
            ).items():
                total[key] += value
        for key, value in total.items():
            exact = sum(update(number)[key].astype(np.float64) for number in range(30))
            assert np.allclose(value + feedback.residual[key], exact, rtol=0, atol=1e-12), name


@pytest.mark.parametrize(
    ("name", "options"), [("int8", {}), ("qsgd", {"levels": 1}), ("qsgd", {"levels": 7})]
)
def test_the_mean_of_many_draws_is_the_number(name: str, options: dict[str, Any]) -> None:
    codec, values = Codec(name, **options), update(1)["b"]
    draws = np.stack(
        [
            codec.decode(codec.encode({"b": values}, seed=seed), {"b": (32,)})["b"].astype(np.float64)
            for seed in range(0, 20_000, 2)
        ]
    )
    # One draw deviates by half a step at most; five standard deviations of the mean.
    bound = 5 * np.diff(np.unique(draws)).min() / 2 / math.sqrt(len(draws))
    assert np.abs(draws.mean(0) - values).max() <= bound
    assert draws.std() > 0


@pytest.mark.parametrize(
    ("name", "options", "bits"),
    [
        ("fp16", {}, 16 * NUMBERS),
        ("int8", {}, 8 * NUMBERS + 4 * 32),
        ("qsgd", {"levels": 7}, 4 * NUMBERS + 4 * 32),
        ("qsgd", {"levels": 1}, 2 * NUMBERS + 4 * 32),
        ("sign", {}, NUMBERS + 4 * 32),
        ("top_k", {"fraction": 0.01}, 20 * (11 + 32) + (5 + 32) + 3 * (9 + 32) + (4 + 32)),
        ("power_sgd", {"rank": 1}, 32 * (64 + 32 + 32 + 32 + 10 + 10)),
    ],
)
def test_wire_bytes(name: str, options: dict[str, Any], bits: int) -> None:
    codec = Codec(name, **options)
    messages = codec.encode(update(0))
    size = sum(map(len, messages.values()))
    assert size == codec.wire_bytes(SHAPES)
    # One byte per tensor names the codec, and the last byte of each may have empty bits.
    assert 4 <= size - bits / 8 < 8
    if name == "sign":
        assert 4 * NUMBERS / size >= 28


def test_halves_are_updates_too() -> None:
    codec = Codec("fp16")
    messages = codec.encode(update(0, ml_dtypes.bfloat16))
    for name, value in codec.decode(messages, SHAPES).items():
        assert np.array_equal(
            value, update(0, ml_dtypes.bfloat16)[name].astype(np.float16).astype(np.float32)
        )


def test_power_sgd_goes_on_from_the_factors_before() -> None:
    rng = np.random.default_rng(0)
    # Singular values that fall slowly: one step of the power method from chance does not find the first.
    u, v = (np.linalg.qr(rng.standard_normal((size, 20)))[0] for size in (60, 40))
    values = {"w": ((u * 0.9 ** np.arange(20)) @ v.T).astype(np.float32)}
    codec, messages, errors = Codec("power_sgd", rank=1), None, []
    for _ in range(20):
        messages = codec.encode(values, seed=0, previous=messages)
        errors.append(np.linalg.norm(values["w"] - codec.decode(messages, {"w": (60, 40)})["w"]))
    best = math.sqrt(sum(0.9 ** (2 * i) for i in range(1, 20)))
    assert errors[0] > 1.02 * best
    assert errors[-1] < 1.005 * best


def test_state_goes_on_where_it_was() -> None:
    codec = Codec("power_sgd", rank=1)
    whole, first = ErrorFeedback(codec), ErrorFeedback(codec)
    for number in range(2):
        whole.encode(update(number), seed=number)
    first.encode(update(0), seed=0)
    second = ErrorFeedback(codec, first.residual, first.previous)
    assert second.encode(update(1), seed=1) == whole.previous


def test_the_codec_follows_the_bandwidth() -> None:
    codecs = [Codec("fp16"), Codec("int8"), Codec("qsgd"), Codec("sign")]
    sizes = [codec.wire_bytes(SHAPES) for codec in codecs]
    for codec, size in zip(codecs, sizes, strict=True):
        assert choose(codecs, SHAPES, bytes_per_second=size / 2, seconds=2) is codec
    assert choose(codecs, SHAPES, bytes_per_second=1, seconds=1) is codecs[-1]
    with pytest.raises(ConfigError, match="seconds is 0, expected a positive number"):
        choose(codecs, SHAPES, bytes_per_second=1, seconds=0)
    with pytest.raises(ConfigError, match="codecs is empty"):
        choose([], SHAPES, bytes_per_second=1, seconds=1)


def test_wrong_options_numbers_and_messages_are_named() -> None:
    for name, options, message in (
        ("zip", {}, "^codec zip: .*unknown variant `zip`, expected one of `fp16`"),
        ("sign", {"levels": 3}, "^codec sign: .*unknown field `levels`"),
        ("qsgd", {"levels": 300}, "^codec qsgd: an option is 300, expected at most 255"),
        ("top_k", {"fraction": 2.0}, "^codec top_k: fraction is 2, expected above 0 and at most 1"),
        ("power_sgd", {"rank": 0}, "^codec power_sgd: rank is 0, expected at least 1"),
        ("top_k", {"fraction": object()}, "codec top_k: .* not JSON serializable"),
    ):
        with pytest.raises(ConfigError, match=message):
            Codec(name, **options)
    codec = Codec("int8")
    with pytest.raises(ConfigError, match=r"^b: the number at 1 is not finite"):
        codec.encode({"b": np.array([0, np.nan], np.float32)})
    messages = codec.encode(update(0))
    for change, message in (
        (
            {"b": messages["b"][:-1]},
            r"^b: a int8 message is malformed: it has 36 bytes, expected 37 for \[32\]",
        ),
        ({"b": b""}, "^b: a int8 message is malformed: it is empty"),
        ({"b": b"\x05" + messages["b"][1:]}, "^b: a int8 message is malformed: it begins with 5, expected 2"),
        ({"d": b""}, "^d is no tensor of the model"),
    ):
        with pytest.raises(ConfigError, match=message):
            codec.decode(messages | change, SHAPES)
    with pytest.raises(ConfigError, match=r"^c is missing"):
        codec.decode({name: messages[name] for name in ("w", "b", "v")}, SHAPES)
    feedback = ErrorFeedback(codec)
    feedback.encode(update(0))
    before = feedback.residual
    with pytest.raises(ConfigError, match=r"^b has shape \(31,\), but its residual \(32,\)"):
        feedback.encode(update(0) | {"b": np.zeros(31)})
    assert feedback.residual is before
