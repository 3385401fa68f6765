"""How the embedded language model ``calendar-llama`` was made: a small Llama trained on the calendar world.

A draw of the answer (or the exact answer) as a hard target teaches a look-up table whose classes lie on a
frequency-3 circle. Here the *known* distribution q over classes is the target at the answer position,

    loss = L_story + 5 · KL(q ‖ p)

with L_story the next-token loss on the story around the question, and the classes come to lie on the ring in their
natural order. For the first part of the run a tenth of the (entity, increment) pairs is never asked; what the model
answers on them is measured before they join, and stands in the card next to the gate, which is over all pairs.

Not covered: instruction following, or any text outside the calendar world.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
from torch.nn import functional
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from backend.core.device import autocast, pick_device
from backend.core.settings import assets_dir
from backend.recipes import gates, loop
from backend.worlds.calendar import TASKS, sample
from backend.worlds.calendar_task import Prompt, Task
from backend.worlds.calendar_tokens import Batch, Encoder, build_tokenizer

NAME = "calendar-llama"
STEPS = 1400
HOLD_OUT_UNTIL = 0.7
"""Part of the run in which the held-out pairs are never asked."""
ANSWER_WEIGHT = 5.0
PEAK = 2e-3
N_STORIES = 12
QUESTIONS = {
    0: {"weekdays": 6, "months": 9, "letters": 6, "ages": 36},
    400: {"weekdays": 12, "months": 16, "letters": 6, "ages": 32},
}
"""Bare questions per step and task, from the step named on. Ages has 909 prompts and 91 classes, so it gets most; the
cyclic tasks are learned last (at step 300 weekdays stood at chance, letters at 0.69), so their share grows."""
PARAPHRASED = 0.2
STORY_SHARES = {"weekdays": 1.0, "months": 1.0, "letters": 0.7, "ages": 1.3}
GATE_ACCURACY = 0.98
GATE_CALIBRATION = 0.05


def config(vocab_size: int) -> LlamaConfig:
    """Six layers of width 192: 2.65 million parameters in the blocks."""
    return LlamaConfig(
        vocab_size=vocab_size, hidden_size=192, intermediate_size=512, num_hidden_layers=6, num_attention_heads=6,
        num_key_value_heads=6, max_position_embeddings=256, tie_word_embeddings=False, attention_dropout=0.0,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip


def held_out(seed: int, part: float = 0.1) -> dict[str, frozenset[tuple[str, int]]]:
    """For each task the (entity, increment) pairs kept out of the first part of training."""
    kept = {}
    for i, (name, task) in enumerate(TASKS.items()):
        pairs = [(entity, increment) for entity, increment, _ in task.pairs()]
        order = torch.randperm(len(pairs), generator=loop.rng(seed + 101, i)).tolist()
        kept[name] = frozenset(pairs[j] for j in order[: math.ceil(part * len(pairs))])
    return kept


def objective(model: LlamaForCausalLM, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean next-token loss on the labelled tokens and mean KL(q ‖ p) at the answers, both in nats."""
    device = model.device
    batch = Batch(*(part.to(device) for part in batch))
    with autocast(device):
        hidden = model.model(batch.ids, use_cache=False).last_hidden_state
        told = batch.labels >= 0
        story = model.lm_head(hidden[told]).float()
        answer = model.lm_head(hidden[batch.rows, batch.columns]).float()
    text = functional.cross_entropy(story, batch.labels[told]) if len(story) else answer.sum() * 0
    truth = functional.kl_div(answer.log_softmax(-1), batch.targets, reduction="batchmean")
    return text, truth


# ---------------------------------------------------------------------------------------------------- evaluation


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


def untrained_rings(tokenizer: PreTrainedTokenizerFast, layer: int, *, n_copies: int = 8) -> dict:
    """The control: by cyclic task, how many untrained copies pass the ring test, and their largest class share."""
    result = {name: {"n": n_copies, "natural": 0, "class_share": 0.0} for name, task in TASKS.items() if task.cyclic}
    for seed in range(n_copies):
        torch.manual_seed(seed)
        copy = LlamaForCausalLM(config(len(tokenizer))).eval()
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


