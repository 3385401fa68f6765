"""The card of ``calendar-llama``: accuracy and calibration over every question of every task."""

from __future__ import annotations

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from backend.core.stats import mean_interval, proportion_interval
from backend.models.registry import folder_of
from backend.recipes import calendar_llama_quality as quality
from backend.recipes.calendar_llama import NAME
from backend.studies.base import Progress, StudyContext
from backend.wire.findings import Finding
from backend.worlds.calendar import TASKS

ACCURACY = "calendar-llama's most likely answer is the true one, on its worst task."
CALIBRATION = "Mean total variation between calendar-llama's answers and the true distribution, on its worst task."


@torch.no_grad()
def judged(model: LlamaForCausalLM, tokenizer) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """For each task, whether each question's answer is right, and its total variation from the truth, (N,) each."""
    found = {}
    for name, task in TASKS.items():
        prompts = task.prompts()
        truth = torch.tensor([prompt.answer_class for prompt in prompts])
        p, _ = quality.answers(model, tokenizer, prompts, task)
        gap = 0.5 * ((p[:, :-1] - task.distributions()[truth]).abs().sum(-1) + p[:, -1])
        found[name] = (p[:, :-1].argmax(-1) == truth, gap)
    return found


def calendar(ctx: StudyContext, share: Progress) -> list[Finding]:
    """Findings about ``calendar-llama``."""
    folder = folder_of(NAME)
    if folder is None:
        reason = f"{NAME} is not on disk; make it with `manifold-atlas train {NAME}`"
        claims = {"calendar-accuracy": ACCURACY, "calendar-calibration": CALIBRATION}
        return [ctx.absent(measure, claim, reason) for measure, claim in claims.items()]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    share(0.1, "calendar-llama")
    found = judged(model, tokenizer)
    share(0.6, "calendar-llama, untrained copy")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(ctx.seed + 1)
        fresh = judged(LlamaForCausalLM(model.config).eval(), tokenizer)
    accuracy = {name: float(right.float().mean()) for name, (right, _) in found.items()}
    gaps = {name: float(gap.mean()) for name, (_, gap) in found.items()}
    worst, loosest = min(accuracy, key=accuracy.get), max(gaps, key=gaps.get)
    right, gap = found[worst][0], found[loosest][1]
    n = sum(len(r) for r, _ in found.values())
    common = {"model": NAME, "data": f"all {n} questions of {len(TASKS)} tasks", "evidence": "observational"}
    return [
        ctx.finding(
            "calendar-accuracy", ACCURACY, proportion_interval(int(right.sum()), len(right)),
            aim=f">= {quality.GATE_ACCURACY}", caveat=f"Worst is {worst}; wordings are those of training.",
            controls={
                "all tasks": sum(int(r.sum()) for r, _ in found.values()) / n,
                "untrained copy": float(fresh[worst][0].float().mean()),
                "a guess": 1 / TASKS[worst].n_classes,
            },
            **common,
        ),
        ctx.finding(
            "calendar-calibration", CALIBRATION, mean_interval(gap, seed=ctx.seed),
            aim=f"<= {quality.GATE_CALIBRATION}",
            caveat=f"Worst is {loosest}. 0 is the truth, 1 is all mass elsewhere.",
            controls={
                "mean over tasks": sum(gaps.values()) / len(gaps), "untrained copy": float(fresh[loosest][1].mean()),
                "always certain of the true class": float(_certain(loosest)),
            },
            **common,
        ),
    ]  # fmt: skip


def _certain(name: str) -> torch.Tensor:
    """Total variation of a model that puts all mass on the true class: what accuracy alone would reward."""
    task = TASKS[name]
    truth = torch.tensor([prompt.answer_class for prompt in task.prompts()])
    return (1 - task.distributions()[truth, truth]).mean()
