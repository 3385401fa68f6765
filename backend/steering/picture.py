"""Rendered pictures and the frame that carries them: pixels, read-back, timings and the record that repeats them.

A record names the resolved request (every start and number of steps that was chosen for the user is written out), so
that asking for it again gives the same bytes on the same machine and build: ``expected`` holds a SHA-256 of each
arm's RGB pixels. Not covered: how the pixels come about (``backend.steering.image``).
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from backend.wire.canvas import ArmFrame, FrameHeader, ImageRequest, ReadBack

ENCODINGS: dict[str, dict] = {
    "png": {"format": "PNG", "compress_level": 1},
    "webp": {"format": "WEBP", "quality": 90, "method": 0},
    "jpeg": {"format": "JPEG", "quality": 92, "subsampling": 0},
}


@dataclass(frozen=True)
class Picture:
    """One row's result: ``pixels`` (H, W, 3) uint8, what the reader saw, whether it came from the cache."""

    arm: str
    pixels: np.ndarray
    read_back: ReadBack | None = None
    cached: bool = False
    t: float | None = None

    def digest(self) -> str:
        """SHA-256 of the RGB pixels."""
        return hashlib.sha256(np.ascontiguousarray(self.pixels)).hexdigest()

    def encode(self, kind: str) -> bytes:
        """The picture as ``png`` (exact), ``webp`` or ``jpeg`` bytes."""
        out = io.BytesIO()
        Image.fromarray(self.pixels).save(out, **ENCODINGS[kind])
        return out.getvalue()


@dataclass(frozen=True)
class Rendered:
    """All pictures of one request, with its resolved form and how it was made."""

    request: ImageRequest
    pictures: tuple[Picture, ...]
    made: dict = field(default_factory=dict)
    preview: bool = False

    def record(self) -> dict:
        """What ``manifold-atlas replay`` needs, as JSON; its request is an ``ImageRequest``."""
        fields = {name: getattr(self.request, name) for name in ImageRequest.model_fields if name != "steer"}
        request = {**fields, "steer": [s.model_dump() for s in self.request.steer]}
        record = {"kind": "image", "request": request, "made": self.made}
        stops = [p.t for p in self.pictures if p.t is not None]
        if stops:
            return {**record, "stops": stops, "expected": {"stops": [p.digest() for p in self.pictures]}}
        return {**record, "expected": {"sha256": {p.arm: p.digest() for p in self.pictures}}}

    def frame(self, *, seq: int = 0, timing_ms: dict[str, float] | None = None) -> tuple[FrameHeader, list[bytes]]:
        """Header and encoded pictures, in the request's format."""
        blobs, arms, offset = [], [], 0
        for picture in self.pictures:
            data = picture.encode(self.request.format)
            height, width = picture.pixels.shape[:2]
            arms.append(ArmFrame(
                arm=picture.arm, offset=offset, length=len(data), format=self.request.format, width=width,
                height=height, cached=picture.cached, read_back=picture.read_back,
            ))  # fmt: skip
            blobs.append(data)
            offset += len(data)
        request = self.request
        header = FrameHeader(
            seq=seq, model=request.model, prompt=request.prompt, seed=request.seed, steps=request.steps,
            guidance=request.guidance, steer=request.steer, arms=arms, timing_ms=dict(timing_ms or {}),
            preview=self.preview, record=self.record(),
        )  # fmt: skip
        return header, blobs
