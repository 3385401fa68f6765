"""How ``tabletop-sdxl`` was made: a ``StableDiffusionXLPipeline`` in small, trained on captioned tabletop scenes.

    loss = ‖ v − v_θ(√ᾱ_t x + √(1−ᾱ_t) ε, t, caption) ‖²,   v = √ᾱ_t ε − √(1−ᾱ_t) x

The UNet has SDXL's layout (three resolutions, attention on the lower two, text-and-time conditioning); both CLIP text
encoders are trained with it. Captions name shape and mostly colour, so light, yaw and size are left to the noise: they
are controls that no prompt gives. A tenth of the captions is dropped (zeros, as the pipeline does for an empty
negative prompt), so that guidance works.

Not covered: the autoencoder (``tabletop_vae``) and the few-step UNet (``tabletop_sdxl_lcm``).
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch.nn import functional

from backend.core.device import autocast, pick_device
from backend.core.settings import assets_dir
from backend.models.random_weights import tiny_sdxl
from backend.models.reader import FactorReader, frechet_distance
from backend.recipes import gates, loop
from backend.recipes.muon import Muon
from backend.recipes.tabletop_vae import encode, to_model
from backend.worlds.tabletop import SHAPES, rendered
from backend.worlds.tabletop_captions import HUE_NAMES, caption, hue_of_name

NAME = "tabletop-sdxl"
STEPS = 7000
BATCH = 32
PEAK = 2e-3
WIDTHS = (32, 64, 128)
D_TEXT = 64
GATE = {"shape_accuracy": 0.97, "hue_error_deg": 10.0}
"""On 1,000 generated pictures, read by a network that was trained on renders alone."""
TIME_IDS = (128.0, 128.0, 0.0, 0.0, 128.0, 128.0)
"""Original size, crop, target size: the world has one size, so these are constant."""


def scheduler() -> DDIMScheduler:
    """SDXL's noise schedule with v-prediction, which keeps few-step sampling well posed at the noisy end."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=False,
    )  # fmt: skip


def build(vae: Path, *, seed: int = 0) -> StableDiffusionXLPipeline:
    """The untrained pipeline around a trained autoencoder."""
    pipe = tiny_sdxl(widths=WIDTHS, d_text=D_TEXT, seed=seed)
    trained = AutoencoderTiny.from_pretrained(vae)
    channels = trained.config.latent_channels
    layout = {**pipe.unet.config, "in_channels": channels, "out_channels": channels}
    torch.manual_seed(seed)
    pipe.register_modules(vae=trained, scheduler=scheduler(), unet=UNet2DConditionModel.from_config(layout))
    return pipe


def latents(vae: AutoencoderTiny, images: np.ndarray, folder: Path, *, device: torch.device) -> torch.Tensor:
    """Scaled latents ``(N, 8, 16, 16)`` of all pictures, computed once and kept in ``folder``."""
    path = folder / "latents.safetensors"
    if path.exists():
        return load_file(path)["latents"].float()
    found = []
    with torch.inference_mode(), autocast(device):
        for start in range(0, len(images), 64):
            x = to_model(torch.from_numpy(np.array(images[start : start + 64]))).to(device)
            found.append(encode(vae, x).cpu())
    z = torch.cat(found)
    save_file({"latents": z.half().contiguous()}, path)
    return z


def tokenise(pipe: StableDiffusionXLPipeline, texts: list[str]) -> torch.Tensor:
    """Token ids ``(N, 24)``; both tokenizers are the same."""
    settings = dict(padding="max_length", max_length=pipe.tokenizer.model_max_length, truncation=True)
    return pipe.tokenizer(texts, return_tensors="pt", **settings).input_ids


