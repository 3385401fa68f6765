"""Training goes on bit for bit after it was killed; devices that train together keep the same weights."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from backend.activations.store import ActivationStore
from backend.featurizers.featurizer import VARIANTS, Featurizer
from backend.featurizers.trainer import Run, Training
from backend.recipes import loop

STEPS = 60
PLAN = Training(steps=STEPS, batch=32, lr=5e-3, warmup=5, denoise=0.1, log_every=7)


def store_at(folder: Path) -> ActivationStore:
    with ActivationStore.create(folder, site="m/1#update", revision="r", rows_per_shard=70) as store:
        store.write(torch.randn(200, 12, generator=torch.Generator().manual_seed(0)) * torch.linspace(1, 3, 12))
    return store


def made(variant: str, store: ActivationStore, device: str = "cpu") -> Run:
    model = Featurizer.of_variant(variant)(
        12, 16, d_block=2, k=3, aux="none" if variant == "group_lasso" else "dead",
        generator=torch.Generator().manual_seed(1),
    )  # fmt: skip
    model.fit_centring(shard.x for shard in store.shards())
    # Some blocks count as dead from the start, so that the auxiliary loss and its counters are at work.
    model.idle[::5] = 10_000
    return Run(model, store, training=PLAN, device=device)


def train(name: str, variant: str, folder: Path, *, save_every: float = 60.0, slow_from: int = STEPS) -> Run:
    run = made(variant, ActivationStore(folder))

    def step(i: int) -> dict[str, float]:
        # From here on whoever is to kill this process has time for it, however busy the machine is.
        threading.Event().wait(0.5 if i > slow_from else 0.0)
        return run.step(i)

    loop.run(name, STEPS, modules=run.modules, optimizer=run.optimizer, step=step, save_every=save_every)
    return run


def state_of(run: Run) -> dict[str, torch.Tensor]:
    state = {f"model.{k}": v for k, v in run.featurizer.state_dict().items()}
    for i, p in enumerate(run.optimizer.param_groups[0]["params"]):
        state |= {f"adam.{i}.{k}": v for k, v in run.optimizer.state[p].items()}
    return state


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_state_is_in_the_checkpoint(variant, tmp_path, home):
    """Interrupted between two checkpoints and started in fresh objects, every number is that of a whole run."""
    store_at(tmp_path / "s")
    whole = train("whole", variant, tmp_path / "s")
    run = made(variant, ActivationStore(tmp_path / "s"))

    def until(i: int) -> dict[str, float]:
        if i == 37:
            raise KeyboardInterrupt
        return run.step(i)

    # A checkpoint after every step; the 37th step was begun and never saved.
    with pytest.raises(KeyboardInterrupt):
        loop.run("cut", STEPS, modules=run.modules, optimizer=run.optimizer, step=until, save_every=0.0)
    assert_same(state_of(train("cut", variant, tmp_path / "s")), state_of(whole))


def test_killed_at_a_random_step(tmp_path, home):
    store_at(tmp_path / "s")
    # Some step, and some moment after it, that nobody chose.
    least, moment = random.randrange(1, STEPS // 2), random.random() * 0.5
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import test_resume as t; "
        "t.train('killed', 'jump_relu', Path(sys.argv[2]), save_every=0.0, slow_from=int(sys.argv[3]))"
    )
    asked = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / "s"), str(least)]
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "PYTHONPATH": str(root)}
    child = subprocess.Popen(asked, env=env, cwd=root, stderr=subprocess.DEVNULL)
    state, watch = home / "training" / "killed" / "state.json", threading.Event()
    while child.poll() is None and not (state.exists() and json.loads(state.read_text())["step"] >= least):
        watch.wait(0.01)
    watch.wait(moment)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "the child was to be killed while it trained"
    assert least <= json.loads(state.read_text())["step"] < STEPS
    resumed = state_of(train("killed", "jump_relu", tmp_path / "s"))
    assert_same(resumed, state_of(train("whole", "jump_relu", tmp_path / "s")))


def test_the_log_says_how_good_and_how_fast(tmp_path):
    store = store_at(tmp_path / "s")
    run = made("vanilla", store)
    logs = [dict(run.step(i)) for i in range(PLAN.steps)]
    assert set(logs[0]) == {"mse", "r2", "active", "dead", "tokens_per_s"}
    assert logs[-1]["r2"] > logs[0]["r2"] and logs[-1]["active"] == 3 and logs[-1]["tokens_per_s"] > 0
    assert logs[1] == logs[6] != logs[7], "renewed every log_every steps, and at the last"
    assert logs[-1] != logs[-2]
    model = run.finish()
    assert not model.training and model.ranking is None


class Pair:
    """Two processes that train together, as threads that meet at every reduction."""

    def __init__(self) -> None:
        self.barrier, self.sums = threading.Barrier(2), [None, None]

    def member(self, index: int):
        pair = self

        class Member:
            process_index, num_processes, device = index, 2, torch.device("cpu")

            def reduce(self, value, reduction):
                assert reduction == "mean"
                pair.sums[index] = value.clone()
                pair.barrier.wait()
                mean = (pair.sums[0] + pair.sums[1]) / 2
                pair.barrier.wait()
                return mean

        return Member()


@pytest.mark.parametrize("variant", ["grassmannian", "jump_relu"])
def test_two_devices_train_as_one(variant, tmp_path):
    store = store_at(tmp_path / "s")
    pair, models = Pair(), [None, None, None]

    def work(place: int, accelerator) -> None:
        run = made(variant, ActivationStore(tmp_path / "s"))
        run = Run(run.featurizer, store, training=PLAN, device="cpu", accelerator=accelerator)
        for i in range(8):
            run.step(i)
        models[place] = run.featurizer

    threads = [threading.Thread(target=work, args=(i, pair.member(i))) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    work(2, None)
    a, b, alone = (m.state_dict() for m in models)
    assert [k for k in a if not torch.equal(a[k], b[k])] == [], "the same on both, counters and averages included"
    if variant == "grassmannian":
        # What one device does with the whole batch, up to rounding.
        assert float((a["frame"] - alone["frame"]).abs().mean()) < 1e-4
        assert torch.equal(a["idle"], alone["idle"])
