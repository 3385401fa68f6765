"""The binary container of a frame: ``b"ATF1"``, header length (uint32, little endian), JSON header, then the bytes.

Standard library only, so that the app and any script can read it.
"""

from __future__ import annotations

import json
import struct

MAGIC = b"ATF1"
MEDIA_TYPE = "application/x-atlas-frame"


def pack(header: dict, blobs: list[bytes]) -> bytes:
    """Join a JSON header and binary parts; the caller has put each part's offset and length into the header."""
    head = json.dumps(header, separators=(",", ":")).encode()
    return b"".join([MAGIC, struct.pack("<I", len(head)), head, *blobs])


def unpack(data: bytes) -> tuple[dict, memoryview]:
    """Return the header and the body; raises ``ValueError`` where the bytes are not a frame."""
    if len(data) < 8 or data[:4] != MAGIC:
        raise ValueError("These bytes were to be read as a frame. They do not start with ATF1. Ask the server again.")
    (length,) = struct.unpack("<I", data[4:8])
    if len(data) < 8 + length:
        raise ValueError("A frame was cut short: its header is longer than what arrived. Ask the server again.")
    return json.loads(data[8 : 8 + length]), memoryview(data)[8 + length :]
