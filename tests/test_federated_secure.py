"""Secure aggregation: sums exact to the last bit with clients that drop out, and what must not be told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.federated.secure import FixedPoint, PublicKeys, SecureClient, combine, split, unmask

Words = np.ndarray[Any, np.dtype[np.uint64]]


def test_fixed_point_sums_are_exact() -> None:
    points = FixedPoint(bound=2.0, fraction_bits=20, clients=100)
    rng = np.random.default_rng(0)
    values = np.clip(rng.standard_normal((100, 500)), -2, 2)
    words = [points.encode(row) for row in values]
    units = np.rint(values * 2**20)
    assert np.array_equal(points.decode(np.sum(words, axis=0, dtype=np.uint64)), units.sum(0) / 2**20)
    assert np.array_equal(points.decode(points.encode(np.array([5, -5], np.float32))), [2, -2])


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="a number is not finite"):
        FixedPoint(bound=1, clients=2).encode(np.array([np.nan], np.float32))
    for options, message in (
        ({"bound": 0, "clients": 1}, "bound is 0, expected a positive number"),
        ({"bound": 1, "clients": 0}, "expected 0 to 52 and at least 1"),
        (
            {"bound": 1, "clients": 2**20, "fraction_bits": 44},
            "sums of 1048576 numbers up to 1 .* do not fit",
        ),
        ({"bound": 2**40, "clients": 1}, "do not fit"),
    ):
        with pytest.raises(ConfigError, match=message):
            FixedPoint(**options)


class TestMasks:
    """Needs cryptography and pycryptodome, of the extra ``federated``."""

    @pytest.fixture(autouse=True)
    def library(self) -> None:
        pytest.importorskip("cryptography")
        pytest.importorskip("Crypto.Protocol.SecretSharing")

    def start(self, count: int, threshold: int) -> tuple[list[SecureClient], dict[int, PublicKeys]]:
        clients = [SecureClient(index, threshold, "round 1") for index in range(count)]
        keys = {client.index: client.public_keys for client in clients}
        sealed = {client.index: client.share(keys) for client in clients}
        for client in clients:
            client.receive({peer: sealed[peer][client.index] for peer in keys if peer != client.index})
        return clients, keys

    def finish(
        self,
        clients: list[SecureClient],
        keys: dict[int, PublicKeys],
        masked: dict[int, Words],
        alive: list[int],
    ) -> Words:
        wanted: Any = {index: "own" if index in masked else "key" for index in keys}
        shares = [clients[index].reveal(wanted) for index in alive]
        threshold = clients[0]._threshold
        return unmask(masked, keys, shares, holders=alive, threshold=threshold, round_id="round 1")

    @pytest.mark.parametrize(
        ("sent", "alive"), [(range(6), range(6)), ((0, 2, 3, 5), (0, 2, 3, 5)), (range(5), (1, 2, 3, 4))]
    )
    def test_masks_cancel_exactly(self, sent: Any, alive: Any) -> None:
        points = FixedPoint(bound=8.0, clients=6)
        rng = np.random.default_rng(0)
        words = [points.encode(rng.standard_normal(1000)) for _ in range(6)]
        clients, keys = self.start(6, 4)
        masked = {index: clients[index].mask(words[index]) for index in sent}
        total = self.finish(clients, keys, masked, list(alive))
        assert np.array_equal(total, np.sum([words[index] for index in sent], axis=0, dtype=np.uint64))

    def test_a_masked_update_looks_random(self) -> None:
        clients, _ = self.start(3, 2)
        masked = clients[1].mask(np.zeros(1 << 16, np.uint64))
        counts = np.bincount(masked.view(np.uint8), minlength=256)
        expected = counts.sum() / 256
        # Chi-squared with 255 degrees of freedom has mean 255 and deviation 22.6.
        assert abs(((counts - expected) ** 2 / expected).sum() - 255) < 5 * 22.6
        assert len({client.mask(np.zeros(4, np.uint64)).tobytes() for client in clients}) == 3

    def test_too_few_learn_nothing(self) -> None:
        clients, keys = self.start(5, 3)
        masked = {index: clients[index].mask(np.ones(10, np.uint64)) for index in (0, 1)}
        with pytest.raises(ConfigError, match="fewer than 3 clients sent an update, whose sum stays secret"):
            clients[0].reveal({0: "own", 1: "own", 2: "key", 3: "key", 4: "key"})
        with pytest.raises(ConfigError, match="2 updates came, fewer than 3"):
            unmask(masked, keys, [], holders=[], threshold=3, round_id="round 1")
        masked |= {index: clients[index].mask(np.ones(10, np.uint64)) for index in (2, 3, 4)}
        with pytest.raises(ConfigError, match="client 0: 2 shares are too few, 3 recover the secret"):
            self.finish(clients, keys, masked, [0, 1])
        with pytest.raises(ConfigError, match="shares are revealed once per round"):
            clients[0].reveal(dict.fromkeys(range(5), "own"))

    def test_damage_and_foreign_messages_are_refused(self) -> None:
        clients = [SecureClient(index, 2, "round 1") for index in range(3)]
        keys = {client.index: client.public_keys for client in clients}
        sealed = {client.index: client.share(keys) for client in clients}
        good = sealed[1][0]
        for bad in (good[:-1], good[:-1] + bytes([good[-1] ^ 1]), b"", sealed[1][2], sealed[2][0]):
            with pytest.raises(
                ConfigError, match="a share was damaged on the way, or is of another client or round"
            ):
                clients[0].receive({1: bad})
        with pytest.raises(ConfigError, match="client 7 is none of this round"):
            clients[0].receive({7: good})
        with pytest.raises(ConfigError, match="masked only after enough peers"):
            clients[0].mask(np.zeros(1, np.uint64))
        for peers, message in (
            ({0: keys[0], 2: keys[2]}, "clients of a round have the indices 0 to 1"),
            (keys | {0: keys[1]}, "another one of this client, or one key twice"),
            (keys | {2: keys[1]}, "another one of this client, or one key twice"),
        ):
            with pytest.raises(ConfigError, match=message):
                SecureClient.share(clients[0], peers)
        loose = SecureClient(0, 1, "round 1")
        with pytest.raises(ConfigError, match="threshold is 1, expected more than half of 3"):
            loose.share(keys | {0: loose.public_keys})

    def test_a_wrong_share_of_a_key_is_noticed(self) -> None:
        clients, keys = self.start(4, 3)
        masked = {index: clients[index].mask(np.ones(8, np.uint64)) for index in (0, 1, 2)}
        wanted: Any = {0: "own", 1: "own", 2: "own", 3: "key"}
        shares = [clients[index].reveal(wanted) for index in (0, 1, 2)]
        shares[0][3] = bytes(32)
        with pytest.raises(ConfigError, match="the key of client 3 could not be recovered: a share is wrong"):
            unmask(masked, keys, shares, holders=[0, 1, 2], threshold=3, round_id="round 1")

    def test_any_threshold_of_shares_recovers_a_secret(self) -> None:
        secret = bytes(range(32))
        shares = split(secret, 3, 5)
        for chosen in ((0, 1, 2), (4, 2, 0), (1, 3, 4), (0, 1, 2, 3, 4)):
            assert combine({index: shares[index] for index in chosen}, 3) == secret
        with pytest.raises(ConfigError, match="2 shares are too few"):
            combine({0: shares[0], 1: shares[1]}, 3)
        with pytest.raises(ConfigError, match=r"shares are of \[31, 32\] bytes"):
            combine({0: shares[0], 1: shares[1], 2: shares[2][:-1]}, 3)