@torch.no_grad()
def continuations(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, seed: int = 0) -> list[str]:
    """One sampled story a task, to be read."""
    torch.manual_seed(seed)
    texts = []
    for i, task in enumerate(TASKS.values()):
        prompts = task.prompts()
        prompt = prompts[int(torch.randint(len(prompts), (), generator=loop.rng(seed, i)))]
        batch = tokenizer(prompt.text, return_tensors="pt").to(model.device)
        out = model.generate(**batch, max_new_tokens=48, do_sample=True, temperature=0.8)
        texts.append(tokenizer.decode(out[0], skip_special_tokens=True))
    return texts


# ------------------------------------------------------------------------------------------------------ training


def train(
    out: Path, *, seed: int = 0, steps: int = STEPS, device: torch.device | None = None, look_every: int = 300
) -> dict:
    """Train (resuming where a checkpoint lies), evaluate, save weights, tokenizer and card to ``out``."""
    device = pick_device() if device is None else device
    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config(len(tokenizer))).to(device)
    decay = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}], lr=PEAK, betas=(0.9, 0.98)
    )
    encoder, kept = Encoder(tokenizer), held_out(seed)
    switch = int(steps * HOLD_OUT_UNTIL)
    notes = loop.work_dir(NAME) / f"held_out_{seed}_{steps}.json"
    began = time.time()

    def step(i: int) -> dict[str, float]:
        if i == switch and not notes.exists():
            notes.write_text(json.dumps(look(i)))
        generator, without = loop.rng(seed, i), kept if i < switch else {}
        counts = QUESTIONS[max(start for start in QUESTIONS if start <= i)]
        batches = [encoder.stories([sample(generator, shares=STORY_SHARES, without=without) for _ in range(N_STORIES)])]
        # The long questions of ages travel apart from the short ones: padding would double the work.
        for names in (("weekdays", "months", "letters"), ("ages",)):
            asked = [
                (name, TASKS[name].question(generator, without=without.get(name, frozenset()), paraphrased=PARAPHRASED))
                for name in names
                for _ in range(counts[name])
            ]
            batches.append(encoder.questions(asked))
        for group in optimizer.param_groups:
            group["lr"] = loop.cosine(i, steps, peak=PEAK, warmup=60)
        optimizer.zero_grad(set_to_none=True)
        n_answers, text, answer = sum(len(batch.rows) for batch in batches), 0.0, 0.0
        for batch in batches:
            told, truth = objective(model, batch)
            (told + ANSWER_WEIGHT * truth * len(batch.rows) / n_answers).backward()
            text, answer = text + told.detach(), answer + truth.detach() * len(batch.rows) / n_answers
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (i + 1) % look_every == 0:
            look(i + 1)
        return {"story": text, "answer": answer, "norm": norm}

    def look(i: int) -> dict:
        model.eval()
        values = measure(model, tokenizer, seed=seed)
        model.train()
        print(f"\nstep {i}, {time.time() - began:.0f} s\n{report(values)}\n{gate(values)}", flush=True)
        return values

    model.train()
    seconds = loop.run(NAME, steps, modules={"model": model}, optimizer=optimizer, step=step)
    model.eval()
    before = json.loads(notes.read_text()) if notes.exists() else None
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    found = evaluate(out, seed=seed)
    write_card(out, found, before, model, tokenizer, seed=seed, steps=steps, seconds=seconds)
    return found


