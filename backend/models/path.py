"""Names of places inside a model: one canonical path for the spellings that people use.

    unet.down_blocks.2.attentions.1   →  down.2.1          blocks.5.hook_resid_post  →  5, resid_post
    unet.up_blocks.0.resnets.2        →  up.0.2.res        model.layers.5.self_attn  →  5, attn_out

A spelling may imply a part: attention blocks of a UNet an ``update``, numbered layers their ``resid_post``. Paths that
match nothing stay what they are, module paths. Not covered: whether a model has such a module (``Adapter`` says).
"""

from __future__ import annotations

import re

from backend.core.errors import Invalid

PARTS: tuple[str, ...] = ("update", "residual", "resid_pre", "resid_post", "attn_out", "mlp_out")
LAYER_PARTS: tuple[str, ...] = ("resid_post", "update", "resid_pre", "attn_out", "mlp_out")
MODULE_PARTS: tuple[str, ...] = ("residual", "update", "resid_pre")

_HOOKS = {"hook_resid_pre": "resid_pre", "hook_resid_post": "resid_post", "hook_attn_out": "attn_out",
          "hook_mlp_out": "mlp_out"}  # fmt: skip
_TRANSFORMER_LENS = re.compile(r"blocks\.(\d+)\.(.+)")
_LAYER = re.compile(r"(?:(?:model|transformer|encoder|decoder|gpt_neox|vision_model|language_model)\.)*"
                    r"(?:layers|layer|h)\.(\d+)(?:\.(\w+))?")  # fmt: skip
_SUBLAYERS = {"self_attn": "attn_out", "attention": "attn_out", "attn": "attn_out", "mlp": "mlp_out"}
_UNET = re.compile(r"(?:unet\.)?(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.(attentions|resnets)\.(\d+)")
_UNET_SHORT = re.compile(r"(?:(?:down|up)\.\d+|mid)\.\d+(?:\.res)?")


def canonical_path(path: str, asked: str = "") -> tuple[str, str]:
    """Canonical path and the part that its spelling implies; raises ``Invalid`` for hooks that sites cannot name."""
    if not path or path.startswith(".") or path.endswith(".") or ".." in path:
        raise Invalid(
            f"The site '{asked or path}' was asked for.",
            "Its path is empty or has an empty step.",
            "Write a path such as 'down.2.1', '5' or a module path.",
        )
    if found := _TRANSFORMER_LENS.fullmatch(path):
        layer, hook = found.groups()
        if hook not in _HOOKS:
            raise Invalid(
                f"The site '{asked or path}' was asked for.",
                f"'{hook}' is not a place that can carry an intervention.",
                f"Use one of: {', '.join(_HOOKS)}.",
            )
        return str(int(layer)), _HOOKS[hook]
    if found := _LAYER.fullmatch(path):
        layer, sublayer = found.groups()
        if sublayer is None:
            return str(int(layer)), "resid_post"
        if sublayer in _SUBLAYERS:
            return str(int(layer)), _SUBLAYERS[sublayer]
        return path, "residual"
    if found := _UNET.fullmatch(path):
        block, family, j = found.groups()
        short = block.replace("_blocks", "").replace("_block", "")
        return (f"{short}.{j}", "update") if family == "attentions" else (f"{short}.{j}.res", "residual")
    if path.isdigit():
        return str(int(path)), "resid_post"
    if _UNET_SHORT.fullmatch(path):
        return path, "residual" if path.endswith(".res") else "update"
    return path, "residual"
