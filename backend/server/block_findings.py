"""Which findings of the catalogue are about a block.

A finding is about a block where its study bears the name of the block's manifold (``hue-ring/median-error-deg``), or
where it is of the featurizer's model and names the block by number ("the union is blocks [19, 8, 3]"). Numbers count
only where the model has one featurizer here: with two of them, nobody could tell whose block it is.
"""

from __future__ import annotations

import re

from backend.catalogue.store import Catalogue
from backend.server.state import AtlasState
from backend.wire.blocks import BlockDetail
from backend.wire.findings import Finding

_NUMBERS = re.compile(r"\bblocks?\s+\[?((?:\d+)(?:\s*(?:,|and)\s*\d+)*)\]?")


def numbers(text: str) -> set[int]:
    """The blocks that a sentence names by number."""
    return {int(n) for found in _NUMBERS.findall(text) for n in re.findall(r"\d+", found)}


def about_block(atlas: AtlasState, block: BlockDetail) -> list[Finding]:
    """The findings about a block, those of its own manifold first."""
    infos = atlas.featurizers.infos()[0]
    model = next((i.model for i in infos if i.name == block.featurizer), "")
    alone = sum(i.model == model for i in infos) == 1
    everything = Catalogue().findings()
    own = [f for f in everything if block.manifold and f.id.partition("/")[0] == block.manifold]
    named = [
        f for f in everything
        if alone and f.model == model and f not in own and block.index in numbers(f"{f.claim} {f.caveat}")
    ]  # fmt: skip
    return own + named
