"""Class probabilities along a path, one panel an arm: where the straight way leaks, it shows."""

from __future__ import annotations

from bokeh.layouts import gridplot
from bokeh.models import Legend, LegendItem
from bokeh.plotting import figure

from app.views.theme import ARMS
from backend.wire.text import PathResponse


def style(plot: figure, *, dark: bool) -> figure:
    """The one look of all plots: no frame, quiet grid, text in the page's ink."""
    ink = "#e6e6e6" if dark else "#2b2f33"
    plot.background_fill_alpha = plot.border_fill_alpha = 0
    plot.outline_line_color = None
    plot.xgrid.grid_line_color = None
    plot.ygrid.grid_line_color = ink
    plot.ygrid.grid_line_alpha = 0.12
    for axis in plot.axis:
        axis.axis_line_alpha = 0.4
        axis.minor_tick_line_color = None
        axis.axis_line_color = axis.major_tick_line_color = ink
        axis.axis_label_text_color = axis.major_label_text_color = ink
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "11px"
    plot.title.text_color = ink
    plot.title.text_font_size = "12px"
    plot.toolbar_location = None
    return plot


def path_figure(path: PathResponse, colours: list[str], *, dark: bool = False):
    """One panel for each arm; classes in their manifold colours, everything off the concept as a grey dashed line."""
    panels = []
    for arm in path.arms:
        title, _ = ARMS[arm.arm]
        plot = style(
            figure(
                height=230, x_range=(0, 1), y_range=(0, 1.02), sizing_mode="stretch_width", min_width=180, tools="hover",
                tooltips=[("", "$name"), ("way", "$x{0.00}"), ("p", "$y{0.00}")],
                title=f"{title}: energy {sum(arm.energy) / max(len(arm.energy), 1):.3f} a step",
                x_axis_label="share of the way", y_axis_label="probability",
            ),
            dark=dark,
        )  # fmt: skip
        for i, label in enumerate(path.labels):
            values = [row[i] for row in arm.classes]
            if max(values) > 0.02:
                plot.line(path.fraction, values, line_width=2.5, color=colours[i % len(colours)], name=label.strip())
        other = plot.line(path.fraction, arm.other, line_width=2, line_dash="dashed", color="#8a8f98", name="other")
        legend = Legend(items=[LegendItem(label="off the concept", renderers=[other])], location="top_right")
        legend.background_fill_alpha = 0
        legend.border_line_alpha = 0
        legend.label_text_font_size = "11px"
        legend.label_text_color = "#e6e6e6" if dark else "#2b2f33"
        plot.add_layout(legend)
        panels.append(plot)
    return gridplot([panels], sizing_mode="stretch_width", toolbar_location=None)
