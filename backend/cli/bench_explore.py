"""``bench explore``: how long the map of thousands of blocks and the page of one block take to open.

A featurizer of random frames reads planted rows: every picture has a light azimuth, a hue and a size; at each position
k of its blocks are active, with codes on a ring (of an angle), along a line (of the size) or around a point. What is
written goes through the real ``build_browse``, and the real server answers. Only the topology of each block is the
planted one and the map stands by spectral coordinates: to decide four thousand clouds, and UMAP of as many points, take
longer than the bench. A second one of 64 blocks reads 102,400 positions, at each of which its block 0 is active: the
largest cloud. Both are kept under ``ATLAS_HOME/bench``.

Reported are ms at the server (median and 90th percentile of ``n`` requests, the first one apart: it reads the files)
and, where a Chromium and playwright are installed, ms in the browser from the click to the painted picture.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from backend.core.settings import atlas_home

NAME, CLOUD = "bench-explore", "bench-cloud"
KINDS = ("ring", "line", "point")


@dataclass(frozen=True)
class Setting:
    """Size of the planted featurizer."""

    name: str = NAME
    n_blocks: int = 4096
    d_block: int = 3
    k: int = 16
    d: int = 32
    n_pictures: int = 48
    positions: int = 64
    seed: int = 0

    @property
    def dense(self) -> Setting:
        """Few blocks on many positions."""
        return replace(self, name=CLOUD, n_blocks=64, n_pictures=400, positions=256, k=min(self.k, 16))


def plant(setting: Setting) -> tuple[Any, Any, np.ndarray]:
    """Featurizer, its ``Data`` and the kind of every block ``(G,)``: place in ``KINDS``."""
    import torch

    from backend.featurizers.browse import Data
    from backend.featurizers.grassmannian import Grassmannian

    s, generator = setting, torch.Generator().manual_seed(setting.seed)
    rng = np.random.default_rng(s.seed)
    factors = {"light_azimuth": rng.uniform(0, 2 * np.pi, s.n_pictures), "hue": rng.uniform(0, 2 * np.pi, s.n_pictures),
               "size": rng.uniform(0, 1, s.n_pictures)}  # fmt: skip
    featurizer = Grassmannian(s.d, s.n_blocks, d_block=s.d_block, k=s.k, generator=generator)
    frames = featurizer.frames().detach()
    kind = rng.integers(0, 3, s.n_blocks)
    kind[0] = 0
    # Blocks live in neighbourhoods, so that their co-activation has a shape: pictures choose a few of them.
    home = np.sort(rng.integers(0, max(2, s.n_blocks // 48), s.n_blocks))
    members = [np.flatnonzero(home == h) for h in range(home.max() + 1)]
    members = [m for m in members if len(m)]
    x = torch.empty(s.n_pictures, s.positions, s.d)
    for i in range(s.n_pictures):
        groups = rng.integers(0, len(members), 3)
        near = np.concatenate([members[g] for g in groups])
        picked = rng.choice(near, (s.positions, s.k - 1))
        block = torch.from_numpy(np.concatenate([np.zeros((s.positions, 1), int), picked], 1))
        code = _codes(block.numpy(), kind, {k: v[i] for k, v in factors.items()}, s.d_block, rng)
        # (T, k, b) · (T, k, b, d)
        x[i] = torch.einsum("tkb,tkbd->td", torch.from_numpy(code).float(), frames[block])
    x += 0.02 * torch.randn(x.shape, generator=generator)
    # Smooth pictures of the planted hue and light, enough to be told apart as thumbnails.
    side = np.linspace(-1, 1, 48)
    across, down = np.meshgrid(side, side)
    images = np.zeros((s.n_pictures, 48, 48, 3), np.uint8)
    for i in range(s.n_pictures):
        light, hue = factors["light_azimuth"][i], factors["hue"][i]
        lit = 0.55 + 0.4 * (across * np.cos(light) - down * np.sin(light))
        tint = 0.5 + 0.5 * np.cos(hue - np.array([0, 2.1, 4.2]))
        inside = (across**2 + down**2 < 0.25 + 0.6 * factors["size"][i])[..., None]
        images[i] = (255 * (np.where(inside, tint, 0.86) * lit[..., None]).clip(0, 1)).astype(np.uint8)
    featurizer.fit_centring(x)
    featurizer.initialise(featurizer.normalise(x[:64]).flatten(0, 1))
    featurizer.info = {"name": s.name, "title": f"Planted, {s.n_blocks:,} blocks of {s.d_block}", "model": "planted",
                       "site": "planted/0#resid_post", "r2": 0.0,
                       "description": "Random frames and planted rows: made to measure the pages."}  # fmt: skip
    return featurizer, Data(x, images, factors, cyclic=("light_azimuth", "hue")), kind


def _codes(block: np.ndarray, kind: np.ndarray, known: dict[str, float], width: int,
           rng: np.random.Generator) -> np.ndarray:  # fmt: skip
    shape = block.shape
    angle = np.where(block % 2, known["hue"], known["light_azimuth"])
    # Light is read at every position with its own error; a cloud of one value a picture would be a few hundred dots.
    angle = angle * (1 + block % 3) + rng.normal(0, 0.25, shape) + block
    code = rng.normal(0, 0.12, (*shape, width))
    of = kind[block]
    code[..., 0] += np.where(of == 0, np.cos(angle), np.where(of == 1, 2 * known["size"] - 1, 0.9))
    if width > 1:
        code[..., 1] += np.where(of == 0, np.sin(angle), np.where(of == 1, 0.7, 0.5))
    code *= rng.gamma(8, 1 / 8, (*shape, 1))
    code[block == 0] *= 2.5
    return code


def folder_of(setting: Setting) -> Path:
    """The home that holds the planted featurizer, apart from the user's own."""
    return atlas_home() / "bench" / f"explore-{setting.n_blocks}x{setting.d_block}-{setting.seed}"


