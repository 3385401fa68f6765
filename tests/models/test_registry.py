"""The registry reads folders with the libraries' own loaders, and says what there is when a name is wrong."""

import json

import pytest
import torch

from backend.core.errors import Corrupt, NotFound
from backend.models.random_weights import tiny_dino, tiny_llama, tiny_sdxl
from backend.models.registry import available, load, revision_of


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    root = tmp_path_factory.mktemp("assets") / "models"
    pipeline = tiny_sdxl()
    pipeline.save_pretrained(root / "tiny-image")
    tiny_sdxl(seed=1).unet.save_pretrained(root / "tiny-image-lcm")
    tiny_llama().save_pretrained(root / "tiny-text")
    pipeline.tokenizer.save_pretrained(root / "tiny-text")
    tiny_dino().save_pretrained(root / "tiny-vision")
    (root / "notes").mkdir()
    return root


@pytest.fixture(autouse=True)
def places(collection, tmp_path, monkeypatch):
    monkeypatch.setenv("ATLAS_ASSETS", str(collection.parent))
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_what_is_on_disk_is_listed():
    assert available() == ["tiny-image", "tiny-image-lcm", "tiny-text", "tiny-vision"]


def test_a_pipeline_comes_with_its_few_step_unet(collection):
    adapter = load("tiny-image", device="cpu")
    assert adapter.kind == "image" and adapter.name == "tiny-image"
    assert list(adapter.models) == ["tiny-image", "tiny-image-lcm"]
    reference = tiny_sdxl(seed=1).unet.state_dict()
    assert all(torch.equal(value, reference[key]) for key, value in adapter.unet_lcm.state_dict().items())
    assert not adapter.unet.training and not any(p.requires_grad for p in adapter.unet.parameters())
    assert load("tiny-image-lcm", device="cpu").name == "tiny-image"
    assert adapter.encode_prompt(["a red cube"])[0].shape == (1, 24, 64)


def test_text_and_vision_and_a_folder(collection):
    text = load("tiny-text", device="cpu", dtype=torch.bfloat16)
    assert text.kind == "text" and text.dtype == torch.bfloat16 and len(text.tokenizer("a red cube").input_ids) == 5
    vision = load(str(collection / "tiny-vision"), device="cpu")
    assert vision.kind == "vision" and vision.name == "tiny-vision"
    assert vision.model(torch.zeros(1, 3, 32, 32)).last_hidden_state.shape == (1, 21, 32)


def test_a_curve_network_is_found_by_its_own_class(collection, tmp_path):
    from backend.models.inception import CurveInception, CurveInceptionConfig

    CurveInception(CurveInceptionConfig()).save_pretrained(tmp_path / "models" / "my-curves")
    assert "my-curves" in available()
    adapter = load("my-curves", device="cpu")
    assert adapter.kind == "vision" and isinstance(adapter.model, CurveInception)


@pytest.mark.parametrize("name", ["no-such-model", "nobody/no-such-model", "./nothing"])
def test_a_wrong_name_lists_the_right_ones(name):
    with pytest.raises(NotFound) as error:
        load(name, device="cpu")
    assert name in error.value.asked and "tiny-text" in error.value.todo


def test_a_broken_folder_is_named(collection, tmp_path):
    folder = tmp_path / "models" / "broken"
    tiny_llama().save_pretrained(folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(Corrupt, match="broken"):
        load("broken", device="cpu")
    (folder / "config.json").write_text("{")
    with pytest.raises(Corrupt, match="broken"):
        load("broken", device="cpu")


def test_remote_code_is_never_run(tmp_path):
    folder = tmp_path / "models" / "stranger"
    folder.mkdir(parents=True)
    (folder / "evil.py").write_text("raise SystemExit('remote code ran')")
    config = {"model_type": "stranger", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(Corrupt, match="stranger"):
        load("stranger", device="cpu")


def test_the_revision_is_that_of_the_files(collection, tmp_path):
    import shutil

    copy = shutil.copytree(collection / "tiny-text", tmp_path / "elsewhere")
    assert revision_of(copy) == revision_of(collection / "tiny-text") == load(str(copy), device="cpu").revision
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "rope_theta": 7.0}))
    assert revision_of(copy) != revision_of(collection / "tiny-text")


def test_a_real_checkpoint_is_steered_through_the_librarys_own_generation():
    """Llama weights trained by others: idle points leave generation as it was, an active one changes it."""
    from backend.activations.point_set import install
    from backend.core.settings import realdata_dir
    from backend.steering.intervention import Intervention

    folder = realdata_dir()
    if folder is None or not (folder / "stories260k").is_dir():
        pytest.skip("the real checkpoint is not beside this checkout")
    adapter = load(str(folder / "stories260k"), device="cpu")
    ids = adapter.tokenizer("Once upon a time", return_tensors="pt").input_ids

    def story():
        return adapter.model.generate(ids, max_new_tokens=12, do_sample=False)[0]

    plain = story()
    assert "little girl" in adapter.tokenizer.decode(plain)
    points = install(adapter, ["2"])
    assert torch.equal(story(), plain)
    direction = torch.randn(adapter.d_model, generator=torch.Generator().manual_seed(0))
    push = Intervention.add("stories260k/2", direction / direction.norm(), torch.tensor([8.0]))
    with points.apply([push]):
        assert not torch.equal(story(), plain)
    assert torch.equal(story(), plain)
