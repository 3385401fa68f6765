"""What ``calendar-llama`` answers and where its classes lie, measured over every question; and its gate.

Accuracy and calibration (mean total variation to the known distribution) are over all questions of a task; beside them
stand the pairs held out of the first part of training, wordings that were never trained, and whether the class
centroids of the cyclic tasks lie on a ring in their natural order. Untrained copies are the control of the rings.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from backend.recipes import gates, loop
from backend.worlds.calendar import TASKS
from backend.worlds.calendar_task import Prompt, Task

GATE_ACCURACY = 0.98
GATE_CALIBRATION = 0.05


def held_out(seed: int, part: float = 0.1) -> dict[str, frozenset[tuple[str, int]]]:
    """For each task the (entity, increment) pairs kept out of the first part of training."""
    kept = {}
    for i, (name, task) in enumerate(TASKS.items()):
        pairs = [(entity, increment) for entity, increment, _ in task.pairs()]
        order = torch.randperm(len(pairs), generator=loop.rng(seed + 101, i)).tolist()
        kept[name] = frozenset(pairs[j] for j in order[: math.ceil(part * len(pairs))])
    return kept


@torch.no_grad()
def answers(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt], task: Task
) -> tuple[torch.Tensor, torch.Tensor]:
    """Class probabilities ``(N, W + 1)``, the last bin off the classes, and residuals by layer ``(L, N, d)``."""
    ids = task.answer_ids(tokenizer)
    probabilities, residuals, found = [], [], []

    def keep(_module, _inputs, out) -> None:
        found.append((out[0] if isinstance(out, tuple) else out).float().cpu())

    for start in range(0, len(prompts), 128):
        chunk = [prompt.text for prompt in prompts[start : start + 128]]
        batch = tokenizer(chunk, padding=True, return_tensors="pt")
        last = batch["attention_mask"].sum(1) - 1
        rows = torch.arange(len(chunk))
        found.clear()
        hooks = [layer.register_forward_hook(keep) for layer in model.model.layers]
        try:
            # Padding stands on the right and attention is causal, so no mask is needed.
            hidden = model.model(batch["input_ids"].to(model.device), use_cache=False).last_hidden_state.cpu()
        finally:
            for hook in hooks:
                hook.remove()
        p = model.lm_head(hidden[rows, last].to(model.device)).float().softmax(-1).cpu()[:, ids]
        probabilities.append(torch.cat([p, (1 - p.sum(-1, keepdim=True)).clamp_min(0)], -1))
        residuals.append(torch.stack([layer[rows, last] for layer in found]))
    return torch.cat(probabilities), torch.cat(residuals, 1)


def centroids(residuals: torch.Tensor, classes: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Mean residual of each true class, ``(W, d)``."""
    return torch.stack([residuals[classes == c].mean(0) for c in range(n_classes)])


def ring_angles(points: torch.Tensor) -> torch.Tensor:
    """Angle of each centroid in the plane of the first two principal axes, each scaled to unit spread, ``(W,)``."""
    centred = points - points.mean(0)
    plane = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:2].T
    plane = plane / plane.std(0)
    return torch.atan2(plane[:, 1], plane[:, 0])


def natural_order(angles: torch.Tensor) -> bool:
    """True where going round by angle visits the classes in their own cyclic order, in either direction."""
    order = angles.argsort()
    steps = (order.roll(-1) - order) % len(order)
    return bool((steps == 1).all() or (steps == len(order) - 1).all())


def class_share(residuals: torch.Tensor, middles: torch.Tensor, classes: torch.Tensor) -> float:
    """Part of the variance between prompts that their class centroid accounts for, in [0, 1]."""
    mean = residuals.mean(0)
    return float(((middles[classes] - mean) ** 2).sum() / ((residuals - mean) ** 2).sum())


