"""Masks that two clients agree on, and shares from which others recover them."""

import secrets
from typing import Any

import numpy as np

from efficientai_toolkit._base.extras import require
from efficientai_toolkit.exceptions import ConfigError
from efficientai_toolkit.federated.secure.fixed_point import Words

SEED_BYTES = 32
"""Length of a seed and of a private key."""

_BLOCK = 16
"""Bytes that are shared at once: GF(2¹²⁸)."""

_PURPOSE = "secure aggregation"


def _cryptography(module: str) -> Any:
    return require(f"cryptography.hazmat.primitives.{module}", extra="federated", purpose=_PURPOSE)


def expand(seed: bytes, count: int) -> Words:
    """Return ``count`` words of the ChaCha20 key stream of ``seed``, uniform to who does not know it."""
    ciphers = _cryptography("ciphers")
    cipher = ciphers.Cipher(ciphers.algorithms.ChaCha20(seed, bytes(16)), mode=None)
    stream = cipher.encryptor().update(bytes(8 * count))
    return np.frombuffer(stream, dtype="<u8").astype(np.uint64)


def create_private_key() -> bytes:
    """Return a private key of X25519."""
    return secrets.token_bytes(SEED_BYTES)


def public_key(private_key: bytes) -> bytes:
    """Return the public key to a private one."""
    key = _cryptography("asymmetric.x25519").X25519PrivateKey.from_private_bytes(private_key)
    return bytes(key.public_key().public_bytes_raw())


def agree(private_key: bytes, peer: bytes, context: bytes) -> bytes:
    """Return the seed that only the owners of both keys know, another one for every ``context``.

    Raises
    ------
    ConfigError
        If the peer's key is none.
    """
    x25519, hkdf = _cryptography("asymmetric.x25519"), _cryptography("kdf.hkdf")
    own = x25519.X25519PrivateKey.from_private_bytes(private_key)
    try:
        shared = own.exchange(x25519.X25519PublicKey.from_public_bytes(peer))
    except ValueError as error:
        message = f"the public key of a client is none ({error})"
        raise ConfigError(message) from error
    sha256 = _cryptography("hashes").SHA256()
    return bytes(hkdf.HKDF(algorithm=sha256, length=SEED_BYTES, salt=None, info=context).derive(shared))


def split(secret: bytes, threshold: int, count: int) -> list[bytes]:
    """Split a secret into shares, ``threshold`` of which recover it and fewer tell nothing.

    Shamir's scheme over GF(2¹²⁸). Share ``i`` is that of the client with index ``i``.
    """
    _check_threshold(threshold, count)
    shamir = require("Crypto.Protocol.SecretSharing", extra="federated", purpose=_PURPOSE).Shamir
    if len(secret) % _BLOCK:
        message = f"a secret has {len(secret)} bytes, expected a multiple of {_BLOCK}"
        raise ConfigError(message)
    blocks = [
        dict(shamir.split(threshold, count, secret[start : start + _BLOCK]))
        for start in range(0, len(secret), _BLOCK)
    ]
    return [b"".join(block[index + 1] for block in blocks) for index in range(count)]


def combine(shares: dict[int, bytes], threshold: int) -> bytes:
    """Recover a secret from shares by index.

    Raises
    ------
    ConfigError
        If there are fewer than ``threshold``, or they are not of one secret.
    """
    if len(shares) < threshold:
        message = f"{len(shares)} shares are too few, {threshold} recover the secret"
        raise ConfigError(message)
    lengths = {len(share) for share in shares.values()}
    if len(lengths) != 1 or (length := lengths.pop()) == 0 or length % _BLOCK:
        message = f"shares are of {sorted(lengths)} bytes, expected one multiple of {_BLOCK}"
        raise ConfigError(message)
    shamir = require("Crypto.Protocol.SecretSharing", extra="federated", purpose=_PURPOSE).Shamir
    chosen = sorted(shares.items())[:threshold]
    return b"".join(
        bytes(shamir.combine([(index + 1, share[start : start + _BLOCK]) for index, share in chosen]))
        for start in range(0, length, _BLOCK)
    )


def _check_threshold(threshold: int, count: int) -> None:
    # With half or fewer, a server could show two groups different lists, and learn both secrets.
    if not count / 2 < threshold <= count:
        message = f"threshold is {threshold}, expected more than half of {count} clients and at most all"
        raise ConfigError(message)


def seal(key: bytes, message: bytes, context: bytes) -> bytes:
    """Encrypt a message to a client, which the server carries."""
    cipher = _cryptography("ciphers.aead").ChaCha20Poly1305(key)
    nonce = secrets.token_bytes(12)
    return nonce + bytes(cipher.encrypt(nonce, message, context))


def unseal(key: bytes, message: bytes, context: bytes) -> bytes:
    """Decrypt what :func:`seal` made.

    Raises
    ------
    ConfigError
        If it was made with another key or context, or changed on the way.
    """
    invalid = require("cryptography.exceptions", extra="federated", purpose=_PURPOSE).InvalidTag
    cipher = _cryptography("ciphers.aead").ChaCha20Poly1305(key)
    try:
        return bytes(cipher.decrypt(message[:12], message[12:], context))
    except (invalid, ValueError) as error:
        text = "a share was damaged on the way, or is of another client or round"
        raise ConfigError(text) from error
