"""The catalogue on disk: one JSON file a finding, one card a model, dataset, featurizer or manifold.

It reads the collection that ships (``assets/``) and then the user's own (``ATLAS_HOME``); where both hold the same id
the user's wins, because it is the one that was measured on this machine. An entry that cannot be read is named in
``skipped`` with its reason and left out: one broken file costs one entry. Not covered: search; a few hundred small
files need no database.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from pydantic import ValidationError

from backend.catalogue.cards import read_card
from backend.core.errors import Invalid, NotFound
from backend.core.settings import assets_dir, atlas_home
from backend.wire.findings import Card, Finding
from backend.wire.findings import Catalogue as CatalogueMessage

COLLECTIONS = {"models": "model", "featurizers": "featurizer", "manifolds": "manifold"}
"""Folders of ``assets/`` and ``ATLAS_HOME`` whose subfolders are entries, and the kind of those."""

_ID = re.compile(r"^[a-z0-9]+(?:-[a-z0-9]+)*/[a-z0-9]+(?:-[a-z0-9]+)*$")


class Catalogue:
    """What is known, read from ``roots`` in rising priority; nothing is cached, so a new file is seen at once."""

    def __init__(self, *roots: Path) -> None:
        self.roots = roots or (assets_dir(), atlas_home())
        self.skipped: list[str] = []

    def _skip(self, path: Path, error: Exception) -> None:
        reason = f"{path.parent.name}/{path.name}: {str(error).splitlines()[0]}"
        if reason not in self.skipped:
            self.skipped.append(reason)

    def findings(self) -> list[Finding]:
        """Every finding, by id; the user's own replaces one that ships."""
        found: dict[str, Finding] = {}
        for root in self.roots:
            for path in sorted((root / "catalogue" / "findings").glob("*.json")):
                try:
                    finding = Finding.model_validate_json(path.read_bytes())
                except (ValidationError, OSError) as error:
                    self._skip(path, error)
                    continue
                if path.stem != file_stem(finding.id):
                    self._skip(path, ValueError(f"it holds {finding.id!r}, which belongs in another file"))
                    continue
                found[finding.id] = finding
        return [found[name] for name in sorted(found)]

    def finding(self, name: str) -> Finding:
        """One finding by its id ``study/measure``; raises ``NotFound`` with the ids of the same study."""
        everything = self.findings()
        for finding in everything:
            if finding.id == name:
                return finding
        near = [f.id for f in everything if f.id.split("/")[0] == name.split("/")[0]] or [f.id for f in everything]
        raise NotFound(
            f"The finding {name!r} was asked for.",
            f"The catalogue holds {', '.join(near[:12])}." if near else "The catalogue holds no findings yet.",
            f"Run `manifold-atlas study {name.split('/')[0]}` to measure it.",
        )

    def save_finding(self, finding: Finding, *, root: Path | None = None) -> Path:
        """Write one finding under ``root`` (by default ``ATLAS_HOME``) in one piece; raises ``Invalid`` on a bad id."""
        folder = (root or atlas_home()) / "catalogue" / "findings"
        path = folder / f"{file_stem(finding.id)}.json"
        folder.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".json.new")
        new.write_text(json.dumps(finding.model_dump(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(new, path)
        return path

    def cards(self) -> list[Card]:
        """Every card: entries of the collections, and dataset cards under ``catalogue/cards``."""
        found: dict[tuple[str, str], Card] = {}
        for root in self.roots:
            entries = [
                (path, kind)
                for folder, kind in COLLECTIONS.items()
                for path in sorted((root / folder).glob("*"))
                if path.is_dir() and not path.name.startswith((".", "_"))
            ]
            entries += [(path, "dataset") for path in sorted((root / "catalogue" / "cards").glob("*.json"))]
            for path, kind in entries:
                try:
                    card = read_card(path, kind=kind)
                except (ValidationError, OSError, ValueError) as error:
                    self._skip(path, error)
                    continue
                if card is not None:
                    found[card.kind, card.name] = card
        return [found[key] for key in sorted(found)]

    def message(self) -> CatalogueMessage:
        """Everything, as it crosses the network."""
        cards, findings = self.cards(), self.findings()
        return CatalogueMessage(cards=cards, findings=findings, skipped=list(self.skipped))


def file_stem(name: str) -> str:
    """File name of a finding: ``study/measure`` becomes ``study--measure``; raises ``Invalid`` on any other form."""
    if not _ID.match(name):
        raise Invalid(
            f"The finding id {name!r} was given.", "An id is study/measure in lower-case words joined by hyphens.",
            "Use for example light-ring/median-error-deg.",
        )  # fmt: skip
    return name.replace("/", "--")
