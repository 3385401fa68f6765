"""The resumable training loop that every recipe uses.

A recipe gives modules, an optimizer and a ``step(i) -> dict[str, float]`` function; the loop calls it, draws a
progress bar, writes a log line every ``log_every`` steps and a checkpoint every ``save_every`` seconds, and on
start goes on from the checkpoint it finds. Checkpoints are safetensors plus JSON: no pickle.

A recipe must draw its randomness from ``rng(seed, i)``, a function of the step alone, so that a run which was
killed and resumed sees the same numbers as one left alone.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from backend.core.settings import atlas_home


def rng(seed: int, step: int) -> torch.Generator:
    """A CPU generator that depends on ``(seed, step)`` alone."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step * 7_919 + 17) % 2**63)


def cosine(step: int, steps: int, *, peak: float, warmup: int = 100, floor: float = 0.02) -> float:
    """Learning rate at ``step``: linear warm-up to ``peak``, cosine down to ``floor * peak``."""
    if step < warmup:
        return peak * (step + 1) / warmup
    part = (step - warmup) / max(1, steps - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + float(torch.cos(torch.tensor(part * torch.pi)))))


def work_dir(name: str) -> Path:
    """Checkpoints and logs of one recipe, ``ATLAS_HOME/training/NAME``."""
    folder = atlas_home() / "training" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run(
    name: str,
    steps: int,
    *,
    modules: Mapping[str, torch.nn.Module],
    optimizer: torch.optim.Optimizer,
    step: Callable[[int], Mapping[str, float]],
    save_every: float = 60.0,
    log_every: int = 25,
) -> float:
    """Run ``step(i)`` for i from the last checkpoint to ``steps``; return the seconds spent in all, resumes added.

    ``modules`` are saved and restored by name (an EMA copy is just another module). Optimizer state is restored
    for parameters in the order of ``optimizer.param_groups``.
    """
    folder = work_dir(name)
    start, spent = _restore(folder, modules, optimizer)
    began, saved = time.time() - spent, time.time()
    log = (folder / "log.jsonl").open("a")
    bar = tqdm(range(start, steps), initial=start, total=steps, desc=name, mininterval=5.0)
    for i in bar:
        values = {k: float(v) for k, v in step(i).items()}
        if i % log_every == 0 or i == steps - 1:
            log.write(json.dumps({"step": i, "seconds": round(time.time() - began, 1), **values}) + "\n")
            log.flush()
            bar.set_postfix({k: f"{v:.4g}" for k, v in values.items()})
        if time.time() - saved > save_every or i == steps - 1:
            _save(folder, i + 1, time.time() - began, modules, optimizer)
            saved = time.time()
    log.close()
    return time.time() - began


def finished(name: str, steps: int) -> bool:
    """True where the recipe's last checkpoint reached ``steps``."""
    state = work_dir(name) / "state.json"
    return state.exists() and json.loads(state.read_text())["step"] >= steps


def _params(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _save(folder: Path, step: int, seconds: float, modules, optimizer) -> None:
    tensors = {}
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            tensors[f"module.{name}.{key}"] = value.detach().cpu().contiguous().clone()
    for index, param in enumerate(_params(optimizer)):
        for key, value in optimizer.state.get(param, {}).items():
            tensors[f"optim.{index}.{key}"] = torch.as_tensor(value).detach().cpu().contiguous().clone()
    save_file(tensors, folder / "state.safetensors.new", metadata={"step": str(step)})
    (folder / "state.json.new").write_text(json.dumps({"step": step, "seconds": seconds}))
    os.replace(folder / "state.safetensors.new", folder / "state.safetensors")
    os.replace(folder / "state.json.new", folder / "state.json")


def _restore(folder: Path, modules, optimizer) -> tuple[int, float]:
    path = folder / "state.safetensors"
    if not path.exists():
        return 0, 0.0
    from safetensors import safe_open

    with safe_open(path, "pt") as handle:
        # The step inside the tensor file is the truth: it was written in one piece with the weights.
        step = int(handle.metadata()["step"])
    tensors = load_file(path)
    for name, module in modules.items():
        prefix = f"module.{name}."
        module.load_state_dict({k[len(prefix):]: v for k, v in tensors.items() if k.startswith(prefix)})
    for index, param in enumerate(_params(optimizer)):
        prefix = f"optim.{index}."
        state = {k[len(prefix):]: v for k, v in tensors.items() if k.startswith(prefix)}
        if state:
            optimizer.state[param] = {k: v if k == "step" else v.to(param.device) for k, v in state.items()}
    seconds = json.loads((folder / "state.json").read_text())["seconds"] if (folder / "state.json").exists() else 0.0
    return step, seconds
