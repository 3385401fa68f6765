"""Manifolds and featurizers as they lie on disk.

They are read when they are asked for and again when their files change, so that a study's result can be used without a
restart. One that cannot be read costs that one entry. The model libraries are imported when something is read.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

from backend.core.errors import AtlasError, Corrupt, NotFound
from backend.wire.capabilities import FeaturizerInfo, ManifoldInfo


def _stamp(folder: Path, names: tuple[str, ...]) -> tuple[float, ...]:
    return tuple((folder / name).stat().st_mtime if (folder / name).exists() else 0.0 for name in names)


class _DiskShelf:
    """Entries in folders, read when asked for, read again when their files change."""

    files: tuple[str, ...] = ()
    look_every = 2.0

    def __init__(self) -> None:
        self._entries: dict[str, tuple[Path, tuple[float, ...], Any]] = {}
        self._listed: tuple[float, dict[str, Path]] = (-1e9, {})
        self._lock = threading.Lock()

    def folders(self) -> dict[str, Path]:
        """Name to folder; the disk is looked at every ``look_every`` seconds at most."""
        now = time.monotonic()
        if now - self._listed[0] > self.look_every:
            self._listed = (now, self._list())
        return self._listed[1]

    def look_again(self) -> None:
        """Something new lies on disk: look at the next question."""
        self._listed = (-1e9, {})

    def get(self, name: str) -> Any:
        """One entry; raises ``NotFound`` with the names there are, or ``Corrupt``."""
        folders = self.folders()
        if name not in folders:
            self.look_again()
            folders = self.folders()
        if name not in folders:
            what = type(self).__name__.removesuffix("Shelf").lower()
            raise NotFound(f"The {what} {name} was asked for.", f"There are {', '.join(folders) or 'none'}.",
                           "Choose one of these, or make one first.")  # fmt: skip
        folder = folders[name]
        stamp = _stamp(folder, self.files)
        with self._lock:
            held = self._entries.get(name)
            if held is not None and held[0] == folder and held[1] == stamp:
                return held[2]
            entry = self._read(folder)
            self._entries[name] = (folder, stamp, entry)
            return entry

    def everything(self) -> tuple[dict[str, Any], list[str]]:
        """All entries that can be read, and one line for each that cannot."""
        found, skipped = {}, []
        for name in list(self.folders()):
            try:
                found[name] = self.get(name)
            except AtlasError as error:
                skipped.append(f"{name}: {error.true}")
            except Exception as error:  # a broken file must cost one entry, whatever it breaks
                skipped.append(f"{name}: {type(error).__name__}: {error}")
        return found, skipped

    def _list(self) -> dict[str, Path]:
        raise NotImplementedError

    def _read(self, folder: Path) -> Any:
        raise NotImplementedError


class ManifoldShelf(_DiskShelf):
    """``SteerableManifold`` by name; the same object as long as its files are the same."""

    files = ("manifold.json", "manifold.safetensors")

    def _list(self) -> dict[str, Path]:
        from backend.manifolds.store import manifold_folders

        return manifold_folders()

    def _read(self, folder: Path) -> Any:
        from backend.manifolds.store import read_manifold

        return read_manifold(folder)

    def infos(self) -> tuple[list[ManifoldInfo], list[str]]:
        found, skipped = self.everything()
        return [manifold.info for manifold in found.values()], skipped


class FeaturizerShelf(_DiskShelf):
    """Featurizer folders: what each says of itself, and its browser of blocks."""

    files = ("cfg.json", "browse.json", "browse.safetensors", "card.json", "atoms.json")

    def __init__(self) -> None:
        super().__init__()
        self._browsers: dict[str, tuple[tuple[float, ...], Any]] = {}
        self._weights: dict[str, tuple[tuple[float, ...], Any]] = {}

    def _list(self) -> dict[str, Path]:
        from backend.featurizers.browser import featurizer_folders

        return featurizer_folders()

    def _read(self, folder: Path) -> FeaturizerInfo:
        try:
            about = json.loads((folder / "cfg.json").read_text())
            card = json.loads((folder / "card.json").read_text()) if (folder / "card.json").exists() else {}
            told = {**card, **(about.get("info") or {})}
            site = str(told.get("site", ""))
            return FeaturizerInfo(
                name=folder.name, title=str(card.get("title") or told.get("title") or folder.name),
                model=str(told.get("model") or site.rpartition("/")[0]), site=site,
                variant=str(about["architecture"]).removeprefix("bsf-"), n_blocks=int(about["n_blocks"]),
                d_block=int(about["d_block"]), k=int(about["k"]), r2=float(_find(told, "r2") or 0.0),
                description=str(card.get("summary") or told.get("description") or ""),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise Corrupt(f"The featurizer {folder.name} was to be read.", f"Its cfg.json is not one: {error}.",
                          "Make it again with its recipe.") from error  # fmt: skip

    def browser(self, name: str) -> Any:
        """The block browser of a featurizer; raises ``NotFound`` or ``Corrupt``."""
        self.get(name)
        folder = self.folders()[name]
        stamp = _stamp(folder, self.files)
        held = self._browsers.get(name)
        if held is None or held[0] != stamp:
            from backend.featurizers.browser import BlockBrowser

            held = self._browsers[name] = (stamp, BlockBrowser(folder))
        return held[1]

    def weights(self, name: str) -> Any:
        """The featurizer itself, ready to encode; raises ``NotFound`` or ``Corrupt``."""
        self.get(name)
        folder = self.folders()[name]
        stamp = _stamp(folder, ("cfg.json", "featurizer.safetensors"))
        held = self._weights.get(name)
        if held is None or held[0] != stamp:
            from backend.featurizers.featurizer import Featurizer

            held = self._weights[name] = (stamp, Featurizer.from_pretrained(folder))
        return held[1]

    def infos(self) -> tuple[list[FeaturizerInfo], list[str]]:
        found, skipped = self.everything()
        return list(found.values()), skipped


def _find(told: dict, key: str) -> float | None:
    """A measured number on the card's top level or under ``quality``."""
    for place in (told, told.get("quality") or {}, told.get("facts") or {}):
        if isinstance(place, dict) and isinstance(place.get(key), (int, float)):
            return place[key]
    return None
