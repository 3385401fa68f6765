"""How the few-step UNet of ``tabletop-sdxl`` was made: latent consistency distillation (Luo et al., 2023).

    f_θ(x, t) = c_skip(t) x + c_out(t) x̂₀(x, t)
    loss = huber( f_θ(x_t, t) − f_θ⁻(x̃_s, s) ),   s = t − 50,   x̃_s = one DDIM step of the guided teacher

θ⁻ is an exponential average of θ, and the guidance scale is baked in, so four steps without guidance replace sixteen
with it. The result is a ``UNet2DConditionModel`` folder, used with the pipeline of ``tabletop-sdxl`` and diffusers'
``LCMScheduler``.

Not covered: a guidance embedding (one fixed scale is enough here).
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import torch
from diffusers import LCMScheduler, UNet2DConditionModel
from torch import Tensor

from backend.core.device import autocast, pick_device
from backend.core.settings import assets_dir
from backend.models.reader import FactorReader
from backend.recipes import gates, loop
from backend.recipes.tabletop_sdxl import (
    TIME_IDS,
    captions,
    encode_text,
    generate,
    judge,
    latents,
    load,
    prompts,
    tokenise,
)  # fmt: skip
from backend.worlds.tabletop import rendered

NAME = "tabletop-sdxl-lcm"
STEPS = 600
BATCH = 32
PEAK = 3e-4
SKIP = 50
GUIDANCE = 4.0
GATE = {"shape_accuracy": 0.95 * 0.97}
"""Four steps keep 95 % of the gate of the UNet they were distilled from."""
SIGMA_DATA, TIMESTEP_SCALING = 0.5, 10.0


def boundary(t: Tensor) -> tuple[Tensor, Tensor]:
    """``c_skip, c_out`` as diffusers' ``LCMScheduler`` has them; at t = 0 the function is the identity."""
    scaled = t.float() * TIMESTEP_SCALING
    c_skip = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
    c_out = scaled / (scaled**2 + SIGMA_DATA**2) ** 0.5
    return c_skip.view(-1, 1, 1, 1), c_out.view(-1, 1, 1, 1)


def train(out: Path, *, teacher: Path, seed: int = 0, steps: int = STEPS, device: torch.device | None = None) -> Path:
    """Distil the pipeline in ``teacher``; save the few-step UNet to ``out``."""
    device = device or pick_device()
    torch.manual_seed(seed)
    pipe = load(teacher)
    images, factors = rendered("train")
    x = latents(pipe.vae, images, loop.work_dir("tabletop-sdxl"), device=device)
    texts = captions(factors, n=1, seed=seed + 1)
    ids = tokenise(pipe, [row[0] for row in texts])
    alphas = pipe.scheduler.alphas_cumprod.to(device)
    expert = pipe.unet.requires_grad_(False).eval()
    student = copy.deepcopy(expert).requires_grad_(True).train()
    target = copy.deepcopy(student).requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(student.parameters(), lr=PEAK, betas=(0.9, 0.99), weight_decay=0.0)
    size = torch.tensor([TIME_IDS], device=device)

    def predict(unet, noisy: Tensor, t: Tensor, states: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Clean latents and noise that the UNet's velocity implies."""
        added = {"text_embeds": pooled, "time_ids": size.expand(len(noisy), -1)}
        with autocast(device):
            v = unet(noisy, t, states, added_cond_kwargs=added).sample.float()
        a = alphas[t].view(-1, 1, 1, 1)
        return a.sqrt() * noisy - (1 - a).sqrt() * v, a.sqrt() * v + (1 - a).sqrt() * noisy

    def step(i: int) -> dict[str, float]:
        generator = loop.rng(seed, i)
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        t = (SKIP + (torch.arange(BATCH) + torch.rand(BATCH, generator=generator)) / BATCH * (999.99 - SKIP)).long()
        noise = torch.randn((BATCH, *x.shape[1:]), generator=generator).to(device)
        t, s = t.to(device), (t - SKIP).to(device)
        a, b = alphas[t].view(-1, 1, 1, 1), alphas[s].view(-1, 1, 1, 1)
        noisy = a.sqrt() * x[rows].to(device) + (1 - a).sqrt() * noise
        with torch.no_grad():
            states, pooled = encode_text(pipe, ids[rows].to(device))
            both = [torch.cat([v, torch.zeros_like(v)]) for v in (states, pooled)]
            clean, eps = (v.chunk(2) for v in predict(expert, noisy.repeat(2, 1, 1, 1), t.repeat(2), *both))
            clean = clean[1] + GUIDANCE * (clean[0] - clean[1])
            eps = eps[1] + GUIDANCE * (eps[0] - eps[1])
            earlier = b.sqrt() * clean + (1 - b).sqrt() * eps
            c_skip, c_out = boundary(s)
            goal = c_skip * earlier + c_out * predict(target, earlier, s, states, pooled)[0]
        for group in optimizer.param_groups:
            group["lr"] = loop.cosine(i, steps, peak=PEAK, warmup=20, floor=0.1)
        c_skip, c_out = boundary(t)
        found = c_skip * noisy + c_out * predict(student, noisy, t, states, pooled)[0]
        # Pseudo-Huber: quadratic near zero, linear far off, as in the paper.
        loss = ((found - goal).square() + 1e-3**2).sqrt().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(target.parameters()), list(student.parameters()), 0.05)
        return {"loss": loss.detach(), "norm": norm}

    seconds = loop.run(NAME, steps, modules={"student": student, "target": target}, optimizer=optimizer, step=step)
    without_origin(target).to("cpu", torch.float16).save_pretrained(out, max_shard_size="14MB")
    (Path(out) / "training.json").write_text(
        json.dumps({"seconds": round(seconds, 1), "steps": steps, "seed": seed, "guidance": GUIDANCE})
    )
    return Path(out)


