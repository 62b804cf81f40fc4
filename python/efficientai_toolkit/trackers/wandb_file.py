"""Offline files of Weights & Biases: the log format of LevelDB around protobuf records.

Seven bytes ``:W&B``, a magic number and a version; then blocks of 32 KiB with chunks: a checksum (4 bytes),
a length (2), a type (1: whole, 2: first, 3: middle, 4: last) and a part of a record.
"""

import struct
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

_BLOCK = 32 << 10
_IDENTIFIER = b":W&B"
_FILE_HEADER = 7
_CHUNK = struct.Struct("<IHB")
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_MAX_RECORD = 64 << 20


def read_records(path: Path) -> Iterator[bytes]:
    """Iterate over the records of a file, as far as they are whole."""
    record = b""
    with path.open("rb") as file:
        block = file.read(_BLOCK)
        if not block.startswith(_IDENTIFIER):
            return
        place = _FILE_HEADER
        while block:
            while place + _CHUNK.size <= len(block):
                _, length, kind = _CHUNK.unpack_from(block, place)
                place += _CHUNK.size
                part = block[place : place + length]
                place += length
                if kind not in {_WHOLE, _FIRST, _MIDDLE, _LAST} or len(part) < length:
                    break
                record = part if kind in {_WHOLE, _FIRST} else record + part
                if len(record) > _MAX_RECORD:
                    return
                if kind in {_WHOLE, _LAST}:
                    yield record
            block, place = file.read(_BLOCK), 0


def read_last_step(path: Path) -> int:
    """Return the last step of the history in a file; -1 if there is none."""
    messages: Any = import_module("wandb.proto.wandb_internal_pb2")
    decode_error: Any = import_module("google.protobuf.message").DecodeError
    last = -1
    for data in read_records(path):
        record = messages.Record()
        try:
            record.ParseFromString(data)
        except decode_error:
            # The end of a file whose process was killed.
            break
        if record.HasField("history"):
            last = max(last, record.history.step.num)
    return last
