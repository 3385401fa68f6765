"""Adapters find the module behind every site they name, over the real classes with random weights."""

import pytest
import torch
from torch import nn

from backend.activations.carrier import Carrier
from backend.activations.point_set import install
from backend.activations.site import Site
from backend.core.errors import Invalid, NotFound, Refused
from backend.models.adapter import Adapter
from backend.models.diffusion import ImageAdapter
from backend.models.language import TextAdapter
from backend.models.random_weights import tiny_dino, tiny_llama, tiny_sdxl
from backend.models.vision import VisionAdapter
from backend.steering.intervention import Intervention, exact_edit


@pytest.fixture(scope="module")
def pipeline():
    return tiny_sdxl()


@pytest.fixture(scope="module")
def unet_lcm():
    return tiny_sdxl(seed=1).unet


@pytest.fixture
def image(pipeline, unet_lcm):
    adapter = ImageAdapter(pipeline, name="tiny", unet_lcm=unet_lcm)
    yield adapter
    if adapter.point_set:
        adapter.point_set.uninstall()


def run(adapter, unet=None, n: int = 2, size: int = 8):
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(n, 4, size, size, generator=generator)
    embeds, pooled = adapter.encode_prompt(["a red cube"] * n)
    added = {"text_embeds": pooled, "time_ids": adapter.time_ids(n)}
    with torch.no_grad():
        return (unet or adapter.unet)(latents, 500, encoder_hidden_states=embeds, added_cond_kwargs=added).sample


def frame(d: int, k: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(d, k, generator=torch.Generator().manual_seed(0)))[0]


def test_every_site_name_is_canonical_and_has_its_module(image):
    for adapter in (image, TextAdapter(tiny_llama()), VisionAdapter(tiny_dino())):
        names = adapter.site_names()
        assert len(set(names)) == len(names) > 5
        for name in names:
            assert str(Site.parse(name)) == name
            parent, attribute, module = adapter.module_at(name)
            assert getattr(parent, attribute) is module


def test_unet_paths_mean_the_blocks_of_the_unet(image):
    unet = image.unet
    assert image.module_at("down.2.1")[2] is unet.down_blocks[2].attentions[1]
    assert image.module_at("unet.down_blocks.2.attentions.1")[2] is unet.down_blocks[2].attentions[1]
    assert image.module_at("mid.0")[2] is unet.mid_block.attentions[0]
    assert image.module_at("up.0.2.res")[2] is unet.up_blocks[0].resnets[2]
    assert image.module_at("tiny-lcm/down.2.1")[2] is image.unet_lcm.down_blocks[2].attentions[1]
    raw = "down_blocks.2.attentions.1.transformer_blocks.0.attn2"
    assert image.module_at(raw)[2] is unet.get_submodule(raw)
    names = image.site_names()
    # A residual block that changes its width has no update; 'down.0' has no attention.
    assert "tiny/down.1.0.res#update" not in names and "tiny/down.1.1.res#update" in names
    assert "tiny/down.0.0#update" not in names and "tiny-lcm/up.1.2#update" in names


def test_layers_and_sublayers(image):
    text, vision = TextAdapter(tiny_llama(), name="t"), VisionAdapter(tiny_dino(), name="v")
    assert text.module_at("1", part="attn_out")[2] is text.model.model.layers[1].self_attn
    assert text.module_at("t/1#mlp_out")[2] is text.model.model.layers[1].mlp
    assert text.module_at("blocks.1.hook_attn_out")[2] is text.model.model.layers[1].self_attn
    assert vision.module_at("0#attn_out")[2] is vision.model.model.layer[0].attention
    assert (text.n_layers, text.n_heads, text.d_model, vision.n_prefix) == (3, 4, 32, 5)


def test_what_is_not_there_lists_what_is(image):
    for path in ("down.7.0", "no-such-model/down.2.1", "down_blocks.9.attentions.0"):
        with pytest.raises(NotFound) as error:
            image.module_at(path)
        assert "tiny/down.1.0#update" in error.value.todo
    with pytest.raises(Refused) as error:
        install(image, ["down.0.0#update"])
    assert "tiny/down.1.0#update" in error.value.todo
    with pytest.raises(Refused, match="stack of layers"):
        TextAdapter(nn.Linear(2, 2))
    with pytest.raises(NotFound, match="'b'"):
        Adapter.from_module(nn.Sequential(nn.ReLU()), sites=["b"])


def test_idle_points_everywhere_leave_the_unet_bit_for_bit(image):
    plain = run(image)
    keys = list(image.unet.state_dict())
    points = install(image, image.site_names())
    assert torch.equal(run(image), plain)
    d = {name: image.module_at(name)[2] for name in points.points}
    assert all(isinstance(module, Carrier) for module in d.values())
    assert list(image.unet.state_dict()) == keys


@pytest.mark.parametrize("path, d", [("down.2.1#update", 96), ("up.1.0#residual", 64), ("mid.1.res#update", 96),
                                     ("up.2.0.res#residual", 32), ("down.1.0#resid_pre", 64)])  # fmt: skip
def test_rows_of_the_unet_are_steered_alone_and_exactly(image, path, d):
    plain = run(image)
    points = install(image, [path])
    rows = [None, Intervention.clamp(f"tiny/{path}", frame(d, 3), torch.full((3,), 2.0))]
    with points.apply(rows):
        fast = run(image)
    with exact_edit(points, rows):
        exact = run(image)
    assert torch.equal(fast[0], plain[0]) and (fast[1] - plain[1]).abs().max() > 1e-4
    assert (fast - exact).abs().max() < 1e-5