def encode_text(pipe: StableDiffusionXLPipeline, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the pipeline's ``encode_prompt`` computes, with gradients: states ``(N, 24, 2·64)``, pooled ``(N, 64)``."""
    first = pipe.text_encoder(ids, output_hidden_states=True).hidden_states[-2]
    second = pipe.text_encoder_2(ids, output_hidden_states=True)
    return torch.cat([first, second.hidden_states[-2]], -1), second.text_embeds


def captions(factors: dict[str, np.ndarray], *, n: int, seed: int) -> list[list[str]]:
    """``n`` wordings of each scene."""
    torch_factors = {k: torch.from_numpy(np.asarray(v)) for k, v in factors.items()}
    generator = torch.Generator().manual_seed(seed + 77)
    return [[caption(torch_factors, i, generator) for _ in range(n)] for i in range(len(factors["shape"]))]


def train(out: Path, *, vae: Path, seed: int = 0, steps: int = STEPS, device: torch.device | None = None) -> Path:
    """Train UNet and text encoders on the rendered train split; save the whole pipeline to ``out``."""
    device = device or pick_device()
    torch.manual_seed(seed)
    pipe = build(vae, seed=seed)
    images, factors = rendered("train")
    x = latents(pipe.vae.to(device), images, loop.work_dir(NAME), device=device)
    texts = captions(factors, n=3, seed=seed)
    ids = tokenise(pipe, [t for row in texts for t in row]).view(len(texts), 3, -1)
    trained = torch.nn.ModuleDict({"unet": pipe.unet, "one": pipe.text_encoder, "two": pipe.text_encoder_2}).to(device)
    trained.train()
    ema = copy.deepcopy(trained).requires_grad_(False)
    optimizer = Muon(trained.parameters(), lr=PEAK, weight_decay=1e-3)
    alphas = pipe.scheduler.alphas_cumprod
    n_times = len(alphas)
    size = torch.tensor([TIME_IDS]).to(device)

    def step(i: int) -> dict[str, float]:
        generator = loop.rng(seed, i)
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        which = torch.randint(3, (BATCH,), generator=generator)
        # Stratified times: each batch covers the whole range, which steadies a small batch's gradient.
        # Towards the noisy end (power below 1), where it is decided what stands where.
        t = (((torch.arange(BATCH) + torch.rand(BATCH, generator=generator)) / BATCH) ** 0.75 * n_times).long()
        noise = torch.randn((BATCH, *x.shape[1:]), generator=generator)
        drop = torch.rand(BATCH, generator=generator) < 0.1
        a = alphas[t].view(-1, 1, 1, 1)
        clean = x[rows]
        noisy, target = a.sqrt() * clean + (1 - a).sqrt() * noise, a.sqrt() * noise - (1 - a).sqrt() * clean
        for group in optimizer.param_groups:
            group["lr"] = loop.cosine(i, steps, peak=PEAK, warmup=100)
        with autocast(device):
            states, pooled = encode_text(pipe, ids[rows, which].to(device))
            keep = (~drop).to(device, states.dtype)
            added = {"text_embeds": pooled * keep[:, None], "time_ids": size.expand(BATCH, -1)}
            v = pipe.unet(noisy.to(device), t.to(device), states * keep[:, None, None], added_cond_kwargs=added).sample
        loss = functional.mse_loss(v.float(), target.to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        decay = min(0.998, (1 + i) / (10 + i))
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.parameters()), list(trained.parameters()), 1 - decay)
        return {"loss": loss.detach(), "norm": norm}

    seconds = loop.run(NAME, steps, modules={"net": trained, "ema": ema}, optimizer=optimizer, step=step)
    trained.load_state_dict(ema.state_dict())
    pipe.to("cpu", torch.float16)
    pipe.vae.to(torch.float32)
    # Half precision halves what ships; the small autoencoder stays exact.
    pipe.save_pretrained(out, max_shard_size="14MB")
    (Path(out) / "training.json").write_text(json.dumps({"seconds": round(seconds, 1), "steps": steps, "seed": seed}))
    return Path(out)


# ---------------------------------------------------------------------------------------------------- evaluation


