"""Which device and which number format a computation runs in."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import torch


def pick_device() -> torch.device:
    """The GPU where there is one, else the CPU (``ATLAS_DEVICE`` overrides)."""
    name = os.environ.get("ATLAS_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def has_fast_bf16(device: torch.device) -> bool:
    """True on a GPU and on processors with bf16 matrix units; elsewhere bf16 on a CPU is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and "amx_bf16" in cpuinfo.read_text(errors="ignore")


def autocast(device: torch.device) -> contextlib.AbstractContextManager:
    """bf16 autocast where it is faster, a null context elsewhere."""
    if has_fast_bf16(device):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
