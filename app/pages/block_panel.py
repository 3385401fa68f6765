"""One block: its codes, what it explains, its tuning, examples along its coordinate, and what is active with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import panel as pn
import panel_material_ui as pmui

from app.components import Examples, Picks, SpaceView
from app.pages.layout import column, columns, heading, markup, quiet, row
from app.views import blocks as views
from app.views import tuning
from app.views.theme import palette, skeleton
from backend.wire.blocks import BlockDetail, BlockSummary, CloudHeader

LANES = 8
_WORDS = {"t": "coordinate along its shape", "strength": "strength of the code"}
OVERLAYS = {"strength": "", "direction": "direction", "nothing": "none"}
"""What lies over the examples; the values are what the address holds."""


class BlockPanel:
    """The right side of the page.

    ``on_open`` gets the index of a neighbour that was chosen, ``on_colour`` the column that colours the cloud, and
    ``on_overlay`` what lies over the examples.
    """

    def __init__(
        self, *, on_open: Callable[[int], None], on_colour: Callable[[str], None], on_overlay: Callable[[str], None]
    ) -> None:
        self.detail: BlockDetail | None = None
        self._on_colour, self._on_overlay, self._filling = on_colour, on_overlay, False
        self._columns: dict[str, np.ndarray] = {}
        wide = {"sizing_mode": "stretch_width", "margin": 0}
        self.title = markup(skeleton("Choose a block on the map or in the list.", height=320))
        self.cloud = SpaceView(
            caption="The block's codes on their principal axes", height_px=320, axes=["1", "2", "3"], **wide
        )
        self.colour = pmui.Select(label="Cloud coloured by", options=[], size="small", **wide)
        self.scale = markup()
        self.spectrum, self.strengths, self.tuning, self.explains = markup(), markup(), markup(), markup()
        self.examples = Examples(lanes=LANES, waiting="Loading examples …", heat=True, **wide)
        self.overlay = pmui.Select(label="Over the pictures", options=OVERLAYS, size="small", width=150, margin=0)
        self.reading = quiet()
        self.atoms_said, self.atoms_drawn, self.atoms_list = quiet(), markup(), markup()
        self.atoms_side = column(self.atoms_drawn, grow="1 1 200px")
        self.together, self.about = markup(), markup()
        self.neighbours = Picks(waiting="No block fires together with it.", on_pick=on_open, height_px=168, **wide)
        self.body = column(visible=False, gap=32)
        self.colour.param.watch(lambda e: self.paint(e.new), "value")
        self.overlay.param.watch(lambda e: self.lay(e.new or ""), "value")

    def view(self) -> pn.Column:
        codes = column(
            heading("Codes", "Where it fires, on its own three principal axes. Drag or use the arrows to turn."),
            self.cloud, column(self.colour, self.scale, gap=6), grow="3 1 280px", gap=10,
        )  # fmt: skip
        explains = column(
            heading("Explains", "Held-out R² of each known factor."), self.explains,
            heading("Spectrum", "Share of the code's variance on each axis."), self.spectrum, grow="2 1 220px", gap=10,
        )  # fmt: skip
        examples = column(
            row(column(heading("Examples along the coordinate",
                               "In four activation bands: the strongest alone would flatter it."),
                       self.reading, grow="1 1 240px", gap=0), self.overlay),
            self.examples, gap=8,
        )  # fmt: skip
        tuned = column(
            heading("Tuning", "Mean strength around each cyclic factor; below, how much of its code turns w times "
                    "while the factor turns once. Dashed: what chance reaches once in a hundred."),
            self.tuning, gap=12,
        )  # fmt: skip
        bands = column(heading("Activation bands", "Pictures on which it fires, by strength."), self.strengths,
                       grow="1 1 240px", gap=10)  # fmt: skip
        shattered = column(
            column(heading("Shattered by single directions"), self.atoms_said, gap=0),
            columns(self.atoms_side, column(self.atoms_list, grow="1.4 1 220px"), gap=24),
            gap=10,
        )  # fmt: skip
        others = column(heading("Neighbours", "Blocks that fire where it fires; the bar is how often both do."),
                        self.neighbours, grow="1 1 240px", gap=10)  # fmt: skip
        union = column(heading("Unions", "Blocks that together hold a factor; R² on pictures nothing was chosen on."),
                       self.together, grow="1 1 240px", gap=10)  # fmt: skip
        findings = column(heading("Findings about it"), self.about, grow="1 1 240px", gap=10)
        self.body.objects = [
            columns(codes, explains, gap=32), examples, tuned, columns(bands, others, gap=32),
            columns(union, findings, gap=32), shattered,
        ]  # fmt: skip
        return column(self.title, self.body, grow="1.15 1 500px", gap=24)

    def tell(self, text: str, *, waiting: bool = True) -> None:
        """A line where the block's name will stand."""
        self.title.object = skeleton(text, height=320, waiting=waiting)

    def show(
        self, detail: BlockDetail, pictures: bytes, header: CloudHeader, xyz: np.ndarray,
        columns: Mapping[str, np.ndarray], *, colour: str, steer: str | None, near: Sequence[BlockSummary],
    ) -> None:  # fmt: skip
        """Show a block with its ``pictures`` and its cloud ``xyz`` (N, 3), coloured by the column ``colour``.

        ``columns`` are values (N,) of the cloud's points, ``steer`` the address that steers the block's manifold, and
        ``near`` the blocks that are active with it.
        """
        self.detail, self._columns = detail, {**columns, views.DIRECTION: views.direction(xyz)}
        self.title.object = views.title(detail, steer=steer)
        names, colours = views.lanes(detail, LANES)
        self.examples.param.update(
            frame=pictures,
            items=views.example_items(detail),
            lane_labels=names,
            lane_colours=colours,
            waiting="This block has no examples.",
        )
        around = detail.topology in views.AROUND
        self.explains.object = views.factor_lines(detail)
        self.spectrum.object = views.spectrum(detail)
        self.strengths.object = tuning.strengths(detail)
        self.tuning.object = tuning.of_factors(detail)
        self.atoms_said.object = f'<div class="atlas-quiet">{tuning.told_atoms(detail)}</div>'
        self.atoms_drawn.object, self.atoms_list.object = tuning.atoms(detail, around=around), tuning.atom_lines(detail)
        self.atoms_side.visible = bool(detail.atoms)
        self.together.object = views.together(detail, detail.featurizer)
        self.about.object = views.about(detail)
        self.neighbours.rows = views.overlapping(near, detail)
        words = {_WORDS.get(c, c.replace("_", " ")): c for c in header.columns}
        words["direction (angle on axes 1 and 2)"] = views.DIRECTION
        chosen = colour if colour in words.values() else (header.columns or [""])[0]
        self._filling = True
        self.colour.options = words
        self.colour.value = chosen or None
        self._filling = False
        shares = [*header.variance, 0.0, 0.0, 0.0][:3]
        self.cloud.param.update(
            points=np.ascontiguousarray(xyz, "<f4").tobytes(),
            caption=f"Code cloud of block {detail.index}, {header.n:,} points",
            axes=[f"{i + 1} · {100 * v:.0f} %" for i, v in enumerate(shares)],
            arrows=views.arrows(detail, tuning.ATOMS),
        )
        self.paint(chosen)
        self.body.visible = True

    def lay(self, overlay: str) -> None:
        """Lay strength, direction or nothing over the examples."""
        self.examples.param.update(heat=overlay != "none", turn_palette=palette("ring") if overlay else [])
        self.reading.object = '<div class="atlas-quiet">' + {
            "": "Over each picture: where the block fires, and how strongly.",
            "direction": "Over each picture: the hue is the direction of the code, as in the cloud coloured by it.",
            "none": "The pictures alone.",
        }[overlay] + "</div>"  # fmt: skip
        self._on_overlay(overlay)

    def paint(self, name: str | None) -> None:
        """Colour the cloud by one column; the same colours as everywhere for the same place."""
        if not name or name not in self._columns or self.detail is None:
            return
        if not self._filling:
            self._on_colour(name)
        around = views.cyclic(name, self.detail)
        index = views.colour_index(self._columns[name], around=around, name=name)
        self.cloud.param.update(palette=palette("ring" if around else "line"), colour_index=index.tobytes())
        self.scale.object = views.colour_scale(self._columns[name], around=around, name=name)
