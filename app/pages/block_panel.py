"""One block: its codes, what it explains, its tuning, examples along its coordinate, and what is active with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import panel as pn
import panel_material_ui as pmui

from app.components import Examples, Picks, SpaceView
from app.pages.layout import column, columns, heading, markup, row
from app.views import blocks as views
from app.views.theme import palette, skeleton
from backend.wire.blocks import BlockDetail, BlockSummary, CloudHeader

LANES = 8


class BlockPanel:
    """The right side of the page.

    ``on_open`` gets the index of a neighbour that was chosen, ``on_colour`` the column that colours the cloud.
    """

    def __init__(self, *, on_open: Callable[[int], None], on_colour: Callable[[str], None]) -> None:
        self.detail: BlockDetail | None = None
        self._on_colour, self._filling = on_colour, False
        self._columns: Mapping[str, np.ndarray] = {}
        wide = {"sizing_mode": "stretch_width", "margin": 0}
        self.title = markup(skeleton("Choose a block on the map or in the list.", height=320))
        self.cloud = SpaceView(
            caption="The block's codes on their principal axes", height_px=300, axes=["1", "2", "3"], **wide
        )
        self.colour = pmui.Select(label="Cloud coloured by", options=[], size="small", **wide)
        self.spectrum = markup()
        self.tuning = markup()
        self.explains = markup()
        self.examples = Examples(lanes=LANES, waiting="Loading examples …", **wide)
        self.heat = pmui.Switch(label="Where it fires", value=True, size="small", margin=0)
        self.neighbours = Picks(waiting="No block fires together with it.", on_pick=on_open, height_px=150, **wide)
        self.body = column(visible=False, gap=24)
        self.colour.param.watch(lambda e: self.paint(e.new), "value")
        self.heat.param.watch(lambda e: setattr(self.examples, "heat", e.new), "value")
        self.examples.heat = True

    def view(self) -> pn.Column:
        self.body.objects = [
            columns(
                column(
                    heading(
                        "Codes",
                        "Where it fires, on the block's own axes. Drag to turn, click and use the wheel to zoom.",
                    ),
                    self.cloud,
                    self.colour,
                    grow="3 1 260px",
                    gap=10,
                ),
                column(
                    heading("Explains", "Held-out R² of each known factor."),
                    self.explains,
                    heading("Spectrum", "Share of the code's variance on each axis."),
                    self.spectrum,
                    grow="2 1 220px",
                ),
                gap=32,
            ),
            column(
                row(
                    column(
                        heading(
                            "Examples along the coordinate",
                            "From the strongest down to the 10th percentile: the strongest alone would flatter it.",
                        ),
                        grow="1 1 240px",
                        gap=10,
                    ),
                    self.heat,
                ),
                self.examples,
                gap=8,
            ),
            columns(
                column(
                    heading("Tuning", "How strongly it fires around each cyclic factor; the radius is the mean code."),
                    self.tuning,
                    grow="3 1 260px",
                    gap=10,
                ),
                column(
                    heading("Neighbours", "Blocks that are active with it."), self.neighbours, grow="2 1 200px", gap=10
                ),
                gap=32,
            ),
        ]
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
        self.detail, self._columns = detail, columns
        self.title.object = views.title(detail, steer=steer)
        names, colours = views.lanes(detail, LANES)
        self.examples.param.update(
            frame=pictures,
            items=views.example_items(detail),
            lane_labels=names,
            lane_colours=colours,
            waiting="This block has no examples.",
        )
        self.explains.object = views.factor_lines(detail)
        self.spectrum.object = views.spectrum(detail)
        self.tuning.object = views.tuning(detail)
        self.neighbours.rows = views.rows(near, most=8)
        words = {("coordinate along its shape" if c == "t" else c.replace("_", " ")): c for c in header.columns}
        chosen = colour if colour in header.columns else (header.columns or [""])[0]
        self._filling = True
        self.colour.options = words
        self.colour.value = chosen or None
        self._filling = False
        shares = [*header.variance, 0.0, 0.0, 0.0][:3]
        self.cloud.param.update(
            points=np.ascontiguousarray(xyz, "<f4").tobytes(),
            caption=f"Code cloud of block {detail.index}, {header.n} points",
            axes=[f"{i + 1} · {100 * v:.0f} %" for i, v in enumerate(shares)],
        )
        self.paint(chosen)
        self.body.visible = True

    def paint(self, name: str | None) -> None:
        """Colour the cloud by one column; the same colours as everywhere for the same place."""
        if not name or name not in self._columns or self.detail is None:
            return
        if not self._filling:
            self._on_colour(name)
        around = views.cyclic(name, self.detail)
        index = views.colour_index(self._columns[name], around=around, name=name)
        self.cloud.param.update(palette=palette("ring" if around else "line"), colour_index=index.tobytes())
