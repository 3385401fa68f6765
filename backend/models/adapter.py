"""Adapters: one face over models of many libraries, which says where a site is and what it is called.

An adapter owns one or more modules of one layout (a UNet and its few-step twin), lists their canonical sites
and finds the module behind a path. It changes nothing in the model: intervention points are installed by
``backend.activations.point_set``.

Not covered: loading (``backend.models.registry``), sampling and generation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from backend.core.errors import Invalid, NotFound
from backend.models.path import LAYER_PARTS, MODULE_PARTS, canonical_path

Layout = dict[str, dict[str, str]]
"""Canonical path → part → path of the module that carries the part, inside the model's root module."""

_SUBLAYER_NAMES = {"attn_out": ("self_attn", "attention", "attn"), "mlp_out": ("mlp",)}


class Adapter:
    """A model with a name, a kind (``image``, ``text``, ``vision`` or ``custom``) and named sites.

    ``models`` maps each model name to its root module; the first is ``name`` itself. Raises ``Invalid`` for two
    modules under one canonical path.
    """

    kind = "custom"

    def __init__(self, module: nn.Module, *, name: str, layout: Layout, revision: str | None = None,
                 twins: Mapping[str, nn.Module] | None = None) -> None:  # fmt: skip
        self.name = name
        self.models: dict[str, nn.Module] = {name: module, **(twins or {})}
        self.layout = layout
        self._revision = revision
        self.point_set = None
        """The installed intervention points, filled by ``backend.activations.point_set.install``."""

    @classmethod
    def from_module(cls, model: nn.Module, *, sites: Sequence[str], name: str = "custom") -> Adapter:
        """Wrap any module; ``sites`` are paths of its submodules. Raises ``NotFound`` for a path that it lacks."""
        known = dict(model.named_modules())
        layout: Layout = {}
        for module_path in sites:
            module_path = module_path.rpartition("/")[2].partition("#")[0]
            if module_path not in known or not module_path:
                raise NotFound(
                    f"The submodule '{module_path}' of {type(model).__name__} was asked for.",
                    "The model has no submodule of this name.",
                    f"Use one of: {listing([n for n in known if n])}.",
                )
            path, implied = canonical_path(module_path)
            if implied in _SUBLAYER_NAMES:
                layout.setdefault(path, {})[implied] = module_path
                continue
            if module_path in layout.get(path, {}).values():
                continue
            if "residual" in layout.get(path, {}) or "resid_post" in layout.get(path, {}):
                raise Invalid(
                    f"The submodules {sites} were asked for.",
                    f"Two of them share the canonical path '{path}'.",
                    "Wrap the two towers in an adapter each.",
                )
            layout.setdefault(path, {}).update(layer_parts(known[module_path], module_path, path))
        return cls(model, name=name, layout=layout)

    @property
    def module(self) -> nn.Module:
        """The root module that carries the sites of ``name``."""
        return self.models[self.name]

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype

    @property
    def revision(self) -> str:
        """Which weights these are: the digest given by the registry, or one of names, shapes and sums."""
        if self._revision is None:
            digest = hashlib.sha256()
            for key, value in self.module.state_dict().items():
                total = float(value.double().sum()) if value.numel() else 0.0
                digest.update(f"{key} {tuple(value.shape)} {total:.9e}\n".encode())
            self._revision = digest.hexdigest()[:16]
        return self._revision

    def site_names(self) -> list[str]:
        """Canonical sites that can carry an intervention point, all models of the adapter."""
        return [
            f"{model}/{path}#{part}" for model in self.models for path, parts in self.layout.items() for part in parts
        ]

    def module_at(self, path: str, *, part: str | None = None) -> tuple[nn.Module, str, nn.Module]:
        """Parent module, attribute and module behind a canonical path, ``MODEL/path`` or a plain module path.

        ``part`` picks the sublayer for ``attn_out`` and ``mlp_out``. Raises ``NotFound`` listing what there is.
        """
        asked = path
        head, _, part_in_path = path.partition("#")
        part = part or part_in_path or None
        model, _, path = head.rpartition("/")
        root = self.models.get(model or self.name)
        path, implied = canonical_path(path, asked)
        if implied in _SUBLAYER_NAMES and part is None:
            part = implied
        module_path: str | None = path
        if path in self.layout:
            parts = self.layout[path]
            module_path = next(iter(parts.values())) if part is None else parts.get(part)
        try:
            if root is None or module_path is None:
                raise AttributeError(asked)
            parent_path, _, attribute = module_path.rpartition(".")
            parent = root.get_submodule(parent_path)
            return parent, attribute, parent.get_submodule(attribute)
        except AttributeError:
            raise NotFound(
                f"The module at '{asked}' of '{self.name}' was asked for.",
                "This model has no such module.",
                f"Use one of: {listing(self.site_names())}.",
            ) from None


def layer_parts(module: nn.Module, module_path: str, path: str) -> dict[str, str]:
    """Parts that a module can carry under a canonical path, each with the path of the module that carries it."""
    children = dict(module.named_children())
    parts = {}
    for part in LAYER_PARTS if path.isdigit() else MODULE_PARTS:
        if part in _SUBLAYER_NAMES:
            child = next((name for name in _SUBLAYER_NAMES[part] if name in children), None)
            if child:
                parts[part] = f"{module_path}.{child}"
        else:
            parts[part] = module_path
    return parts


def layers_layout(root: nn.Module, stack_path: str) -> Layout:
    """Layout of a stack of numbered layers: ``0`` ... ``n-1``."""
    stack = root.get_submodule(stack_path)
    return {str(i): layer_parts(layer, f"{stack_path}.{i}", str(i)) for i, layer in enumerate(stack)}


def listing(names: Sequence[str], *, at_most: int = 60) -> str:
    """Names for an error message, cut where they would fill a page."""
    names = list(names)
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more if names else "(there is none)"
