"""Featurizers in other people's hands: a model hub, and the file format of SAELens (6.x).

SAELens reads ``cfg.json`` and ``sae_weights.safetensors`` and computes

    h = (x - b_dec) W_enc + b_enc,    x_hat = f(h) W_dec + b_dec

on raw activations, so centre and scale are folded into the weights. With b = 1 the mapping is exact:

    vanilla, grassmannian    f = "abstopk": the k largest |h|, signed
    jump_relu, batch_top     f = "jumprelu" on mirrored units (+h and -h): H(h - theta) h knows no negative codes
    group_lasso              f = "standard" (ReLU) on mirrored units, theta folded into b_enc

Their format has no selection by block: with b > 1 the flat dictionary is written as "abstopk" of k b units, which
SAELens loads and which shares directions but not codes with ours; the block structure stands under
``metadata.block_sparse`` and ``import_saelens`` restores the featurizer from it. What their format cannot hold is
refused: one centre per position (b_dec is one vector), and a pursuit with b = 1 (their matching pursuit fits nothing
jointly). Not covered: importing units that know no negative codes (ReLU, TopK, JumpReLU made elsewhere).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from backend.core.errors import Corrupt, Invalid, NotFound, Refused
from backend.featurizers.featurizer import Featurizer

WRITTEN_FOR = "6.54.12"
"""The version of SAELens whose format is written."""

_MIRRORED = {"jump_relu": "jumprelu", "batch_top": "jumprelu", "group_lasso": "standard"}


def push_to_hub(featurizer: Featurizer, repo_id: str, *, api: Any = None, private: bool = False,
                message: str = "Featurizer", saelens: bool = False) -> str:  # fmt: skip
    """Upload the folder that ``save_pretrained`` writes to a model repository; returns what the hub answers, as text.

    ``api`` is a ``huggingface_hub.HfApi`` (the default one uses the token of ``hf auth login``). With ``saelens`` a
    sub-folder of that name holds the SAELens export.
    """
    if api is None:
        from huggingface_hub import HfApi

        api = HfApi()
    with tempfile.TemporaryDirectory() as folder:
        featurizer.save_pretrained(folder)
        if saelens:
            export_saelens(featurizer, Path(folder) / "saelens")
        (Path(folder) / "README.md").write_text(model_card(featurizer))
        api.create_repo(repo_id, repo_type="model", private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, repo_type="model", commit_message=message))


def model_card(featurizer: Featurizer) -> str:
    """A model card in Markdown: what the featurizer is, where it reads, how to load it."""
    cfg, info = featurizer.config(), featurizer.info
    facts = [f"| {key} | {cfg[key]} |" for key in ("architecture", "d_in", "n_blocks", "d_block", "k")]
    facts += [f"| {key} | {info[key]} |" for key in ("model", "site", "r2") if key in info]
    return "\n".join([
        "---", "library_name: manifold-atlas", "tags: [interpretability, sparse-autoencoder, block-sparse]", "---",
        f"# {info.get('title', 'Block-sparse featurizer')}", "", str(info.get("description", "")), "",
        "| | |", "|---|---|", *facts, "",
        "```python", "from backend.featurizers.featurizer import Featurizer",
        "featurizer = Featurizer.from_pretrained(folder)   # z = featurizer.encode(featurizer.normalise(x))", "```", "",
    ])  # fmt: skip


@torch.no_grad()
def export_saelens(featurizer: Featurizer, folder: str | Path) -> Path:
    """Write ``cfg.json`` and ``sae_weights.safetensors`` of SAELens into ``folder``; raises ``Refused`` (see above)."""
    if len(featurizer.centre) != 1:
        raise Refused(f"A featurizer with {len(featurizer.centre)} centres was to be exported to SAELens.",
                      "Its format holds one centre (b_dec) for all positions.",
                      "Train on activations with one centre, or share it with save_pretrained.")  # fmt: skip
    blocks = featurizer.d_block > 1
    if featurizer.variant == "pursuit" and not blocks:
        raise Refused("A pursuit featurizer of directions was to be exported to SAELens.",
                      "Its matching pursuit subtracts one unit after the other and fits nothing jointly, so that "
                      "codes would differ.", "Share it with save_pretrained.")  # fmt: skip
    weight, bias = featurizer.encoder_blocks()
    gain = featurizer.gain_of_codes()
    encoder = weight.flatten(0, 1).float().cpu() * (1.0 if gain is None else float(gain))
    bias = torch.zeros(len(encoder)) if bias is None else bias.flatten().float().cpu()
    decoder, scale = featurizer.frames().flatten(0, 1).float().cpu(), featurizer.scale.float().cpu()
    own: dict[str, Any] = {"config": featurizer.config(), "scale": float(scale),
                           "gain": None if gain is None else float(gain)}  # fmt: skip
    cfg: dict[str, Any] = {"architecture": "abstopk", "k": featurizer.k * featurizer.d_block,
                           "rescale_acts_by_decoder_norm": False}  # fmt: skip
    tensors: dict[str, Tensor] = {}
    theta = _thresholds(featurizer)
    if theta is not None and blocks:
        own["thresholds"] = theta.tolist()
    elif theta is not None:
        encoder, decoder = torch.cat([encoder, -encoder]), torch.cat([decoder, -decoder])
        bias, theta = torch.cat([bias, -bias]), torch.cat([theta, theta])
        cfg = {"architecture": _MIRRORED[featurizer.variant]}
        if cfg["architecture"] == "jumprelu":
            tensors["threshold"] = theta
        else:
            bias = bias - theta
        own["mirrored"] = True
    tensors |= {"W_enc": (encoder * scale).T, "b_enc": bias, "W_dec": decoder / scale,
                "b_dec": featurizer.centre[0].float().cpu()}  # fmt: skip
    info = featurizer.info
    cfg |= {
        "d_in": featurizer.d_in, "d_sae": len(encoder), "dtype": "float32", "device": "cpu",
        "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": WRITTEN_FOR, "sae_lens_training_version": None,
            **({"model_name": info["model"]} if "model" in info else {}),
            **({"hook_name": info["site"]} if "site" in info else {}),
            "block_sparse": {**own, "exact": not blocks,
                             "note": "Units g b .. g b + b - 1 are block g." if blocks else ""},
        },
    }  # fmt: skip
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(cfg, indent=1) + "\n")
    return folder


def _thresholds(featurizer: Featurizer) -> Tensor | None:
    if hasattr(featurizer, "log_threshold"):
        return featurizer.log_threshold.detach().float().cpu().exp()
    if hasattr(featurizer, "threshold"):
        return featurizer.threshold.detach().float().cpu().expand(featurizer.n_blocks).clone()
    return None


@torch.no_grad()
def import_saelens(folder: str | Path) -> Featurizer:
    """A featurizer from SAELens files: any that ``export_saelens`` wrote, or an "abstopk" autoencoder of others.

    It takes raw activations through ``normalise`` as any featurizer does. Raises ``NotFound`` without files,
    ``Corrupt`` where they disagree, ``Refused`` for architectures whose codes ours cannot have.
    """
    folder = Path(folder)
    if not (folder / "cfg.json").exists() or not (folder / "sae_weights.safetensors").exists():
        raise NotFound(f"SAELens weights were to be imported from {folder}.",
                       "It holds no cfg.json beside sae_weights.safetensors.",
                       "Give the folder of one autoencoder.")  # fmt: skip
    try:
        cfg = json.loads((folder / "cfg.json").read_text())
        tensors = load_file(folder / "sae_weights.safetensors")
        own = (cfg.get("metadata") or {}).get("block_sparse")
        return _own(own, tensors) if own else _foreign(cfg, tensors)
    except (KeyError, TypeError, ValueError, OSError, RuntimeError, Invalid) as error:
        raise Corrupt(f"The SAELens weights in {folder} were to be imported.",
                      f"The files do not agree: {type(error).__name__}: {error}.",
                      "Export them again.") from error  # fmt: skip


def _own(own: dict[str, Any], tensors: dict[str, Tensor]) -> Featurizer:
    featurizer = Featurizer.from_config(own["config"])
    n, scale = featurizer.n_blocks * featurizer.d_block, own["scale"]
    encoder, bias, decoder = tensors["W_enc"].T[:n] / scale, tensors["b_enc"], tensors["W_dec"][:n] * scale
    theta = tensors.get("threshold", torch.tensor(own.get("thresholds", [])))
    if own.get("mirrored"):
        # h - theta and -h - theta
        if "threshold" not in tensors:
            theta = -(bias[:n] + bias[n:]) / 2
            bias = (bias[:n] - bias[n:]) / 2
        bias, theta = bias[:n], theta[:n]
    blocks = decoder.view(featurizer.n_blocks, featurizer.d_block, -1)
    if own["gain"] is not None:
        featurizer.frame.copy_(blocks)
        featurizer.log_gain.copy_(torch.tensor(own["gain"]).log())
    else:
        featurizer.decoder.copy_(blocks)
        featurizer.encoder.copy_(encoder)
        featurizer.bias.copy_(bias)
    if hasattr(featurizer, "log_threshold"):
        featurizer.log_threshold.copy_(theta.log())
    elif hasattr(featurizer, "threshold"):
        featurizer.threshold.copy_(theta[0])
    featurizer.centre, featurizer.scale = tensors["b_dec"][None].clone(), torch.tensor(scale)
    return featurizer.eval()


def _foreign(cfg: dict[str, Any], tensors: dict[str, Tensor]) -> Featurizer:
    if cfg["architecture"] != "abstopk":
        raise Refused(f"An autoencoder of SAELens architecture {cfg['architecture']!r} was to be imported.",
                      "Its units know no negative codes, and every block here is signed.",
                      "Import one of architecture abstopk.")  # fmt: skip
    if cfg.get("normalize_activations", "none") != "none" or cfg.get("reshape_activations", "none") != "none":
        raise Refused("An autoencoder that normalises or reshapes its input row by row was to be imported.",
                      "A featurizer here subtracts one centre and multiplies by one scale.",
                      "Fold the normalisation into the weights first.")  # fmt: skip
    encoder, decoder = tensors["W_enc"].T.float(), tensors["W_dec"].float()
    bias, centre = tensors["b_enc"].float(), tensors["b_dec"].float()
    if not cfg.get("apply_b_dec_to_input", True):
        # Ours subtracts the centre before encoding; its encoder gives that back.
        bias = bias + encoder @ centre
    if cfg.get("rescale_acts_by_decoder_norm", False):
        norm = decoder.norm(dim=1)
        encoder, bias, decoder = encoder * norm[:, None], bias * norm, decoder / norm[:, None]
    kind = Featurizer.of_variant("vanilla")
    featurizer = kind(decoder.shape[1], len(decoder), d_block=1, k=cfg["k"])
    featurizer.decoder.copy_(decoder[:, None])
    featurizer.encoder.copy_(encoder)
    featurizer.bias.copy_(bias)
    featurizer.centre = centre[None].clone()
    metadata = cfg.get("metadata") or {}
    featurizer.info = {key: metadata[name] for key, name in (("model", "model_name"), ("site", "hook_name"))
                       if metadata.get(name)}  # fmt: skip
    return featurizer.eval()
