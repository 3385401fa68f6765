"""The card of ``calendar-llama``: what was measured, for the catalogue and for people, with stories that it wrote."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from backend.recipes import gates, loop
from backend.recipes.calendar_llama_quality import gate_lines, untrained_rings
from backend.worlds.calendar import TASKS


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


def write_card(
    out: Path, found: dict, before: dict | None, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast,
    *, name: str, seed: int, steps: int, until: int, seconds: float,
) -> None:  # fmt: skip
    """Write ``card.json`` (for the catalogue) and ``README.md`` (for people) beside the weights.

    ``found`` is what ``evaluate`` returns, ``before`` what ``measure`` said at step ``until``, when the held-out pairs
    had not joined yet.
    """
    n_parameters = sum(p.numel() for p in model.parameters())
    size = sum(f.stat().st_size for f in out.glob("*.safetensors"))
    examples = continuations(model, tokenizer, seed=seed)
    site = found["gate"]["layer"] if found["gate"]["layer"] is not None else model.config.num_hidden_layers - 1
    control = untrained_rings(model.config, tokenizer, layer=site)
    grown = {n: found["tasks"][n]["class_share"][site] for n in control}
    # By now the held-out pairs have been asked too, so only their earlier values may stand in the card.
    tasks = {n: {k: v for k, v in values.items() if k != "held_out_pairs"} for n, values in found["tasks"].items()}
    earlier = {n: v["held_out_pairs"] | {"unseen_wordings": v["unseen_wordings"]} for n, v in (before or {}).items()}
    card = {
        "name": name, "kind": "language", "architecture": "LlamaForCausalLM", "world": "calendar",
        "recipe": "backend.recipes.calendar_llama", "command": f"manifold-atlas train {name}",
        "n_parameters": n_parameters, "n_layers": model.config.num_hidden_layers, "d_model": model.config.hidden_size,
        "n_vocabulary": len(tokenizer), "bytes": size, "seed": seed, "steps": steps,
        "training_seconds": round(seconds, 1), "licence": "Apache-2.0",
        "data": "procedural stories of the calendar world",
        "site": f"{name}/{site}#resid_post", "gates": gate_lines(found), "tasks": tasks,
        "held_out_before_joining": {"until_step": until, "tasks": earlier},
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
- Make it again: `manifold-atlas train {name}`.

## Quality

Calibration is the mean total variation between the model's distribution over classes (and everything else) and the
known one. "Held-out pairs" is the accuracy on the tenth of (entity, increment) pairs that had never been asked up to
step {until}; they joined the training after that measurement, so the columns to the left are over pairs the model
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