def measure(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, seed: int = 0) -> dict:
    """Per task: accuracy, calibration (mean total variation to the truth), off-class mass, held-out values, rings."""
    kept, result = held_out(seed), {}
    for name, task in TASKS.items():
        prompts = task.prompts()
        truth = torch.tensor([prompt.answer_class for prompt in prompts])
        outside = torch.tensor([(prompt.entity, prompt.increment) in kept[name] for prompt in prompts])
        p, residuals = answers(model, tokenizer, prompts, task)
        right = p[:, :-1].argmax(-1) == truth
        # Total variation over the W classes and the bin of everything else, whose true mass is 0.
        gap = 0.5 * ((p[:, :-1] - task.distributions()[truth]).abs().sum(-1) + p[:, -1])
        entry = {
            "n_prompts": len(prompts),
            "accuracy": right.float().mean().item(),
            "calibration": gap.mean().item(),
            "off_class": p[:, -1].mean().item(),
            "held_out_pairs": {
                "n": int(outside.sum()),
                "accuracy": right[outside].float().mean().item(),
                "calibration": gap[outside].mean().item(),
            },
        }
        unseen = []
        for i, wording in enumerate(task.unseen):
            again = task.prompts(wording, generator=loop.rng(seed + 202, i))
            q, _ = answers(model, tokenizer, again, task)
            unseen.append((q[:, :-1].argmax(-1) == truth).float().mean().item())
        entry["unseen_wordings"] = unseen
        middles = [centroids(layer, truth, task.n_classes) for layer in residuals]
        entry["class_share"] = [
            class_share(layer, middle, truth) for layer, middle in zip(residuals, middles, strict=True)
        ]
        if task.cyclic:
            entry["natural_ring"] = [natural_order(ring_angles(middle)) for middle in middles]
        result[name] = entry
    return result


def untrained_rings(
    shape: LlamaConfig, tokenizer: PreTrainedTokenizerFast, *, layer: int, n_copies: int = 8
) -> dict:
    """The control: by cyclic task, how many untrained copies pass the ring test, and their largest class share."""
    result = {name: {"n": n_copies, "natural": 0, "class_share": 0.0} for name, task in TASKS.items() if task.cyclic}
    for seed in range(n_copies):
        torch.manual_seed(seed)
        copy = LlamaForCausalLM(shape).eval()
        for name, entry in result.items():
            task = TASKS[name]
            prompts = task.prompts()
            truth = torch.tensor([prompt.answer_class for prompt in prompts])
            points = answers(copy, tokenizer, prompts, task)[1][layer]
            middle = centroids(points, truth, task.n_classes)
            entry["natural"] += natural_order(ring_angles(middle))
            entry["class_share"] = max(entry["class_share"], class_share(points, middle, truth))
    return result


def gate(values: dict) -> dict:
    """Which conditions hold, and the last layer at which both rings are in natural order (``None`` if none)."""
    rings = [v["natural_ring"] for v in values.values() if "natural_ring" in v]
    both = [all(layer) for layer in zip(*rings, strict=True)]
    layer = max((i for i, good in enumerate(both) if good), default=None)
    holds = {
        "accuracy": all(v["accuracy"] >= GATE_ACCURACY for v in values.values()),
        "calibration": all(v["calibration"] <= GATE_CALIBRATION for v in values.values()),
        "ring": layer is not None,
    }
    return {**holds, "layer": layer, "passes": all(holds.values())}


def gate_lines(found: dict) -> list[dict]:
    """The gates of ``evaluate``'s result as the card shows them: the worst task stands for all."""
    tasks, verdict = found["tasks"].values(), found["gate"]
    order = {"name": "weekdays and months in natural order", "value": None, "aim": "at the site"}
    return [
        gates.at_least("lowest accuracy over tasks", min(v["accuracy"] for v in tasks), GATE_ACCURACY),
        gates.at_most("largest calibration error over tasks", max(v["calibration"] for v in tasks), GATE_CALIBRATION),
        order | {"passed": verdict["ring"]},
    ]


def report(values: dict) -> str:
    """The values of ``measure`` as one line per task."""
    lines = []
    for name, v in values.items():
        ring = "".join(".X"[good] for good in v["natural_ring"]) if "natural_ring" in v else "-"
        unseen = " ".join(f"{a:.3f}" for a in v["unseen_wordings"])
        lines.append(
            f"{name:9s} n {v['n_prompts']:4d}  accuracy {v['accuracy']:.4f}  calibration {v['calibration']:.4f}  "
            f"off-class {v['off_class']:.4f}  held-out pairs {v['held_out_pairs']['accuracy']:.3f} "
            f"(n {v['held_out_pairs']['n']})  unseen wordings {unseen}  ring by layer {ring}"
        )
    return "\n".join(lines)


def evaluate(folder: Path, *, seed: int = 0) -> dict:
    """Load a saved model, print every gate value per task and per layer, and return them with the gate."""
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    values = measure(model, AutoTokenizer.from_pretrained(folder), seed=seed)
    print(report(values))
    verdict = gate(values)
    print("gate", verdict)
    return {"tasks": values, "gate": verdict}