def make_both(setting: Setting, *, say: Callable[[str], None] = lambda _: None) -> Path:
    """Write the featurizer of many blocks and that of many positions; returns the home that holds both."""
    home = folder_of(setting)
    for one in (setting, setting.dense):
        make(one, home, say=say)
    return home


def make(setting: Setting, home: Path, *, say: Callable[[str], None] = lambda _: None) -> Path:
    """Write the planted atlas into ``home`` where it is not there yet; returns its folder."""
    from backend.featurizers import block_graph
    from backend.featurizers.browse import BlockShape, Layout, build_browse

    folder = home / "featurizers" / setting.name
    mark = folder / "setting.json"
    if mark.exists() and json.loads(mark.read_text()) == asdict(setting):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    say("planting rows")
    featurizer, data, kind = plant(setting)

    def shape_of(block: int, code: np.ndarray, _rows: np.ndarray) -> BlockShape:
        if kind[block] or not np.ptp(code[:, :2], axis=0).all():
            return BlockShape(KINDS[kind[block]])
        return BlockShape("ring", 0.1, lambda z: np.arctan2(z[:, 1], z[:, 0]) / (2 * np.pi) % 1.0, "It was planted.")

    layout = Layout(n_cloud=200_000, n_pool=min(1200, setting.n_pictures), n_rows=256, min_fired=3)
    place = partial(block_graph.principal_map, seed=setting.seed)
    build_browse(featurizer, data, folder, shape_of=shape_of, layout=layout, seed=setting.seed, place_of=place,
                 progress=lambda share, words: say(f"atlas {100 * share:.0f} %: {words}"))  # fmt: skip
    featurizer.save_pretrained(folder)
    mark.write_text(json.dumps(asdict(setting)))
    return folder


