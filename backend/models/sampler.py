"""Sampler steps as pure functions of tables: rows at different steps, and of different kinds, move in one call.

Euler, DDIM (eta 0) and LCM are all affine in the sample ``x``, the model's output ``o`` and fresh noise ``e``, with
numbers that depend on the step alone. With ``x0 = p x + q o`` the model's estimate of the clean sample,

    x' = u x0 + v x + w o + c e

    Euler   (Karras et al. 2022, Alg. 1, no churn)   x' = x + (s' - s) (x - x0) / s
    DDIM    (Song et al. 2021, Eq. 12, eta = 0)      x' = sqrt(a') x0 + sqrt(1 - a') eps
    LCM     (Luo et al. 2023, Alg. 1)                x' = sqrt(a') (c_out x0 + c_skip x) + sqrt(1 - a') e

so a ``Schedule`` is a table of six numbers per step, and a step is a gather and three multiplications. Where ``x0`` is
not clipped, ``u x0`` is folded into the others. The noise levels and timesteps are read from a scheduler object of
diffusers made from the model's own configuration, so every spacing and beta schedule it knows is served; the object
is thrown away, because one that is shared between users mixes up their step counters.

Not covered: stochastic Euler (churn), DDIM with eta > 0, dynamic thresholding (refused), second-order samplers.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from backend.core.errors import Invalid

KINDS: tuple[str, ...] = ("euler", "ddim", "lcm")

# x0 = P x + Q o; x' = U x0 + V x + W o + C e
P, Q, U, V, W, C = range(6)


@dataclass(frozen=True, eq=False)
class Schedule:
    """The table of one sampler run of ``n_steps``; immutable, so users share it.

    ``timesteps`` (n,) float32, what the model is told; ``scale_in`` (n,), the factor on the sample before the model;
    ``table`` (n, 6) and ``folded`` (n, 3: x, o, e) float32; ``time`` (n,) floats in (0, 1], 1 is pure noise.
    """

    kind: str
    timesteps: Tensor
    scale_in: Tensor
    table: Tensor
    folded: Tensor
    init_scale: float
    clip: float | None
    time: tuple[float, ...]

    @property
    def n_steps(self) -> int:
        return len(self.time)

    @property
    def noisy(self) -> bool:
        """True where steps after the first need fresh noise."""
        return bool((self.table[:, C] != 0).any())


def kind_of(scheduler_class: str) -> str:
    """The kind that serves a model saved with this scheduler class; Euler for classes that have no kind here."""
    return {"LCMScheduler": "lcm", "DDIMScheduler": "ddim", "DDPMScheduler": "ddim"}.get(scheduler_class, "euler")


def timesteps(kind: str, n_steps: int, scheduler_config: Mapping[str, Any]) -> Schedule:
    """The schedule of ``n_steps`` steps of ``kind`` for a model with this (diffusers) scheduler configuration.

    ``prediction_type`` (epsilon, sample, v_prediction) is read from the configuration. Raises ``Invalid`` for an
    unknown kind, a number of steps that the kind cannot make, or dynamic thresholding.
    """
    config = {k: v for k, v in scheduler_config.items() if not k.startswith("_")}
    return _schedule(kind, int(n_steps), json.dumps(config, sort_keys=True, default=list))


@functools.lru_cache(maxsize=64)
def _schedule(kind: str, n_steps: int, config_json: str) -> Schedule:
    from diffusers import DDIMScheduler, EulerDiscreteScheduler, LCMScheduler

    classes = {"euler": EulerDiscreteScheduler, "ddim": DDIMScheduler, "lcm": LCMScheduler}
    if kind not in classes:
        raise Invalid(f"The sampler '{kind}' was asked for.", "It is not one of the samplers here.",
                      f"Use one of: {', '.join(classes)}.")  # fmt: skip
    config = json.loads(config_json)
    if config.get("thresholding"):
        raise Invalid("A sampler was asked for.", "The model's configuration asks for dynamic thresholding.",
                      "Set thresholding to false: it is unsuitable for latent models.")  # fmt: skip
    known = inspect.signature(classes[kind].__init__).parameters
    scheduler = classes[kind](**{k: v for k, v in config.items() if k in known})
    try:
        if n_steps < 1:
            raise ValueError("A run has at least one step.")
        scheduler.set_timesteps(n_steps)
    except ValueError as error:
        raise Invalid(f"{n_steps} steps of {kind} were asked for.", str(error), "Ask for another number.") from error
    n_train = scheduler.config.num_train_timesteps
    rows = {"euler": _euler, "ddim": _ddim, "lcm": _lcm}[kind](scheduler)
    told = scheduler.timesteps.to(torch.float32)
    scale_in = torch.ones(len(told))
    if kind == "euler":
        scale_in = (1 / (scheduler.sigmas[:-1].double() ** 2 + 1).sqrt()).float()
    clip = float(scheduler.config.clip_sample_range) if scheduler.config.get("clip_sample") else None
    table = torch.tensor(rows, dtype=torch.float64)
    folded = torch.stack(
        [table[:, U] * table[:, P] + table[:, V], table[:, U] * table[:, Q] + table[:, W], table[:, C]], 1
    )
    return Schedule(
        kind, told, scale_in, table.float(), folded.float(), float(scheduler.init_noise_sigma), clip,
        tuple((float(t) + 1) / n_train for t in told),
    )  # fmt: skip


def _parts(prediction: str, a: float, b: float) -> tuple[float, float]:
    """``(p, q)`` of ``x0 = p x + q o`` where ``x = a x0 + b eps`` and a^2 + b^2 = 1."""
    if prediction == "epsilon":
        return 1 / a, -b / a
    if prediction == "sample":
        return 0.0, 1.0
    if prediction == "v_prediction":
        return a, -b
    raise Invalid("A sampler was asked for.", f"The prediction type '{prediction}' is unknown.",
                  "Use epsilon, sample or v_prediction.")  # fmt: skip


def _euler(scheduler: Any) -> list[list[float]]:
    sigmas, prediction, rows = scheduler.sigmas.double().tolist(), scheduler.config.prediction_type, []
    for sigma, following in zip(sigmas, sigmas[1:], strict=False):
        if prediction == "epsilon":
            p, q = 1.0, -sigma
        elif prediction == "v_prediction":  # x is a sample of variance 1 + sigma^2, so x0 = x / (s^2 + 1) - o s / sqrt
            p, q = 1 / (sigma**2 + 1), -sigma / math.sqrt(sigma**2 + 1)
        else:
            p, q = _parts(prediction, 1.0, sigma)
        pull = (following - sigma) / sigma
        rows.append([p, q, -pull, 1 + pull, 0.0, 0.0])
    return rows


def _ddim(scheduler: Any) -> list[list[float]]:
    alphas, prediction, rows = scheduler.alphas_cumprod.double(), scheduler.config.prediction_type, []
    stride = scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    for t in scheduler.timesteps.tolist():
        here = float(alphas[t])
        before = float(alphas[t - stride] if t >= stride else scheduler.final_alpha_cumprod)
        a, b = math.sqrt(here), math.sqrt(1 - here)
        p, q = _parts(prediction, a, b)
        toward, away = math.sqrt(before), math.sqrt(1 - before)
        # eps comes from the model's output, not from a clipped x0, as diffusers has it.
        eps_x, eps_o = {"epsilon": (0.0, 1.0), "sample": (1 / b, -a / b), "v_prediction": (b, a)}[prediction]
        rows.append([p, q, toward, away * eps_x, away * eps_o, 0.0])
    return rows


def _lcm(scheduler: Any) -> list[list[float]]:
    alphas, config, rows = scheduler.alphas_cumprod.double(), scheduler.config, []
    steps, sigma_data = scheduler.timesteps.tolist(), 0.5
    for i, t in enumerate(steps):
        here = float(alphas[t])
        p, q = _parts(config.prediction_type, math.sqrt(here), math.sqrt(1 - here))
        scaled = t * config.timestep_scaling
        c_skip = sigma_data**2 / (scaled**2 + sigma_data**2)
        c_out = scaled / math.sqrt(scaled**2 + sigma_data**2)
        if i + 1 < len(steps):
            before = float(alphas[steps[i + 1]])
            keep, fresh = math.sqrt(before), math.sqrt(1 - before)
        else:
            keep, fresh = 1.0, 0.0
        rows.append([p, q, keep * c_out, keep * c_skip, 0.0, fresh])
    return rows


def _column(values: Tensor, like: Tensor) -> Tensor:
    """(R,) numbers as (R, 1, 1, ...) on the device of ``like``."""
    return values.to(like.device).reshape(-1, *[1] * (like.ndim - 1))


def scale_input(sample: Tensor, schedules: Schedule | Sequence[Schedule], t_index: Sequence[int]) -> Tensor:
    """What the model is shown for ``sample`` (R, ...): Euler divides by sqrt(sigma^2 + 1), the others do nothing."""
    rows = _rows(schedules, t_index)
    if all(s.kind != "euler" for s, _ in rows):
        return sample
    return sample * _column(torch.stack([s.scale_in[i] for s, i in rows]), sample)


def told(schedules: Schedule | Sequence[Schedule], t_index: Sequence[int]) -> Tensor:
    """The timesteps (R,) that the model is told."""
    return torch.stack([s.timesteps[i] for s, i in _rows(schedules, t_index)])


def step(
    schedules: Schedule | Sequence[Schedule],
    sample: Tensor,
    model_output: Tensor,
    t_index: Sequence[int] | int,
    *,
    noise: Tensor | None = None,
) -> Tensor:
    """One step for every row: ``sample`` and ``model_output`` (R, ...) to the next sample (R, ...) in float32.

    ``schedules`` is one for all rows or one for each, ``t_index`` the step of each row; ``noise`` (R, ...) is used by
    the rows whose step needs it. Pure: nothing is kept between calls. Raises ``Invalid`` where noise is missing.
    """
    indices = [t_index] * len(sample) if isinstance(t_index, int) else t_index
    rows = _rows(schedules, indices)
    if len(rows) != len(sample):
        raise Invalid(f"A step for {len(sample)} rows was asked for.", f"{len(rows)} step numbers were given.",
                      "Give one for each row.")  # fmt: skip
    x, o = sample.float(), model_output.float()
    folded = torch.stack([s.folded[i] for s, i in rows])
    if any(s.clip is not None for s, _ in rows):
        table = torch.stack([s.table[i] for s, i in rows])
        column = [_column(table[:, j], x) for j in range(6)]
        limit = _column(torch.tensor([math.inf if s.clip is None else s.clip for s, _ in rows]), x)
        x0 = column[P] * x + column[Q] * o
        out = column[U] * torch.maximum(torch.minimum(x0, limit), -limit) + column[V] * x + column[W] * o
    else:
        out = _column(folded[:, 0], x) * x + _column(folded[:, 1], x) * o
    if bool((folded[:, 2] != 0).any()):
        if noise is None:
            raise Invalid("A noisy sampler step was asked for.", "No noise was given.", "Give noise for each row.")
        out = out + _column(folded[:, 2], x) * noise.to(x.device, torch.float32)
    return out


def _rows(schedules: Schedule | Sequence[Schedule], t_index: Sequence[int]) -> list[tuple[Schedule, int]]:
    if isinstance(schedules, Schedule):
        return [(schedules, int(i)) for i in t_index]
    return [(s, int(i)) for s, i in zip(schedules, t_index, strict=True)]


def draws(seed: int, n: int, shape: Sequence[int]) -> Tensor:
    """``n`` standard normal samples (n, ...shape) of one row: its initial noise, then the noise of step 0, 1, ...

    A function of ``(seed, i)`` alone, and the very numbers that a pipeline of diffusers draws from one CPU generator
    with this seed, so that a row here and a picture there can be compared.
    """
    generator = torch.Generator("cpu").manual_seed(int(seed))
    return torch.cat([torch.randn((1, *shape), generator=generator) for _ in range(n)])
