"""A server with tiny random models, manifolds and a featurizer on disk; no socket, no shipped asset."""

from __future__ import annotations

import contextlib
import math
import time

import httpx
import numpy as np
import pytest
import torch

from backend.server.app import create_app
from backend.server.state import AtlasState

IMAGE_SITES = ("tiny/mid.0#update", "tiny/up.0.1#update")
TEXT_SITE = "tiny-llama/1#resid_post"


class FakeReader:
    """Reads an azimuth off the mean brightness."""

    def read(self, images):
        angle = (images.mean((1, 2, 3)) * 20) % (2 * math.pi)
        return {"shape": torch.zeros(len(images), dtype=torch.long), "light_azimuth": angle, "hue": angle * 0 + 1.0}


def image_adapter():
    from diffusers import UNet2DConditionModel

    from backend.models.diffusion import ImageAdapter
    from backend.models.random_weights import sdxl_unet_config, tiny_sdxl

    widths = (32, 32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        few = UNet2DConditionModel(**sdxl_unet_config(widths, sample_size=8, d_text=64, d_pooled=32)).eval()
    pipeline = tiny_sdxl(widths=widths, vae_widths=(32, 32), d_text=32, sample_size=8)
    return ImageAdapter(pipeline, name="tiny", unet_lcm=few)


def text_adapter():
    from transformers import LlamaConfig, LlamaForCausalLM

    from backend.models.language import TextAdapter
    from backend.worlds.calendar_tokens import build_tokenizer

    tokenizer = build_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=4, max_position_embeddings=96, initializer_range=0.2, pad_token_id=0, bos_token_id=1,
            eos_token_id=2,
        )  # fmt: skip
        model = LlamaForCausalLM(config).eval().requires_grad_(False)
    model.set_attn_implementation("eager")
    return TextAdapter(model, tokenizer, name="tiny-llama")


def write_manifolds(folder):
    from backend.manifolds.site_entry import SiteEntry
    from backend.manifolds.steerable import SteerableManifold
    from backend.manifolds.store import save_manifold
    from backend.wire.capabilities import ManifoldInfo, Tick
    from backend.worlds.calendar import TASKS

    generator = torch.Generator().manual_seed(1)
    angle = torch.arange(7) / 7 * 2 * math.pi
    circle = torch.stack([angle.cos(), angle.sin()], 1)

    def ring(name, model, sites, size, **info):
        frames = [torch.linalg.qr(torch.randn(32, 2, generator=generator)).Q for _ in sites]
        entries = {s: SiteEntry(f, angle / (2 * math.pi), size * circle) for s, f in zip(sites, frames)}
        about = ManifoldInfo(name=name, title=name, model=model, kind="ring", sites=list(sites), **info)
        save_manifold(SteerableManifold(about, entries), folder / name)

    days = TASKS["weekdays"].classes
    ring("light", "tiny", IMAGE_SITES, 6.0, unit="°", factor="light_azimuth", prompts=["a red cube on a table"])
    ring("days", "tiny-llama", [TEXT_SITE], 3.0, ticks=[Tick(t=i / 7, label=d) for i, d in enumerate(days)],
         prompts=["Two days after Monday is"])  # fmt: skip
    (folder / "broken").mkdir()
    (folder / "broken" / "manifold.json").write_text("{ this is no json")


def write_featurizer(folder):
    from backend.featurizers import statistics
    from backend.featurizers.browse import BlockShape, Data, Layout, build_browse
    from backend.featurizers.grassmannian import Grassmannian

    generator = torch.Generator().manual_seed(0)
    n = 120
    hue = 2 * torch.pi * torch.rand(n, generator=generator)
    model = Grassmannian(16, 4, d_block=3, k=1, generator=generator)
    x = 0.05 * torch.randn(n, 4, 16, generator=generator)
    x[:, 2] += torch.stack([hue.cos(), hue.sin(), 0 * hue], 1) @ model.frame[0].detach()
    images = np.zeros((n, 24, 24, 3), np.uint8)
    model.fit_centring(x)
    model.initialise(model.normalise(x).flatten(0, 1))
    model.info = {"model": "tiny", "site": IMAGE_SITES[0], "r2": 0.71}
    model.save_pretrained(folder)
    patch = pytest.MonkeyPatch()
    patch.setattr(statistics, "block_map", lambda overlap, seed=0: np.zeros((len(overlap), 2)))
    build_browse(model, Data(x, images, {"hue": hue.numpy()}, cyclic=("hue",)), folder,
                 shape_of=lambda block, code, rows: BlockShape("none", 0.4),
                 layout=Layout(n_bins=4, n_cloud=30, n_pool=50, thumbnail=16, min_fired=10))  # fmt: skip
    patch.undo()


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A busy machine may take a minute to import the model libraries for the first time."""
    monkeypatch.setenv("ATLAS_LOAD_WAIT", "240")


@contextlib.contextmanager
def serving(**options):
    """A started state and its app."""
    state = AtlasState(**options).start()
    try:
        yield state, create_app(state)
    finally:
        state.close()


def client_of(app):
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://atlas.test", timeout=300)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """``(state, app)`` with an image model, a language model, manifolds (one broken) and featurizers (one broken)."""
    home, assets = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("assets")
    patch = pytest.MonkeyPatch()
    patch.setenv("ATLAS_HOME", str(home))
    patch.setenv("ATLAS_ASSETS", str(assets))
    write_manifolds(home / "manifolds")
    write_featurizer(home / "featurizers" / "planted")
    (home / "featurizers" / "torn").mkdir()
    (home / "featurizers" / "torn" / "cfg.json").write_text('{"architecture": "bsf-grassmannian"}')

    def load(name):
        return {"tiny": image_adapter, "tiny-llama": text_adapter}[name]()

    with serving(load=load, available=lambda: ["tiny", "tiny-llama"], reader=lambda adapter: FakeReader()) as both:
        while both[0].models.busy:
            time.sleep(0.05)
        assert not both[0].models.failed(), both[0].models.failed()
        yield both
    patch.undo()


@pytest.fixture
async def client(server):
    async with client_of(server[1]) as http:
        yield http
