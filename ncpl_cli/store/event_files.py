"""Runs as TensorBoard's event files, written without it: a folder a run, a scalar an address, steps are epochs.

    record = length (8 bytes) | masked CRC-32C of it | Event | masked CRC-32C of that
    Event  = 1 wall time, 2 step, 3 version of the file, 5 Summary: values of 1 tag, 8 tensor, 9 plugin "scalars"

Values are doubles: what `ncpl import --from tensorboard` reads back is what was stored.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from functools import cache


@cache
def _table() -> tuple[int, ...]:
    """CRC-32C (Castagnoli) of every byte."""
    found = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        found.append(crc)
    return tuple(found)


def crc32c(data: bytes) -> int:
    """The checksum of RFC 3720."""
    crc, table = 0xFFFFFFFF, _table()
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _record(event: bytes) -> bytes:
    length = struct.pack("<Q", len(event))
    return length + _masked(length) + event + _masked(event)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


_SCALARS = _bytes(9, _bytes(1, _bytes(1, b"scalars")))


def _value(tag: str, value: float) -> bytes:
    tensor = b"\x08\x02" + _bytes(2, b"") + _bytes(6, struct.pack("<d", value))  # DT_DOUBLE, no dimensions, one double
    return _bytes(1, _bytes(1, tag.encode()) + _bytes(8, tensor) + _SCALARS)


def events(steps: Iterable[tuple[int, Mapping[str, float]]], wall_time: float) -> bytes:
    """An event file: values by tag of every step, in order."""
    clock = b"\x09" + struct.pack("<d", wall_time)
    parts = [_record(clock + _bytes(3, b"brain.Event:2"))]
    for step, values in steps:
        summary = b"".join(_value(tag, value) for tag, value in values.items())
        parts.append(_record(clock + b"\x10" + _varint(step) + _bytes(5, summary)))
    return b"".join(parts)
