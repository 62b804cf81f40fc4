"""Secure aggregation: the server learns the sum of updates and nothing else.

Bonawitz et al. 2017, *Practical Secure Aggregation*, https://doi.org/10.1145/3133956.3133982, for a server
that follows the protocol. Client ``u`` sends, modulo 2⁶⁴::

    x + expand(bᵤ) + Σ_{v>u} expand(sᵤᵥ) - Σ_{v<u} expand(sᵤᵥ)

The masks ``s`` of pairs cancel; of who dropped out, others return shares of its key; of who did not, shares
of ``b``. Nobody returns both, so that an update that comes late stays masked.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.federated.secure.fixed_point import Words
from efficientai_toolkit.federated.secure.masks import (
    SEED_BYTES,
    agree,
    combine,
    create_private_key,
    expand,
    public_key,
    seal,
    split,
    unseal,
)

Secret = Literal["own", "key"]
"""Which secret of a client is asked for: its own mask of one that sent, the key of one that dropped out."""


_OWN: Secret = "own"


@dataclass(frozen=True, slots=True)
class PublicKeys:
    """Public keys of a client in one round."""

    masks: bytes
    """For the masks of pairs."""
    shares: bytes
    """For the encryption of shares."""


class SecureClient:
    """A client of one round.

    The order of calls is :meth:`share`, :meth:`receive`, :meth:`mask`, :meth:`reveal`.

    Parameters
    ----------
    index
        Index among the clients of the round.
    threshold
        Number of clients that recover what drops out; more than half.
    round_id
        Name of the round, which keeps messages of another one out.
    """

    def __init__(self, index: int, threshold: int, round_id: str) -> None:
        self.index = index
        self._threshold = threshold
        self._round = round_id.encode()
        self._mask_key, self._share_key = create_private_key(), create_private_key()
        self._own = create_private_key()
        self._peers: dict[int, PublicKeys] = {}
        self._held: dict[int, bytes] = {}
        self._revealed = False

    @property
    def public_keys(self) -> PublicKeys:
        """Keys that the server hands to all."""
        return PublicKeys(public_key(self._mask_key), public_key(self._share_key))

    def share(self, peers: Mapping[int, PublicKeys]) -> dict[int, bytes]:
        """Return encrypted shares of both secrets for every peer.

        Parameters
        ----------
        peers
            Keys of all clients of the round by index, this one among them; indices are 0 to n - 1.

        Raises
        ------
        ConfigError
            If indices are not those of a round, two clients have one key, or the threshold does not fit.
        """
        count = len(peers)
        if sorted(peers) != list(range(count)) or self.index not in peers:
            message = f"clients of a round have the indices 0 to {count - 1}, not {sorted(peers)}"
            raise ConfigError(message)
        if peers[self.index] != self.public_keys or len({keys.masks for keys in peers.values()}) != count:
            message = "the list of keys has another one of this client, or one key twice"
            raise ConfigError(message)
        self._peers = dict(peers)
        own = split(self._own, self._threshold, count)
        key = split(self._mask_key, self._threshold, count)
        self._held[self.index] = own[self.index] + key[self.index]
        return {
            peer: seal(self._channel(peer), own[peer] + key[peer], self._context(self.index, peer))
            for peer in peers
            if peer != self.index
        }

    def receive(self, shares: Mapping[int, bytes]) -> None:
        """Take the shares of the peers, by their index.

        Raises
        ------
        ConfigError
            If too few came, or one is damaged or of another round.
        """
        for peer, message in shares.items():
            self._check_peer(peer)
            if peer == self.index:
                text = "a client does not send itself shares"
                raise ConfigError(text)
            held = unseal(self._channel(peer), message, self._context(peer, self.index))
            if len(held) != 2 * SEED_BYTES:
                text = f"the shares of client {peer} have {len(held)} bytes, expected {2 * SEED_BYTES}"
                raise ConfigError(text)
            self._held[peer] = held
        if len(self._held) < self._threshold:
            message_ = f"{len(self._held)} clients sent shares, fewer than {self._threshold}"
            raise ConfigError(message_)

    def mask(self, words: Words) -> Words:
        """Return the update with all masks.

        Raises
        ------
        ConfigError
            If the shares of peers did not come yet.
        """
        if len(self._held) < self._threshold:
            message = "an update is masked only after enough peers sent their shares"
            raise ConfigError(message)
        total = words + expand(self._own, words.size)
        for peer in self._held:
            if peer != self.index:
                total = _add(total, self._pair(peer, words.size), negative=peer < self.index)
        return total

    def reveal(self, wanted: Mapping[int, Secret]) -> dict[int, bytes]:
        """Return shares of one secret of every client.

        Parameters
        ----------
        wanted
            By index, ``"own"`` of who sent an update and ``"key"`` of who did not.

        Raises
        ------
        ConfigError
            If too few sent, or the server asks twice: it could ask for the other secret then.
        """
        if self._revealed:
            message = "shares are revealed once per round; both secrets of a client would unmask its update"
            raise ConfigError(message)
        if sum(secret == _OWN for secret in wanted.values()) < self._threshold:
            message = f"fewer than {self._threshold} clients sent an update, whose sum stays secret"
            raise ConfigError(message)
        if any(secret not in ("own", "key") for secret in wanted.values()):
            message = "a secret is 'own' or 'key'"
            raise ConfigError(message)
        self._revealed = True
        return {
            peer: self._held[peer][:SEED_BYTES] if secret == _OWN else self._held[peer][SEED_BYTES:]
            for peer, secret in wanted.items()
            if peer in self._held
        }

    def _check_peer(self, peer: int) -> None:
        if peer not in self._peers:
            message = f"client {peer} is none of this round"
            raise ConfigError(message)

    def _channel(self, peer: int) -> bytes:
        return agree(self._share_key, self._peers[peer].shares, b"shares" + self._round)

    def _context(self, sender: int, receiver: int) -> bytes:
        return b"%d to %d in " % (sender, receiver) + self._round

    def _pair(self, peer: int, size: int) -> Words:
        return expand(agree(self._mask_key, self._peers[peer].masks, b"masks" + self._round), size)


def unmask(
    masked: Mapping[int, Words],
    keys: Mapping[int, PublicKeys],
    shares: Iterable[Mapping[int, bytes]],
    *,
    holders: Iterable[int],
    threshold: int,
    round_id: str,
) -> Words:
    """Return the sum of the updates that came.

    Parameters
    ----------
    masked
        Masked updates by index of the client.
    keys
        Public keys of all clients that shared their secrets, by index.
    shares
        What each of ``holders`` revealed: the secret ``"own"`` of who sent, ``"key"`` of who did not.
    holders
        Indices of the clients that the shares are of.
    threshold, round_id
        As for the clients.

    Returns
    -------
    Words
        The sum modulo 2⁶⁴, exact.

    Raises
    ------
    ConfigError
        If too few updates or shares came, or a key that was recovered is not that of its client.
    """
    if len(masked) < threshold:
        message = f"{len(masked)} updates came, fewer than {threshold}: their sum stays secret"
        raise ConfigError(message)
    sizes = {words.shape for words in masked.values()}
    if len(sizes) != 1 or not set(masked) <= set(keys):
        message = "masked updates have different sizes, or come from clients outside the round"
        raise ConfigError(message)
    recovered = _recover(keys, dict(zip(holders, shares, strict=True)), threshold)
    total = np.zeros(sizes.pop(), dtype=np.uint64)
    for words in masked.values():
        total = total + words
    for client, secret in recovered.items():
        if client in masked:
            total = total - expand(secret, total.size)
            continue
        if public_key(secret) != keys[client].masks:
            message = f"the key of client {client} could not be recovered: a share is wrong"
            raise ConfigError(message)
        for peer in masked:
            pair = expand(agree(secret, keys[peer].masks, b"masks" + round_id.encode()), total.size)
            # Each of them added the mask for a higher index and subtracted it for a lower one.
            total = _add(total, pair, negative=client > peer)
    return total


def _recover(
    keys: Mapping[int, PublicKeys], shares: Mapping[int, Mapping[int, bytes]], threshold: int
) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for client in keys:
        held = {holder: revealed[client] for holder, revealed in shares.items() if client in revealed}
        try:
            found[client] = combine(held, threshold)
        except ConfigError as error:
            message = f"client {client}: {error}"
            raise ConfigError(message) from error
    return found


def _add(total: Words, mask: Words, *, negative: bool) -> Words:
    return total - mask if negative else total + mask
