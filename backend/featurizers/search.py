"""Which blocks does my text, my picture hold? One's own input is read at the featurizer's site and encoded.

    language model       the text; every token but the special ones
    vision transformer   the picture; every patch
    picture model        a picture, under noise as at the sampler's last step, with the text as its prompt;
                         or the text alone: the model draws from it, and its last step is read

Blocks are ranked by the norms of their codes, summed over positions. Beside it stands how much that is of the mean
over the atlas' pictures (``lift``): a block that fires on everything ranks high on everything. What a model cannot take
is refused, never ignored. Not covered: sites that the forward pass of the ordinary model does not reach.
"""

from __future__ import annotations

import base64
import io
import time
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from backend.activations.harvest import harvest
from backend.activations.head_inputs import decode_picture, prepare, square
from backend.activations.site import Site
from backend.core.device import autocast
from backend.core.errors import Invalid, Refused
from backend.featurizers.browser import BlockBrowser
from backend.featurizers.featurizer import Featurizer
from backend.models import sampler
from backend.models.adapter import Adapter
from backend.wire.blocks import BlockMatch, BlockMatches, BlockSearch
from backend.wire.sinks import SinkRequest

N_HEAT = 12
"""Matches that come with a map of where they fire."""


class Read(NamedTuple):
    """Raw activations ``(1, T, d)`` of one input, and what can be said of it."""

    x: Tensor
    tokens: list[str]
    picture: Image.Image | None
    note: str


@torch.no_grad()
def read(adapter: Adapter, site: str, request: BlockSearch) -> Read:
    """Activations of one's own input at ``site``; raises ``Invalid`` for nothing, or what the model cannot take."""
    text = (request.text or "").strip()
    if not text and not request.image:
        raise Invalid("Blocks of one's own input were asked for.", "Neither a text nor a picture was sent.",
                      "Write a text or choose a picture.")  # fmt: skip
    if adapter.kind == "image":
        return _read_pictures(adapter, site, request, text)
    if adapter.kind not in ("text", "vision"):
        raise Invalid(f"Own input for {adapter.name} was sent.", f"A model of kind {adapter.kind} is not read here.",
                      "Choose a featurizer of a language, vision or picture model.")  # fmt: skip
    if adapter.kind == "text" and request.image:
        raise Invalid("A picture was sent.", f"'{adapter.name}' reads text.", "Send a text.")
    if adapter.kind == "vision" and text:
        raise Invalid("A text was sent.", f"'{adapter.name}' looks at pictures.", "Choose a picture.")
    found = prepare(adapter, SinkRequest(model=adapter.name, text=text or None, image=request.image))
    inputs, skip = found.inputs.to(adapter.device), found.n_special
    got = next(harvest(adapter, [site], [inputs], lambda ids: adapter.module(
        ids if adapter.kind == "text" else ids.to(adapter.dtype)), select=lambda x: x[:, skip:]))  # fmt: skip
    what = "tokens" if adapter.kind == "text" else "patches"
    (x,) = got.x.values()
    return Read(x.float(), found.tokens[skip:], found.picture, f"Read at {x.shape[1]} {what}.")


def _read_pictures(adapter: Adapter, site: str, request: BlockSearch, text: str) -> Read:
    few = adapter.unet_lcm is not None
    unet, kind = (adapter.unet_lcm, "lcm") if few else (adapter.unet, sampler.kind_of(type(adapter.scheduler).__name__))
    named = str(replace(Site.parse(site, model=adapter.name), model=f"{adapter.name}-lcm" if few else adapter.name))
    schedule = sampler.timesteps(kind, 4 if few else 16, dict(adapter.scheduler.config))
    embeds, pooled = adapter.encode_prompt([text])
    draws = sampler.draws(request.seed, schedule.n_steps + 1, adapter.latent_shape).to(adapter.device)
    more = {"text_embeds": pooled, "time_ids": adapter.time_ids(1)}

    def run(x: Tensor, i: int) -> Tensor:
        shown = sampler.scale_input(x, schedule, [i]).to(unet.dtype)
        return unet(shown, schedule.timesteps[i].to(x.device), embeds, added_cond_kwargs=more).sample

    last, shown = schedule.n_steps - 1, None
    with autocast(adapter.device):
        if request.image:
            shown = square(decode_picture(request.image), adapter.size)
            x = _noised(adapter, schedule, shown, draws[:1], last)
        else:
            x = draws[:1] * schedule.init_scale
            for i in range(last):
                x = sampler.step(schedule, x, run(x, i), [i], noise=draws[i + 1 : i + 2])
        got = next(harvest(adapter, [named], [x], lambda x: run(x, last)))
        if shown is None:
            x = sampler.step(schedule, x, run(x, last), [last], noise=draws[-1:])
            shown = _drawn(adapter, x)
    how = "Your picture under the noise" if request.image else "A picture drawn from your words, as it is"
    caution = "" if text else " The prompt is empty: words of what it shows give a truer reading."
    (values,) = got.x.values()
    return Read(values[-1:].float(), [], shown, f"{how} of the last of {schedule.n_steps} steps.{caution}")