def prompts(n: int) -> list[tuple[str, int, float]]:
    """``n`` prompts that go through all shapes and colours: ``(text, shape index, hue in radians)``."""
    found = []
    for i in range(n):
        shape, hue = SHAPES[i % len(SHAPES)], HUE_NAMES[(i // len(SHAPES)) % len(HUE_NAMES)]
        article = "an" if hue[0] in "aeiou" else "a"
        found.append((f"{article} {hue} {shape} on a table", i % len(SHAPES), hue_of_name(hue)))
    return found


@torch.inference_mode()
def generate(
    pipe: StableDiffusionXLPipeline, texts: list[str], *, steps: int, guidance: float, seed: int = 0, batch: int = 32,
    progress: Callable[[float], None] | None = None,
) -> torch.Tensor:  # fmt: skip
    """Pictures ``(N, 3, 128, 128)`` in [0, 1], one for each text, each from its own seed."""
    pipe.set_progress_bar_config(disable=True)
    found = []
    for start in range(0, len(texts), batch):
        part = texts[start : start + batch]
        generators = [torch.Generator().manual_seed(seed * 1_000_003 + start + j) for j in range(len(part))]
        with autocast(pipe.device):
            found.append(
                pipe(
                    part, num_inference_steps=steps, guidance_scale=guidance, generator=generators, height=128,
                    width=128, output_type="pt", original_size=(128, 128), target_size=(128, 128),
                ).images.float().cpu()
            )  # fmt: skip
        if progress:
            progress(min(1.0, (start + batch) / len(texts)))
    return torch.cat(found)


def circular_gap(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Absolute circular distance in radians, in [0, π]."""
    return torch.atan2((a - b).sin(), (a - b).cos()).abs()


def judge(pictures: torch.Tensor, asked: list[tuple[str, int, float]], reader: FactorReader) -> dict:
    """What the factor reader sees: shape accuracy, hue error, spread of the light, Fréchet distances."""
    with torch.inference_mode():
        read = [reader.read(p) for p in pictures.split(64)]
        features = torch.cat([reader.features(p) for p in pictures.split(64)])
        real, _ = rendered("test")
        n = min(len(pictures), len(real) // 2)
        sets = []
        for rows in (slice(0, n), slice(n, 2 * n)):
            y = torch.from_numpy(np.ascontiguousarray(real[rows])).permute(0, 3, 1, 2).float() / 255
            sets.append(torch.cat([reader.features(c) for c in y.split(64)]))
    got = {k: torch.cat([r[k] for r in read]) for k in read[0]}
    shape = torch.tensor([a[1] for a in asked])
    hue = torch.tensor([a[2] for a in asked])
    right = got["shape"] == shape
    gap = circular_gap(got["hue"], hue).rad2deg()
    azimuth = got["light_azimuth"]
    bins = torch.histc(azimuth % (2 * math.pi), 12, 0, 2 * math.pi) / len(azimuth)
    other = torch.randperm(len(hue), generator=torch.Generator().manual_seed(0))
    return {
        "n": len(pictures),
        "shape_accuracy": right.float().mean().item(),
        "shape_right": right.tolist(),
        "hue_error_deg": gap.median().item(),
        "hue_errors_deg": gap.tolist(),
        "azimuth_resultant": torch.polar(torch.ones_like(azimuth), azimuth).mean().abs().item(),
        "azimuth_emptiest_of_12_bins": bins.min().item(),
        "frechet": float(frechet_distance(features[:n], sets[0])),
        "frechet_real_real": float(frechet_distance(sets[0], sets[1])),
        "control_shape_shuffled": (got["shape"] == shape.roll(1)).float().mean().item(),
        "control_hue_shuffled_deg": circular_gap(got["hue"], hue[other]).rad2deg().median().item(),
    }


def load(folder: Path) -> StableDiffusionXLPipeline:
    """The saved pipeline in float32, on this machine's device."""
    return StableDiffusionXLPipeline.from_pretrained(folder, torch_dtype=torch.float32).to(pick_device())


def evaluate(
    folder: Path, *, n: int = 1000, steps: int = 16, guidance: float = 4.0, seed: int = 0, progress=None
) -> dict:  # fmt: skip
    """Generate ``n`` pictures of known prompts and read them back; see ``judge`` for the keys."""
    reader = FactorReader.from_pretrained(assets_dir() / "models" / "tabletop-reader").eval()
    asked = prompts(n)
    texts = [a[0] for a in asked]
    pictures = generate(load(folder), texts, steps=steps, guidance=guidance, seed=seed, progress=progress)
    return judge(pictures, asked, reader) | {"steps": steps, "guidance": guidance}


def write_card(folder: Path, values: dict) -> dict:
    """Write ``card.json`` and ``README.md`` beside the weights from what ``evaluate`` measured; returns the card."""
    history = json.loads((Path(folder) / "training.json").read_text())
    pipe = StableDiffusionXLPipeline.from_pretrained(folder)
    parts = {k: sum(p.numel() for p in getattr(pipe, k).parameters())
             for k in ("unet", "vae", "text_encoder", "text_encoder_2")}  # fmt: skip
    card = gates.write(folder, {
        "name": NAME, "kind": "model", "architecture": "StableDiffusionXLPipeline", "world": "tabletop",
        "licence": "Apache-2.0", "command": f"manifold-atlas train {NAME}",
        "data": "20,000 rendered scenes of the train split, three captions each", **history,
        "n_parameters": sum(parts.values()), "parts": parts,
        "measured": {k: v for k, v in values.items() if k not in ("shape_right", "hue_errors_deg")},
        "gates": [gates.at_least("shape as prompted", values["shape_accuracy"], GATE["shape_accuracy"]),
                  gates.at_most("median hue error in degrees", values["hue_error_deg"], GATE["hue_error_deg"])],
    })  # fmt: skip
    (Path(folder) / "README.md").write_text(f"""---
library_name: diffusers
pipeline_tag: text-to-image
license: apache-2.0
---

# {NAME}

A `StableDiffusionXLPipeline` in small: 128×128 pictures of one object on a lit table. Its UNet has SDXL's layout at
{parts["unet"] / 1e6:.1f} million parameters; both CLIP text encoders and the autoencoder are its own. Trained from
nothing for {card["steps"]} steps ({card["seconds"] / 60:.0f} minutes of wall clock on two cores, seed {card["seed"]}).
Captions name shape and mostly colour, never light, yaw or size: those are left to the noise.

Make it again with `manifold-atlas train tabletop-vae`, then `{card["command"]}`.

## Quality

{values["n"]} generated pictures, {values["steps"]} steps, guidance {values["guidance"]:g}, read by a network that was
trained on renders alone.

| measure | value | control |
|---|---|---|
| shape as prompted | {values["shape_accuracy"]:.3f} | {values["control_shape_shuffled"]:.3f} (another prompt's shape) |
| median hue error | {values["hue_error_deg"]:.1f}° | {values["control_hue_shuffled_deg"]:.1f}° (another prompt's hue) |
| light azimuth, mean resultant length | {values["azimuth_resultant"]:.3f} | 0 is even, 1 is one direction |
| emptiest of twelve azimuth bins | {values["azimuth_emptiest_of_12_bins"]:.3f} | 0.083 is even |
| Fréchet distance to renders | {values["frechet"]:.2f} | {values["frechet_real_real"]:.2f} (renders to renders) |

It knows one table, one object and no other world.
""")
    return card


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=assets_dir() / "models" / NAME)
    parser.add_argument("--vae", type=Path, default=assets_dir() / "models" / NAME / "vae")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    train(args.out, vae=args.vae, seed=args.seed, steps=args.steps)
    print(json.dumps(write_card(args.out, evaluate(args.out))["gates"], indent=1))