def without_origin(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """The same network; its configuration does not name the folder that it, or what it was copied from, came from."""
    made = UNet2DConditionModel.from_config({k: v for k, v in unet.config.items() if k != "_name_or_path"})
    made.load_state_dict(unet.state_dict())
    return made


def few_step(folder: Path, teacher: Path):
    """The pipeline of ``teacher`` with the few-step UNet of ``folder`` and an ``LCMScheduler``."""
    pipe = load(teacher)
    unet = UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float32).to(pipe.device)
    pipe.register_modules(unet=unet, scheduler=LCMScheduler.from_config(pipe.scheduler.config))
    return pipe


def evaluate(folder: Path, *, teacher: Path | None = None, n: int = 1000, seed: int = 0, progress=None) -> dict:
    """Generate ``n`` pictures in four steps without guidance and read them back (keys as in ``tabletop_sdxl.judge``).

    The control is the teacher in four steps of its own sampler, undistilled: ``control_undistilled_shape_accuracy``.
    """
    teacher = teacher or assets_dir() / "models" / "tabletop-sdxl"
    reader = FactorReader.from_pretrained(assets_dir() / "models" / "tabletop-reader").eval()
    asked = prompts(n)
    texts = [a[0] for a in asked]
    pictures = generate(few_step(folder, teacher), texts, steps=4, guidance=1.0, seed=seed, progress=progress)
    plain = generate(load(teacher), texts[:240], steps=4, guidance=1.0, seed=seed)
    control = judge(plain, asked[:240], reader)
    return judge(pictures, asked, reader) | {
        "steps": 4,
        "control_undistilled_shape_accuracy": control["shape_accuracy"],
        "control_undistilled_frechet": control["frechet"],
    }


def write_card(folder: Path, values: dict) -> dict:
    """Write ``card.json`` and ``README.md`` beside the weights from what ``evaluate`` measured; returns the card."""
    history = json.loads((Path(folder) / "training.json").read_text())
    unet = UNet2DConditionModel.from_pretrained(folder)
    card = gates.write(folder, {
        "name": NAME, "kind": "model", "architecture": "UNet2DConditionModel", "world": "tabletop",
        "licence": "Apache-2.0", "command": f"manifold-atlas train {NAME}",
        "data": "20,000 rendered scenes of the train split; the teacher is tabletop-sdxl", **history,
        "n_parameters": sum(p.numel() for p in unet.parameters()),
        "measured": {k: v for k, v in values.items() if k not in ("shape_right", "hue_errors_deg")},
        "gates": [gates.at_least("shape as prompted, four steps", values["shape_accuracy"], GATE["shape_accuracy"])],
    })  # fmt: skip
    (Path(folder) / "README.md").write_text(f"""---
library_name: diffusers
license: apache-2.0
---

# {NAME}

The UNet of `tabletop-sdxl` distilled by latent consistency: four steps of `LCMScheduler` without guidance draw what
the teacher draws in sixteen with guidance {card["guidance"]:g}. It is what follows a drag.
{card["steps"]} steps, {card["seconds"] / 60:.0f} minutes of wall clock on two cores, seed {card["seed"]}; make it again
with `{card["command"]}`.

## Quality

{values["n"]} generated pictures in {values["steps"]} steps, read by a network that was trained on renders alone.

| measure | value | the teacher in four steps, undistilled |
|---|---|---|
| shape as prompted | {values["shape_accuracy"]:.3f} | {values["control_undistilled_shape_accuracy"]:.3f} |
| Fréchet distance to renders | {values["frechet"]:.2f} | {values["control_undistilled_frechet"]:.2f} |
| median hue error | {values["hue_error_deg"]:.1f}° | |
| light azimuth, mean resultant length | {values["azimuth_resultant"]:.3f} | |
""")
    return card


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=assets_dir() / "models" / NAME)
    parser.add_argument("--teacher", type=Path, default=assets_dir() / "models" / "tabletop-sdxl")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    train(args.out, teacher=args.teacher, seed=args.seed, steps=args.steps)
    print(json.dumps(write_card(args.out, evaluate(args.out, teacher=args.teacher))["gates"], indent=1))