def test_installing_covers_the_few_step_unet_and_each_is_steered_by_its_own_name(image):
    points = install(image, ["down.2.1#update"])
    assert list(points.points) == ["tiny/down.2.1#update", "tiny-lcm/down.2.1#update"]
    base, few = run(image), run(image, image.unet_lcm)
    steer = Intervention.clamp("tiny/down.2.1#update", frame(96, 2), torch.full((2,), 3.0))
    with points.apply([steer] * 2):
        assert not torch.equal(run(image), base) and torch.equal(run(image, image.unet_lcm), few)
    with points.apply([steer.on("tiny-lcm")] * 2):
        assert torch.equal(run(image), base) and not torch.equal(run(image, image.unet_lcm), few)


def test_a_few_step_unet_of_another_layout_is_refused(pipeline):
    with pytest.raises(Invalid, match="few-step"):
        ImageAdapter(pipeline, name="tiny", unet_lcm=tiny_sdxl(widths=(32, 64)).unet)


def test_the_whole_pipeline_runs_through_the_points(image):
    """The library's own sampler meets the point: guidance stacks both halves into one call."""
    from backend.activations.rows import guidance_layout

    def picture():
        generator = torch.Generator().manual_seed(0)
        return image.pipeline("a red cube", num_inference_steps=2, guidance_scale=3.0, height=64, width=64,
                              output_type="latent", generator=generator).images  # fmt: skip

    image.pipeline.set_progress_bar_config(disable=True)
    plain = picture()
    points = install(image, ["down.2.1#update"])
    assert torch.equal(picture(), plain)
    steer = Intervention.add("tiny/down.2.1#update", frame(96, 2), torch.full((2,), 3.0), cfg="cond")
    with points.apply([steer], layout=guidance_layout(1)):
        assert not torch.equal(picture(), plain)
    with points.apply([steer]), pytest.raises(Refused, match="rows"):
        picture()


def test_prompts_become_embeddings_and_the_empty_one_zeros(image):
    embeds, pooled = image.encode_prompt(["a red cube", "", "a blue cube"])
    assert embeds.shape == (3, 24, 64) and pooled.shape == (3, 32)
    assert embeds[1].abs().max() == 0 and pooled[1].abs().max() == 0
    assert not torch.allclose(embeds[0], embeds[2]) and not torch.allclose(pooled[0], pooled[2])
    assert (image.size, image.latent_shape) == (128, (4, 16, 16))


def test_dino_tokens_and_an_inception_network():
    from backend.models.inception import CurveInception, CurveInceptionConfig

    vision = VisionAdapter(tiny_dino(), name="dino")
    points = install(vision, ["1", "0#attn_out"])
    x = torch.randn(2, 3, 32, 32)
    f = frame(32, 2)
    plain = vision.model(x).last_hidden_state
    with points.reading(["1"]) as seen, points.apply([None, Intervention.ablate("dino/1", f)]):
        out = vision.model(x).last_hidden_state
    assert seen["dino/1#resid_post"][0].shape == (2, 5 + 16, 32)
    assert torch.allclose(seen["dino/1#resid_post"][0][1] @ f, torch.zeros(21, 2), atol=1e-5)
    assert torch.equal(out[0], plain[0]) and not torch.allclose(out[1], plain[1])

    torch.manual_seed(0)
    curves = VisionAdapter(CurveInception(CurveInceptionConfig()).eval(), name="curves")
    assert "curves/mixed3b#residual" in curves.site_names() and curves.n_prefix == 0
    points = install(curves, ["mixed3b"])
    pictures = torch.rand(2, 1, 64, 64)
    with points.reading(["mixed3b"]) as seen:
        maps = curves.model.features(pictures)
    assert torch.equal(seen["curves/mixed3b#residual"][0], maps["mixed3b"].flatten(2).transpose(1, 2))


def test_any_module_by_its_paths():
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)]), "head": nn.Linear(4, 2)})
    adapter = Adapter.from_module(model, sites=["layers.0", "layers.1", "head"], name="mine")
    assert adapter.kind == "custom" and adapter.module is model and adapter.device.type == "cpu"
    assert "mine/1#resid_post" in adapter.site_names() and "mine/head#residual" in adapter.site_names()
    points = install(adapter, ["layers.1", "mine/head"])
    assert list(points.points) == ["mine/1#resid_post", "mine/head#residual"]
    towers = nn.ModuleDict({"encoder": nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(4, 4)])}),
                            "decoder": nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(4, 4)])})})  # fmt: skip
    with pytest.raises(Invalid, match="share"):
        Adapter.from_module(towers, sites=["encoder.layers.0", "decoder.layers.0"])


def test_the_revision_follows_the_weights():
    one, same, other = (Adapter.from_module(tiny_llama(seed=s), sites=["model"]) for s in (0, 0, 1))
    assert one.revision == same.revision != other.revision


def test_the_sites_of_full_size_sdxl():
    """The published configuration, without weights: the sites that the cost table of the design names are there."""
    from diffusers import UNet2DConditionModel

    from backend.models.diffusion import unet_layout

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=128, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(320, 640, 1280), attention_head_dim=(5, 10, 20), cross_attention_dim=2048,
            transformer_layers_per_block=(1, 2, 10), use_linear_projection=True, addition_embed_type="text_time",
            addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
        )  # fmt: skip
    layout = unet_layout(unet)
    attention = [path for path, parts in layout.items() if "res" not in path and "update" in parts]
    assert attention == ["down.1.0", "down.1.1", "down.2.0", "down.2.1", "mid.0",
                         "up.0.0", "up.0.1", "up.0.2", "up.1.0", "up.1.1", "up.1.2"]  # fmt: skip
    assert layout["up.0.1"]["update"] == "up_blocks.0.attentions.1"
