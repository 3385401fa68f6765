"""Sampler steps equal those of diffusers' scheduler objects, step by step; rows do not mix."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, LCMScheduler

from backend.core.errors import Invalid
from backend.models import sampler

CLASSES = {"euler": EulerDiscreteScheduler, "ddim": DDIMScheduler, "lcm": LCMScheduler}
BASE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
PREDICTIONS = ("epsilon", "v_prediction", "sample")


def cases():
    for prediction in PREDICTIONS:
        for spacing in ("leading", "trailing", "linspace"):
            options = {"timestep_spacing": spacing, "prediction_type": prediction}
            for n_steps in (1, 4, 20, 50):
                if prediction != "sample":  # EulerDiscreteScheduler does not implement it
                    yield "euler", n_steps, {**options, "steps_offset": 1}
                yield "ddim", n_steps, {**options, "clip_sample": False}
        for n_steps in (1, 2, 4, 8, 50):
            yield "lcm", n_steps, {"prediction_type": prediction, "clip_sample": False}
    yield "ddim", 10, {"prediction_type": "epsilon", "clip_sample": True, "set_alpha_to_one": False}
    yield "ddim", 10, {"prediction_type": "sample", "clip_sample": True}
    yield "lcm", 4, {"prediction_type": "epsilon", "clip_sample": True, "clip_sample_range": 2.0}
    yield "lcm", 4, {"prediction_type": "v_prediction", "original_inference_steps": 20, "rescale_betas_zero_snr": True}
    yield "euler", 12, {"use_karras_sigmas": True}
    yield "euler", 12, {"beta_schedule": "linear", "final_sigmas_type": "sigma_min"}
    yield "ddim", 12, {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "clip_sample": False,
                       "prediction_type": "v_prediction"}  # fmt: skip


@pytest.mark.parametrize(("kind", "n_steps", "options"), list(cases()))
def test_equals_diffusers_at_every_step(kind, n_steps, options):
    config = {**BASE, **options}
    theirs = CLASSES[kind](**config)
    theirs.set_timesteps(n_steps)
    ours = sampler.timesteps(kind, n_steps, theirs.config)
    assert ours.n_steps == n_steps and torch.equal(ours.timesteps, theirs.timesteps.float())
    torch.testing.assert_close(torch.tensor(ours.init_scale), torch.as_tensor(float(theirs.init_noise_sigma)))
    generator = torch.Generator().manual_seed(n_steps)
    sample = torch.randn(3, 4, 8, 8, generator=generator) * ours.init_scale
    their_noise, our_noise = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    for i, t in enumerate(theirs.timesteps):
        output = torch.randn(sample.shape, generator=generator)
        torch.testing.assert_close(sampler.scale_input(sample, ours, [i] * 3), theirs.scale_model_input(sample, t),
                                   rtol=1e-5, atol=1e-5)  # fmt: skip
        noise = torch.randn(sample.shape, generator=our_noise) if kind == "lcm" else None
        extra = {"generator": their_noise} if kind == "lcm" else {}
        expected = theirs.step(output, t, sample, return_dict=False, **extra)[0]
        found = sampler.step(ours, sample, output, i, noise=noise)
        scale = float(expected.abs().max().clamp_min(1))
        torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-5)
        sample = expected
    assert ours.noisy == (kind == "lcm" and n_steps > 1)


def test_rows_at_different_steps_and_of_different_kinds_move_as_if_alone():
    config = {**BASE, "prediction_type": "v_prediction", "clip_sample": False}
    schedules = [sampler.timesteps(k, n, config) for k, n in (("lcm", 4), ("euler", 20), ("ddim", 10), ("lcm", 2))]
    where = [2, 7, 9, 1]
    generator = torch.Generator().manual_seed(0)
    x, o, e = (torch.randn(4, 4, 8, 8, generator=generator) for _ in range(3))
    together = sampler.step(schedules, x, o, where, noise=e)
    for r in range(4):
        alone = sampler.step(schedules[r], x[r : r + 1], o[r : r + 1], [where[r]], noise=e[r : r + 1])
        assert torch.equal(together[r : r + 1], alone)
    assert torch.equal(sampler.told(schedules, where)[0], schedules[0].timesteps[2])
    assert not torch.equal(together, sampler.step(schedules, x, o, [2, 7, 9, 0], noise=e))


def test_the_right_answer_is_a_fixed_point():
    """A model that knows the clean sample brings every kind to it in any number of steps."""
    clean = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    for kind in ("euler", "ddim"):
        schedule = sampler.timesteps(kind, 5, {**BASE, "prediction_type": "epsilon", "clip_sample": False})
        noise = sampler.draws(3, 1, (4, 8, 8)).expand(2, -1, -1, -1)
        x = noise * schedule.init_scale
        if kind == "euler":
            sigmas = EulerDiscreteScheduler(**BASE)
            sigmas.set_timesteps(5)
            for i, sigma in enumerate(sigmas.sigmas[:-1]):
                x = sampler.step(schedule, x, (x - clean) / sigma, i)
        else:
            alphas = DDIMScheduler(**BASE).alphas_cumprod
            for i, t in enumerate(schedule.timesteps.long()):
                x = sampler.step(schedule, x, (x - alphas[t].sqrt() * clean) / (1 - alphas[t]).sqrt(), i)
        torch.testing.assert_close(x, clean, rtol=1e-3, atol=1e-4)


def test_draws_are_those_of_one_generator_and_do_not_depend_on_how_many():
    generator = torch.Generator().manual_seed(11)
    expected = torch.cat([torch.randn((1, 4, 16, 16), generator=generator) for _ in range(4)])
    assert torch.equal(sampler.draws(11, 4, (4, 16, 16)), expected)
    assert torch.equal(sampler.draws(11, 2, (4, 16, 16)), expected[:2])
    assert not torch.equal(sampler.draws(12, 2, (4, 16, 16)), expected[:2])


def test_time_falls_from_pure_noise_and_the_table_is_shared():
    schedule = sampler.timesteps("lcm", 4, BASE)
    assert schedule.time[0] == 1.0 and list(schedule.time) == sorted(schedule.time, reverse=True)
    assert sampler.timesteps("lcm", 4, dict(reversed(BASE.items()))) is schedule


def test_refusals():
    with pytest.raises(Invalid, match="heun"):
        sampler.timesteps("heun", 4, BASE)
    with pytest.raises(Invalid, match="60 steps of lcm"):
        sampler.timesteps("lcm", 60, BASE)
    with pytest.raises(Invalid, match="0 steps"):
        sampler.timesteps("ddim", 0, BASE)
    with pytest.raises(Invalid, match="thresholding"):
        sampler.timesteps("ddim", 4, {**BASE, "thresholding": True})
    with pytest.raises(Invalid, match="prediction type"):
        sampler.timesteps("ddim", 4, {**BASE, "prediction_type": "flow"})
    schedule = sampler.timesteps("lcm", 4, BASE)
    x = torch.zeros(2, 4, 8, 8)
    with pytest.raises(Invalid, match="No noise"):
        sampler.step(schedule, x, x, 0)
    with pytest.raises(Invalid, match="rows"):
        sampler.step(schedule, x, x, [0])
