"""TensorBoard event files, written without the tensorboard package.

A file is a chain of TFRecords: length (uint64), masked CRC-32C of the length,
the payload and its masked CRC-32C, all little endian. Each payload is an
``Event`` message of tensorflow/core/util/event.proto in protobuf's wire format.
Only what a scalar needs is written.
"""

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

_POLYNOMIAL = 0x82F63B78  # CRC-32C (Castagnoli), reflected
_MASK_DELTA = 0xA282EAD8
_WORD = 0xFFFFFFFF
_START = 1  # SessionLog.START: what lies at this step or later in older files is void


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of some bytes (RFC 3720, appendix B.4)."""
    value = _WORD
    for byte in data:
        value = (value >> 8) ^ _TABLE[(value ^ byte) & 0xFF]
    return value ^ _WORD


def _masked(data: bytes) -> bytes:
    crc = crc32c(data)
    rotated = ((crc >> 15) | (crc << 17)) & _WORD
    return struct.pack("<I", (rotated + _MASK_DELTA) & _WORD)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _message(field: int, payload: bytes) -> bytes:
    """Return a length-delimited field: a text or a message within a message."""
    return _varint(field << 3 | 2) + _varint(len(payload)) + payload


def _event(step: int, content: bytes) -> bytes:
    # wall_time = 1 (double), step = 2 (int64)
    return b"\x09" + struct.pack("<d", time.time()) + b"\x10" + _varint(step) + content


def _scalar(tag: str, value: float) -> bytes:
    # Event.summary = 5, Summary.value = 1, Value.tag = 1, Value.simple_value = 2 (float)
    return _message(1, _message(1, tag.encode()) + b"\x15" + struct.pack("<f", value))


class EventWriter:
    """Appends scalars to an event file of its own in a folder."""

    def __init__(self, folder: Path, first_step: int) -> None:
        """Open the file; values of older files in the folder from ``first_step`` on are void."""
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._stream = (folder / name).open("wb")
        self._record(_event(0, _message(3, b"brain.Event:2")))  # file_version = 3
        self._record(_event(first_step, _message(7, b"\x08" + _varint(_START))))  # session_log = 7

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one value a tag and flush, so that a running job can be watched."""
        summary = b"".join(_scalar(tag, float(value)) for tag, value in values.items())
        self._record(_event(step, _message(5, summary)))
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _record(self, payload: bytes) -> None:
        length = struct.pack("<Q", len(payload))
        self._stream.write(length + _masked(length) + payload + _masked(payload))