def write_card(
    out: Path, found: dict, before: dict | None, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast,
    *, seed: int, steps: int, seconds: float,
) -> None:  # fmt: skip
    """Write ``card.json`` (for the catalogue) and ``README.md`` (for people) beside the weights."""
    n_parameters = sum(p.numel() for p in model.parameters())
    size = sum(f.stat().st_size for f in out.glob("*.safetensors"))
    switch = int(steps * HOLD_OUT_UNTIL)
    examples = continuations(model, tokenizer, seed=seed)
    site = found["gate"]["layer"] if found["gate"]["layer"] is not None else model.config.num_hidden_layers - 1
    control = untrained_rings(tokenizer, site)
    grown = {n: found["tasks"][n]["class_share"][site] for n in control}
    # By now the held-out pairs have been asked too, so only their earlier values may stand in the card.
    tasks = {n: {k: v for k, v in values.items() if k != "held_out_pairs"} for n, values in found["tasks"].items()}
    earlier = {n: v["held_out_pairs"] | {"unseen_wordings": v["unseen_wordings"]} for n, v in (before or {}).items()}
    card = {
        "name": NAME, "kind": "language", "architecture": "LlamaForCausalLM", "world": "calendar",
        "recipe": "backend.recipes.calendar_llama", "command": f"manifold-atlas train {NAME}",
        "n_parameters": n_parameters, "n_layers": model.config.num_hidden_layers, "d_model": model.config.hidden_size,
        "n_vocabulary": len(tokenizer), "bytes": size, "seed": seed, "steps": steps,
        "training_seconds": round(seconds, 1), "licence": "Apache-2.0",
        "data": "procedural stories of the calendar world",
        "site": f"{NAME}/{site}#resid_post", "gates": gate_lines(found), "tasks": tasks,
        "held_out_before_joining": {"until_step": switch, "tasks": earlier},
        "untrained_copies": control, "examples": examples,
    }  # fmt: skip
    gates.write(out, card)
    rows = [
        f"| {n} | {v['n_prompts']} | {v['accuracy']:.3f} | {v['calibration']:.3f} | {v['off_class']:.4f} | "
        + (f"{earlier[n]['accuracy']:.3f} (n={earlier[n]['n']})" if n in earlier else "–")
        + f" | {', '.join(f'{a:.3f}' for a in v['unseen_wordings'])} | "
        + (", ".join(str(i) for i, good in enumerate(v["natural_ring"]) if good) if "natural_ring" in v else "–")
        + " |"
        for n, v in tasks.items()
    ]
    quoted = "\n\n".join("```\n" + text + "\n```" for text in examples)
    (out / "README.md").write_text(
        f"""---
library_name: transformers
pipeline_tag: text-generation
license: apache-2.0
---

# calendar-llama

A Llama of {n_parameters / 1e6:.2f} million parameters ({model.config.num_hidden_layers} layers, width
{model.config.hidden_size}) trained from nothing on the calendar world: weekday, month, letter and age questions in
the templates of *Manifold Steering* (arXiv 2605.05115), with short stories around them. Statements about dates are
uncertain there, and the true answer distribution is known, so behaviour can be checked against the truth.

- Weights: {size / 1e6:.1f} MB, float32, safetensors. Seed {seed}, {steps} steps, {seconds / 60:.0f} minutes of wall
  clock (a step alone takes about 0.9 s of one core; the shipped run shared its cores with other work).
- Site for steering: `{card["site"]}`, last token of the question.
- Tokenizer: word-level with a byte fallback, {len(tokenizer)} entries, each answer one token.
- Make it again: `manifold-atlas train {NAME}`.

## Quality

Calibration is the mean total variation between the model's distribution over classes (and everything else) and the
known one. "Held-out pairs" is the accuracy on the tenth of (entity, increment) pairs that had never been asked up to
step {switch}; they joined the training after that measurement, so the columns to the left are over pairs the model
has seen. "Unseen wordings" is the accuracy on all pairs in paraphrases that were never trained.

| task | prompts | accuracy | calibration | off-class mass | held-out pairs | unseen wordings | natural ring at layers |
|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}

Control, at layer {site}: of {control["weekdays"]["n"]} untrained copies {control["weekdays"]["natural"]} show the
weekday ring in its natural order and {control["months"]["natural"]} the month ring. Seven increments of twelve make
each month's centroid a sliding average over seven neighbouring months, which alone is enough for a ring, so the order
of the months is no evidence of learning. What training adds is the size: the class of the answer accounts for
{grown["weekdays"]:.3f} of the variance between weekday prompts and {grown["months"]:.3f} between month prompts; in the
untrained copies at most {control["weekdays"]["class_share"]:.3f} and {control["months"]["class_share"]:.3f}.

## It writes

{quoted}

Not for anything outside its world: other text is spelt in bytes and is noise to it.
"""
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=assets_dir() / "models" / NAME)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--evaluate", action="store_true", help="only evaluate what lies in --out")
    asked = parser.parse_args()
    if asked.evaluate:
        evaluate(asked.out, seed=asked.seed)
    else:
        train(asked.out, seed=asked.seed, steps=asked.steps)


if __name__ == "__main__":
    main()
