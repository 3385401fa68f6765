"""A frame as files: the steered picture with its record inside, and the record alone."""

from __future__ import annotations

import io
import json

from backend.wire.canvas import FrameHeader
from backend.wire.frame import unpack


def picture(data: bytes, header: FrameHeader) -> io.BytesIO:
    """The manifold's picture (else the first) as PNG; its text chunk ``manifold-atlas`` holds the record to replay."""
    from PIL import Image, PngImagePlugin

    arm = next((a for a in header.arms if a.arm == "manifold"), header.arms[0])
    body = unpack(data)[1]
    info = PngImagePlugin.PngInfo()
    info.add_text("manifold-atlas", json.dumps(header.record))
    out = io.BytesIO()
    Image.open(io.BytesIO(bytes(body[arm.offset : arm.offset + arm.length]))).save(out, "PNG", pnginfo=info)
    out.seek(0)
    return out


def record(header: FrameHeader | None) -> io.StringIO:
    """What ``manifold-atlas replay`` reads."""
    return io.StringIO(json.dumps(header.record if header else {}, indent=1))