def _noised(adapter: Adapter, schedule: sampler.Schedule, picture: Image.Image, noise: Tensor, i: int) -> Tensor:
    x = torch.from_numpy(np.asarray(picture).copy())[None].permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)
    found = adapter.vae.encode(x.to(adapter.device, adapter.vae.dtype))
    z = (found.latents if hasattr(found, "latents") else found.latent_dist.mean).float()
    z = z * adapter.vae.config.scaling_factor
    a = adapter.scheduler.alphas_cumprod[int(schedule.timesteps[i])].to(z)
    noisy = a.sqrt() * z + (1 - a).sqrt() * noise
    # Euler keeps samples of variance 1 + s², of which the model is shown the scaled ones.
    return noisy / schedule.scale_in[i].to(z) if schedule.kind == "euler" else noisy


def _drawn(adapter: Adapter, z: Tensor) -> Image.Image:
    x = adapter.vae.decode((z / adapter.vae.config.scaling_factor).to(adapter.vae.dtype)).sample
    pixels = ((x[0].float() / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    return Image.fromarray(pixels.cpu().numpy())


@torch.no_grad()
def search(featurizer: Featurizer, adapter: Adapter, request: BlockSearch, *, site: str,
           browser: BlockBrowser) -> BlockMatches:  # fmt: skip
    """The blocks that one's own input holds, strongest first; raises what ``read`` raises, and ``Refused``."""
    began = time.perf_counter()
    found = read(adapter, site, request)
    ran = time.perf_counter()
    _, positions, d = found.x.shape
    if d != featurizer.d_in or len(featurizer.centre) not in (1, positions):
        raise Refused(
            f"The blocks of one's own input at {site} were asked for.",
            f"It gives {positions} positions of width {d}; the featurizer reads {len(featurizer.centre)} of "
            f"{featurizer.d_in}.", "Choose a featurizer that was trained with one centre for all positions.",
        )  # fmt: skip
    picked = featurizer.select(featurizer.normalise(found.x).flatten(0, 1))
    norm = picked.code.norm(dim=-1)
    # (T, G) would be large for long texts and many blocks; (G,) is enough for the ranking.
    score = torch.zeros(featurizer.n_blocks).index_add_(0, picked.block.flatten(), norm.flatten())
    order = [g for g in score.argsort(descending=True).tolist() if score[g] > 0 and g in browser][: request.n]
    side = int(round(positions**0.5))
    shape = (side, side) if side * side == positions and adapter.kind != "text" else (1, positions)
    matches = []
    for place, g in enumerate(order):
        usual, heat = browser.usual(g), []
        if place < N_HEAT:
            at = torch.where(picked.block == g, norm, 0.0).sum(1)
            heat = (at / at.max().clamp_min(1e-9)).view(shape).mul(1000).round().div(1000).tolist()
        matches.append(BlockMatch(
            block=g, score=float(score[g]), share=float(score[g] / score.sum()), heat=heat,
            lift=float(score[g]) / usual if usual else None,
        ))  # fmt: skip
    done = time.perf_counter()
    return BlockMatches(
        featurizer=browser.name, matches=matches, positions=positions, tokens=found.tokens, note=found.note,
        picture=None if found.picture is None else _data_uri(found.picture),
        timing_ms={"model": 1e3 * (ran - began), "encode": 1e3 * (done - ran)},
    )  # fmt: skip


def _data_uri(picture: Image.Image) -> str:
    small = picture.copy()
    small.thumbnail((256, 256))
    file = io.BytesIO()
    small.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
