"""GGUF files with faults where they hurt: in what the header claims."""

from __future__ import annotations

import random
import struct
from functools import cache

SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value by the id of its type."""

STRING, ARRAY = 8, 9

EXTREMES = [0, 1, 2, 7, 31, 33, 64, 255, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1]
WIDE = [*EXTREMES, 2**32, 2**33 + 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1]


class Header:
    """Reads a whole header and keeps the place and size of every number in it."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 4
        self.fields: list[tuple[int, int]] = []
        self.number(4)
        tensors, values = self.number(8), self.number(8)
        for _ in range(values):
            self.text()
            self.value(self.number(4))
        for _ in range(tensors):
            self.text()
            for size in [8] * self.number(4) + [4, 8]:
                self.number(size)

    def number(self, size: int) -> int:
        self.fields.append((self.at, size))
        self.at += size
        return int.from_bytes(self.content[self.at - size : self.at], "little")

    def text(self) -> None:
        length = self.number(8)
        self.at += length

    def value(self, kind: int) -> None:
        if kind == STRING:
            self.text()
        elif kind == ARRAY:
            inner, length = self.number(4), self.number(8)
            for index in range(length):
                # The first elements stand for all.
                before = len(self.fields)
                self.value(inner)
                if index > 3:
                    del self.fields[before:]
        else:
            self.number(SCALARS[kind])


@cache
def fields(content: bytes) -> list[tuple[int, int]]:
    """Place and size of every count, length, type, size and offset of a header, and of every value."""
    return Header(content).fields


def damaged_gguf(draw: random.Random, content: bytes) -> bytes:
    """A copy with one or a few faults."""
    return draw.choice([claims, claims, claims, flips, cut, nested, moved, swapped])(draw, content)


def claims(draw: random.Random, content: bytes) -> bytes:
    """Another number in one or a few places of the header."""
    changed = bytearray(content)
    places = fields(content)
    for _ in range(draw.choice([1, 1, 2, 5])):
        at, size = draw.choice(places)
        options = WIDE if size == 8 else EXTREMES
        value = draw.choice([*options, draw.getrandbits(8 * size)])
        changed[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, "little")
    return bytes(changed)


def flips(draw: random.Random, content: bytes) -> bytes:
    """Some other bits, half of them in the header."""
    changed = bytearray(content)
    header = fields(content)[-1][0]
    for _ in range(draw.choice([1, 2, 16])):
        at = draw.randrange(header if draw.random() < 0.7 else len(changed))
        changed[at] ^= 1 << draw.randrange(8)
    return bytes(changed)


def cut(draw: random.Random, content: bytes) -> bytes:
    """Only the beginning, or more after the end."""
    if draw.random() < 0.2:
        return content + draw.randbytes(draw.choice([1, 100, 70_000]))
    return content[: draw.randrange(len(content))]


def nested(draw: random.Random, content: bytes) -> bytes:
    """A value that is a list of lists of lists."""
    depth = draw.choice([1, 2, 50, 20_000])
    key = b"general.deep"
    deep = struct.pack("<Q", len(key)) + key + struct.pack("<I", ARRAY)
    deep += struct.pack("<IQ", ARRAY, draw.choice([1, 3, 2**60])) * depth + struct.pack("<IQ", 4, 0)
    values = int.from_bytes(content[16:24], "little")
    return content[:16] + (values + 1).to_bytes(8, "little") + deep + content[24:]


def moved(draw: random.Random, content: bytes) -> bytes:
    """Offsets of tensors that lie in others, or beyond."""
    changed = bytearray(content)
    tensors = int.from_bytes(content[8:16], "little")
    offsets = [place for place in fields(content) if place[1] == 8][-4 * tensors :]
    for _ in range(draw.choice([1, 3])):
        at, _size = draw.choice(offsets)
        value = draw.choice([0, 32, 31, len(content), 2**64 - 32, draw.randrange(len(content) // 32) * 32])
        changed[at : at + 8] = value.to_bytes(8, "little")
    return bytes(changed)


def swapped(draw: random.Random, content: bytes) -> bytes:
    """Two parts of the header in each other's place."""
    places = fields(content)
    (first, _), (second, _) = sorted(draw.sample(places, 2))
    size = draw.choice([4, 8, 16, 64])
    changed = bytearray(content)
    changed[first : first + size], changed[second : second + size] = (
        content[second : second + size],
        content[first : first + size],
    )
    return bytes(changed[: len(content)])
