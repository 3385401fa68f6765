"""Steered pictures on random weights: equality with diffusers, exact reuse, replay, refusals, groups."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from backend.activations.point_set import install
from backend.core.errors import Invalid, NotFound, Refused
from backend.engine.cache import ByteCache
from backend.engine.scheduler import Scheduler
from backend.engine.work import Work
from backend.manifolds.site_entry import SiteEntry
from backend.manifolds.steerable import SteerableManifold
from backend.models import sampler
from backend.models.diffusion import ImageAdapter
from backend.models.random_weights import sdxl_unet_config, tiny_sdxl
from backend.steering.filmstrip import plan_filmstrip, stops_of
from backend.steering.image import ImageSteerer
from backend.steering.plan import Together
from backend.wire.canvas import FilmstripRequest, FrameHeader, ImageRequest, Steer
from backend.wire.capabilities import ManifoldInfo

SITES = ("tiny/mid.0#update", "tiny/up.0.1#update")
WIDTHS = (32, 32)


class FakeReader:
    """Reads an azimuth off the mean brightness; enough to test what is done with a reading."""

    def read(self, images):
        n = len(images)
        angle = (images.mean((1, 2, 3)) * 20) % (2 * math.pi)
        return {"shape": torch.zeros(n, dtype=torch.long), "light_azimuth": angle, "hue": angle * 0 + 1.0,
                "light_azimuth_confidence": torch.ones(n), "size": torch.full((n,), 0.9)}  # fmt: skip


def make_pipeline(seed=0):
    return tiny_sdxl(widths=WIDTHS, vae_widths=(32, 32), d_text=32, sample_size=8, seed=seed)


@pytest.fixture(scope="module")
def adapter():
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        few = UNet2DConditionModel(**sdxl_unet_config(WIDTHS, sample_size=8, d_text=64, d_pooled=32)).eval()
    pipeline = make_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    return ImageAdapter(pipeline, name="tiny", unet_lcm=few)


@pytest.fixture(scope="module")
def base(adapter):
    """The same pipeline without its few-step UNet."""
    return ImageAdapter(adapter.pipeline, name="tiny")


def make_manifold(name="light", sites=SITES, factor="light_azimuth", model="tiny", bins=None, size=6.0):
    generator = torch.Generator().manual_seed(1)
    angle = torch.arange(8) / 8 * 2 * math.pi
    circle = size * torch.stack([angle.cos(), angle.sin()], 1)
    entries = {}
    for site in sites:
        frame = torch.linalg.qr(torch.randn(32, 2, generator=generator)).Q
        knots = circle if bins is None else torch.stack([circle * (b + 1) for b in range(len(bins))])[:, :, None]
        entries[site] = SiteEntry(frame, angle / (2 * math.pi), knots, bins=bins)
    info = ManifoldInfo(name=name, title=name, model=model, kind="ring", sites=list(sites), unit="°", factor=factor)
    return SteerableManifold(info, entries)


KNOWN = (make_manifold(), make_manifold("binned", bins=[0.4, 1.0]), make_manifold("nameless", factor=None),
         make_manifold("foreign", model="other"))  # fmt: skip
MANIFOLDS = {m.name: m for m in KNOWN}


def find(name):
    if name not in MANIFOLDS:
        raise NotFound(f"The manifold {name} was asked for.", "It is not here.", "Choose another.")
    return MANIFOLDS[name]


def make(adapter, reader=None, **options):
    options.setdefault("cache", ByteCache(2**26))
    return ImageSteerer(adapter, reader, manifolds=find, **options)


def ask(steps=3, arms=("off", "manifold", "chord"), **fields):
    steer = fields.pop("steer", [Steer(manifold="light", t=0.3, t_from=0.1, strength=fields.pop("strength", 1.0))])
    return ImageRequest(model="tiny", prompt=fields.pop("prompt", "a red cube on a table"), seed=fields.pop("seed", 7),
                        steps=steps, steer=steer, arms=list(arms), **fields)  # fmt: skip


def pixels(rendered):
    return {p.arm: p.pixels for p in rendered.pictures}


def counted(steerer):
    """Rows of each stage that a steerer moves from now on."""
    counts, inner = {}, steerer.stages

    def stages(rows):
        counts[rows[0].stage] = counts.get(rows[0].stage, 0) + len(rows)
        inner(rows)

    steerer.advance = stages
    return counts


@pytest.mark.parametrize(("steps", "guidance"), [(5, 1.0), (4, 4.0)])
def test_the_off_arm_is_the_pipelines_own_picture(base, steps, guidance):
    done = make(base).render(ask(steps, ["off"], steer=[], guidance=guidance))
    expected = base.pipeline(
        "a red cube on a table", num_inference_steps=steps, guidance_scale=guidance, output_type="np",
        generator=torch.Generator().manual_seed(7), height=16, width=16,
    ).images[0]  # fmt: skip
    gap = np.abs(done.pictures[0].pixels / 255 - expected)
    assert done.pictures[0].pixels.std() > 3 and gap.max() <= 1.6 / 255


def test_the_few_step_picture_is_that_of_diffusers_with_its_lcm_scheduler(adapter):
    from diffusers import LCMScheduler, StableDiffusionXLPipeline

    parts = dict(adapter.pipeline.components, unet=adapter.unet_lcm)
    parts["scheduler"] = LCMScheduler.from_config(adapter.scheduler.config)
    theirs = StableDiffusionXLPipeline(**parts, add_watermarker=False)
    theirs.set_progress_bar_config(disable=True)
    expected = theirs("a red cube on a table", num_inference_steps=4, guidance_scale=1.0, output_type="np", height=16,
                      width=16, generator=torch.Generator().manual_seed(7)).images[0]  # fmt: skip
    done = make(adapter).render(ask(4, ["off"], steer=[]))
    assert done.made["unet"] == "tiny-lcm" and done.made["sampler"] == "lcm"
    assert np.abs(done.pictures[0].pixels / 255 - expected).max() <= 1.6 / 255


def test_arms_differ_and_strength_zero_does_nothing(adapter):
    steerer = make(adapter)
    done = pixels(steerer.render(ask(arms=("off", "manifold", "chord", "chord_subspace", "random"))))
    for arm in ("manifold", "chord", "random"):
        assert np.abs(done[arm].astype(int) - done["off"]).max() > 3, arm
    assert not np.array_equal(done["manifold"], done["chord"])
    still = pixels(steerer.render(ask(strength=0.0)))
    assert np.abs(still["manifold"].astype(int) - done["off"]).max() <= 1


def test_a_second_request_pays_for_what_is_new_only(adapter):
    steerer = make(adapter, FakeReader())
    first = steerer.render(ask())
    counts = counted(steerer)
    again = steerer.render(ask())
    assert counts == {} and all(p.cached for p in again.pictures)
    moved = steerer.render(ask(steer=[Steer(manifold="light", t=0.7, t_from=0.1)]))
    assert counts == {"denoise": 6, "decode": 2, "read": 2}
    assert [p.cached for p in moved.pictures] == [True, False, False]
    for arm in ("off", "manifold", "chord"):
        assert np.array_equal(pixels(first)[arm], pixels(again)[arm])
    assert not np.array_equal(pixels(first)["manifold"], pixels(moved)["manifold"])


def test_latents_before_the_window_are_the_unsteered_runs(base):
    """Starting from the unsteered run at the first steered step equals running every step with the window closed."""
    steer = [Steer(manifold="light", t=0.3, t_from=0.1, window=(0.5, 1.0))]
    steerer = make(base)
    request = ask(5, ["manifold"], steer=steer, guidance=2.0)
    plan = steerer.plan(request)
    assert plan.start == 3
    counts = counted(steerer)
    found = steerer.render(request).pictures[0].pixels
    assert counts["denoise"] == 5 + 2
    # By hand, from noise, with the same intervention points and no reuse.
    row = next(r for r in plan.rows if r.arm == "manifold")
    row.plan.text, row.plan.negative = (base.encode_prompt([p]) for p in (request.prompt, ""))
    row.start = row.step = 0
    plan.off = object()
    while row.step < 5:
        steerer.stages([row])
    steerer.stages([row])
    assert np.abs((row.image.permute(1, 2, 0) * 255).round().numpy() - found).max() <= 1
    assert not np.array_equal(found, pixels(make(base).render(ask(5, ["off"], steer=[], guidance=2.0)))["off"])


def test_replay_is_bit_identical_whatever_the_company_and_the_cache(adapter):
    steerer, runner = make(adapter, FakeReader()), Scheduler()
    requests = [ask(seed=s, steer=[Steer(manifold="light", t=t)]) for s, t in ((7, 0.3), (7, 0.8), (9, 0.3))]
    works = []
    for request in requests:  # three users at once, the starts of their chords not yet known
        plan = steerer.plan(request)
        works.append(Work(steerer, plan.rows, finish=lambda w, plan=plan: steerer.finish(plan), user=len(works)))
        runner.submit(works[-1])
    while runner.turn() or runner.depth:
        pass
    for work in works:
        done = work.future.result()
        header, blobs = done.frame(seq=3)
        record = FrameHeader.model_validate_json(header.model_dump_json()).record
        fresh = make(adapter, FakeReader())
        again = fresh.replay(record)
        assert set(again) == {"off", "manifold", "chord"}
        for picture, blob in zip(done.pictures, blobs):
            assert np.array_equal(again[picture.arm], picture.pixels)
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(blob))), picture.pixels)
        once_more = fresh.render(ImageRequest.model_validate(record["request"])).record()
        assert once_more["expected"] == record["expected"]


def test_an_open_start_is_where_the_unsteered_picture_landed(adapter):
    done = make(adapter, FakeReader()).render(ask(steer=[Steer(manifold="light", t=0.3)]))
    off = next(p for p in done.pictures if p.arm == "off").read_back
    assert done.request.steer[0].t_from == pytest.approx(off.landed) and done.made["t_from"] == ["read-back"]
    assert off.factors["light_azimuth"] == pytest.approx(360 * off.landed, abs=1e-3)
    arm = next(p for p in done.pictures if p.arm == "manifold").read_back
    assert arm.error == pytest.approx(360 * min(abs(arm.landed - 0.3), 1 - abs(arm.landed - 0.3)))
    assert set(arm.moved) == {"hue", "size", "shape"} and arm.moved["hue"] == 0.0
    blind = make(adapter).render(ask(steer=[Steer(manifold="nameless", t=0.3)]))
    assert blind.request.steer[0].t_from == 0.0 and "nothing reads it" in blind.made["t_from"][0]


def test_curves_by_time_bin_and_two_manifolds_at_once(adapter):
    steerer = make(adapter)
    both = [Steer(manifold="light", t=0.3, t_from=0.0, sites=["mid.0"]), Steer(manifold="binned", t=0.6, t_from=0.0)]
    one, two = pixels(steerer.render(ask(steer=both[:1]))), pixels(steerer.render(ask(steer=both)))
    assert not np.array_equal(one["manifold"], two["manifold"]) and np.array_equal(one["off"], two["off"])
    row = next(r for r in steerer.plan(ask(steer=both, seed=8)).rows if r.arm == "manifold")
    first = row.moves()
    assert [item.site for item in first] == ["tiny-lcm/mid.0#update", *(s.replace("tiny/", "tiny-lcm/") for s in SITES)]
    row.step = 2
    later = row.moves()
    assert torch.equal(first[0].lo, later[0].lo) and torch.allclose(first[1].lo, 2 * later[1].lo)


def test_guidance_steers_both_halves(adapter):
    done = pixels(make(adapter).render(ask(3, ["off", "manifold"], guidance=3.0)))
    plain = pixels(make(adapter).render(ask(3, ["off", "manifold"], guidance=1.5)))
    empty = pixels(make(adapter).render(ask(3, ["off"], steer=[], guidance=3.0, prompt="")))
    assert not np.array_equal(empty["off"], done["off"])
    assert np.abs(done["manifold"].astype(int) - done["off"]).max() > 3
    assert not np.array_equal(done["manifold"], plain["manifold"])


def test_nothing_is_left_installed(adapter):
    steerer = make(adapter)
    before = pixels(steerer.render(ask(3, ["off"], steer=[], seed=5)))
    steerer.render(ask(seed=5))
    points = install(adapter, SITES)
    assert not any(point.busy for point in points.points.values())
    assert np.array_equal(pixels(make(adapter).render(ask(3, ["off"], steer=[], seed=5)))["off"], before["off"])


def test_filmstrip(adapter):
    steerer = make(adapter, FakeReader())
    light = [Steer(manifold="light", t=0.9)]
    request = FilmstripRequest(model="tiny", prompt="a red cube", steps=2, stops=6, steer=light)
    plan = plan_filmstrip(steerer, request)
    assert [row.t for row in plan.shown] == stops_of("ring", 6) and len(plan.rows) == 7
    assert {row.group for row in plan.shown} == {1, 2}
    while not all(r.done for r in plan.rows):
        ready = [r for r in plan.rows if not r.done and r.batch_key is not None]
        steerer.advance([r for r in ready if r.batch_key == ready[0].batch_key])
    strip = steerer.finish(plan)
    header, blobs = strip.frame()
    assert len(blobs) == 6 and all(a.read_back.error is not None for a in header.arms)
    assert len({p.digest() for p in strip.pictures}) == 6
    again = make(adapter, FakeReader()).replay(header.record)
    assert [np.array_equal(again[str(i)], p.pixels) for i, p in enumerate(strip.pictures)] == [True] * 6
    assert stops_of("line", 3) == [0.0, 0.5, 1.0]
    with pytest.raises(Invalid, match="names no manifold"):
        plan_filmstrip(steerer, request.model_copy(update={"steer": []}))


def test_previews_say_so(adapter):
    done = make(adapter).render(ask(20, ["off"], steer=[], preview=True))
    header, _ = done.frame()
    assert header.preview and header.steps == 8 and header.record["request"]["steps"] == 8
    assert not make(adapter).render(ask(4, ["off"], steer=[], preview=True)).preview


def test_refusals_come_before_anything_is_queued(adapter):
    steerer = make(adapter)
    for request, error, words in (
        (ask().model_copy(update={"model": "other"}), NotFound, "This is tiny"),
        (ask(steer=[Steer(manifold="nothing", t=0)]), NotFound, "nothing"),
        (ask(steer=[Steer(manifold="foreign", t=0)]), Refused, "fitted in other"),
        (ask(4, steer=[Steer(manifold="light", t=0, window=(0.8, 1.0))]), Invalid, "None of the 4 steps"),
        (ask(4, steer=[Steer(manifold="light", t=0, sites=["tiny/down.1.0"])]), NotFound, "It is known at"),
        (ask(4, steer=[Steer(manifold="light", t=0, sites=[])]), NotFound, "no site at all"),
    ):
        with pytest.raises(error, match=words):
            steerer.plan(request)
    with pytest.raises(Invalid, match="record"):
        steerer.replay({"kind": "text"})


def test_a_site_without_a_module_is_refused_when_it_runs(adapter, monkeypatch):
    monkeypatch.setitem(MANIFOLDS, "lost", make_manifold("lost", sites=("tiny/down.7.0#update",)))
    with pytest.raises(Refused, match="no module there"):
        make(adapter).render(ask(steer=[Steer(manifold="lost", t=0.1, t_from=0.0)]))


def test_numbers_out_of_range_are_refused(adapter, monkeypatch):
    monkeypatch.setitem(MANIFOLDS, "huge", make_manifold("huge", size=1e38))
    with pytest.raises(Refused, match="range of numbers"):
        make(adapter).render(ask(arms=["manifold"], steer=[Steer(manifold="huge", t=0.1, strength=4.0)]))


def test_together_shares_calls_between_requests_apart_does_not(adapter):
    sizes = {}
    for batching in (None, Together()):
        steerer, runner = make(adapter, batching=batching), Scheduler()
        inner, seen = steerer.stages, []

        def stages(rows, inner=inner, seen=seen):
            seen.append((rows[0].stage, len(rows)))
            inner(rows)

        steerer.advance = stages
        for seed in (1, 2):
            plan = steerer.plan(ask(seed=seed))
            runner.submit(Work(steerer, plan.rows, finish=lambda w: None, user=seed))
        while runner.turn() or runner.depth:
            pass
        sizes[steerer.batching.name] = max(n for stage, n in seen if stage == "denoise")
    assert sizes == {"apart": 2, "together": 6}


def test_noise_is_that_of_one_generator(adapter):
    steerer = make(adapter)
    row = steerer.plan(ask(3, seed=4)).rows[0]
    assert torch.equal(steerer.stages.noise(row), sampler.draws(4, 3, adapter.latent_shape))