def measure_server(base: str, *, n: int = 20) -> dict[str, dict[str, float]]:
    """Median, 90th percentile and first ms, and bytes, of each request that the pages make."""
    import httpx

    from backend.wire.blocks import BlockList

    root = f"/v1/featurizers/{NAME}/blocks"
    out = {}
    with httpx.Client(base_url=base, timeout=600.0, trust_env=False) as client:
        def ask(path: str, **params: int) -> tuple[float, bytes]:
            began = time.perf_counter()
            answer = client.get(path, params=params).raise_for_status()
            return 1e3 * (time.perf_counter() - began), answer.content

        first, body = ask(root)
        listed = [b.index for b in BlockList.model_validate_json(body).blocks]
        asked = [listed[(7 + i * 37) % len(listed)] for i in range(n)]
        large = (f"/v1/featurizers/{CLOUD}/blocks/0/cloud", {"n": 100_000})
        rows = {"map": [(root, {})] * n, "block": [(f"{root}/{b}", {}) for b in asked],
                "cloud": [(f"{root}/{b}/cloud", {}) for b in asked], "largest cloud": [large] * max(2, n // 4)}
        for name, paths in rows.items():
            took = [ask(path, **params) for path, params in paths]
            ms = [t for t, _ in took]
            out[name] = {"median": float(np.median(ms)), "p90": float(np.quantile(ms, 0.9)), "first": ms[0],
                         "bytes": float(np.median([len(b) for _, b in took]))}  # fmt: skip
        out["map"]["first"] = first
        out["map"]["blocks"] = float(len(listed))
    return out


def measure_browser(app: str, *, n: int = 8, pictures: Path | None = None, size: tuple[int, int] = (1440, 1000),
                    dark: bool = False) -> dict[str, dict[str, float]]:  # fmt: skip
    """Ms in Chromium to open the map, a block, and the largest cloud, and a frame while that is turned.

    Raises ``ImportError`` without playwright. ``pictures`` is a folder for a screenshot of each state.
    """
    from playwright.sync_api import sync_playwright

    where = next((p for p in ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
                  if Path(p).exists()), None)  # fmt: skip
    out: dict[str, dict[str, float]] = {}
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=where, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(viewport={"width": size[0], "height": size[1]})
        if dark:
            context.add_cookies([{"name": "atlas-theme", "value": "dark", "url": app}])
        page = context.new_page()
        page.set_default_timeout(120_000)

        def shoot(name: str, *, full: bool = True) -> None:
            if pictures is not None:
                pictures.mkdir(parents=True, exist_ok=True)
                page.screenshot(path=str(pictures / f"{name}.png"), full_page=full)

        began = time.perf_counter()
        page.goto(f"{app}/explore?featurizer={NAME}&map=graph", wait_until="domcontentloaded")
        _until(page, ".map", "el.dataset.points > 100 && el.dataset.drawn > 0")
        out["open the page, to the map"] = {"median": 1e3 * (time.perf_counter() - began)}
        _until(page, ".space", "el.dataset.key")
        out["open the page, to the block"] = {"median": 1e3 * (time.perf_counter() - began)}
        page.wait_for_timeout(1500)
        shoot("map-and-block")
        took = []
        page.locator(".map canvas").focus()
        for i in range(n):
            page.keyboard.press(("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp")[i % 4])
            page.wait_for_timeout(400)
            took.append(_opened(page, "Enter"))
        out["a key on the map, to the block"] = {
            "median": float(np.nanmedian(took)), "p90": float(np.nanquantile(took, 0.9)),
        }  # fmt: skip
        def redraw(name: str, selector: str) -> None:
            ms = page.locator(selector).first.evaluate(_DRAG)
            out[name] = {"median": float(np.median(ms)), "p90": float(np.quantile(ms, 0.9))}

        redraw("redraw of the map", ".map")
        page.goto(f"{app}/explore?featurizer={CLOUD}&query=0&block=5&colour=direction", wait_until="domcontentloaded")
        _until(page, ".space", "el.dataset.key")
        page.wait_for_timeout(1500)
        page.locator(".picks button").first.focus()
        out["a key in the list, to the largest cloud"] = {"median": _opened(page, "Enter")}
        page.wait_for_timeout(500)
        shoot("largest-cloud")
        redraw("redraw of the largest cloud", ".space")
        browser.close()
    return out


_DRAG = """async (el) => {
  const took = [], canvas = el.querySelector("canvas"), box = canvas.getBoundingClientRect();
  const fire = (type, x, y) => canvas.dispatchEvent(new PointerEvent(type, {
    pointerId: 1, bubbles: true, clientX: box.left + x, clientY: box.top + y }));
  const frame = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  canvas.setPointerCapture = () => {};
  fire("pointerdown", 100, 100);
  for (let i = 0; i < 40; i++) {
    fire("pointermove", 100 + 3 * i, 100 + 2 * i);
    await frame();
    took.push(Number(el.dataset.ms));
  }
  fire("pointerup", 220, 180);
  return took.slice(5);
}"""
"""Drags across a canvas and returns the ms of each redraw, which the component itself measures."""


def _until(page: Any, selector: str, test: str) -> None:
    """Wait until the first element behind whatever shadow roots passes ``test``."""
    found = page.locator(selector).first
    found.wait_for(state="visible")
    page.wait_for_function(f"(el) => {test}", arg=found.element_handle())


def _opened(page: Any, key: str) -> float:
    """Ms from a key until the cloud of another block is painted; NaN where it stayed the same for ten seconds."""
    space = page.locator(".space").first
    space.evaluate("""(el) => {
      const before = el.dataset.key;
      window.atlasTook = new Promise((done) => document.addEventListener("keydown", () => {
        const began = performance.now();
        const look = () => {
          const now = performance.now() - began;
          if (el.dataset.key !== before) requestAnimationFrame(() => done(performance.now() - began));
          else if (now > 10000) done(NaN);
          else requestAnimationFrame(look);
        };
        look();
      }, { once: true, capture: true }));
    }""")
    page.keyboard.press(key)
    return float(page.evaluate("window.atlasTook"))


def report(found: dict[str, Any]) -> Table:
    """The numbers as a table, ms."""
    table = Table("where", "what", "median ms", "p90 ms", "first ms", "kB", title=f"{found['blocks']:,} blocks")
    for where in ("server", "browser"):
        for what, row in (found.get(where) or {}).items():
            told = [f"{row[key] / scale:.1f}" if key in row else "" for key, scale in
                    (("median", 1), ("p90", 1), ("first", 1), ("bytes", 1024))]  # fmt: skip
            table.add_row(where, what, *told)
    return table


def run(setting: Setting, *, n: int = 20, browser: bool = True, pictures: Path | None = None,
        say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:  # fmt: skip
    """Make the atlas, start a backend (and an app) on free ports, and measure; ``browser`` is skipped without one."""
    from backend.cli.processes import app_child, backend_child, free_port, wait_ready

    home = make_both(setting, say=say)
    ports, env = (free_port(), free_port()), {"ATLAS_HOME": str(home), "ATLAS_ASSETS": str(home)}
    backend, app = backend_child(ports[0]), app_child(ports[1], ports[0])
    backend.env |= env
    found: dict[str, Any] = {"setting": asdict(setting), "cpus": os.cpu_count()}
    try:
        wait_ready([backend.start()], timeout=300, say=say)
        say("asking the server")
        found["server"] = measure_server(f"http://127.0.0.1:{ports[0]}", n=n)
        found["blocks"] = int(found["server"]["map"].pop("blocks"))
        if browser:
            try:
                import playwright  # noqa: F401

                wait_ready([app.start()], timeout=300, say=say)
                say("asking the browser")
                found["browser"] = measure_browser(f"http://127.0.0.1:{ports[1]}", n=max(4, n // 2), pictures=pictures)
            except ImportError:
                found["browser"] = None
                say("playwright is not installed: pip install playwright")
    finally:
        app.stop()
        backend.stop()
    return found
