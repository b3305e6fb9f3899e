"""Charts for reports: matplotlib draws them, the page colours them."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from src.figures import ACCENT, GREY, INK, any_letters, shortened
from src.report.blocks import Chart

SECOND = "#b3541e"
"""Colour of the second of two curves."""
_VARIABLES = {INK: "--ink", ACCENT: "--accent", GREY: "--muted", SECOND: "--second", "#000000": "--ink"}
_INVISIBLE = re.compile(r"<metadata>.*?</metadata>|<\?xml.*?\?>|<!DOCTYPE.*?>", re.DOTALL)


@dataclass(frozen=True)
class Curve:
    """A line of a chart: its name, its x and y values, whether it is the second of two, or a colour of its own."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    second: bool = False
    color: str | None = None


def chart(figure: Figure, name: str, alt: str, caption: str) -> Chart:
    """Turn a figure into SVG that takes its colours from the page, light or dark, and its font from the reader.

    Args:
        figure: Drawn in the colours of ``src.figures``.
        name: Word of letters, digits and - that no other chart of the page has; it keeps their internal names apart.
        alt: What it shows, numbers included.
        caption: Below it.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), any_letters():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = _INVISIBLE.sub("", buffer.getvalue()).strip()
    for color, variable in _VARIABLES.items():
        svg = re.sub(re.escape(color), f"var({variable})", svg, flags=re.IGNORECASE)
    svg = re.sub(r'<svg ([^>]*?)width="[\d.]+pt"', r"<svg \1", svg, count=1)
    svg = re.sub(r'<svg ([^>]*?)height="[\d.]+pt"', r"<svg \1", svg, count=1)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'url\(#|href="#', lambda link: f"{link[0]}{name}-", svg)
    return Chart(svg, alt, caption)


_MOST_INSIDE = 4
"""Names of curves that find room between the curves."""
_SHORT_NAME, _LONGEST_NAME = 20, 36
"""Letters of a name that finds room between the curves, and of one that finds any."""
_LETTERS = 66
"""Of a legend's row: what fits below a chart, of which each name takes six more for its line."""
_WIDE = 30
"""How many times the smallest value the largest may be before an axis becomes logarithmic."""


def curves_figure(
    curves: Sequence[Curve], *, ylabel: str, xlabel: str = "epoch", marked: float | None = None, loss: bool = False
) -> Figure:
    """Draw curves over epochs, or over what else is counted or measured in whole numbers.

    Args:
        curves: What to draw; a curve without a point is left out.
        ylabel: What is drawn.
        xlabel: Over what.
        marked: The epoch that was kept, as a vertical line.
        loss: Whether outliers are to be expected: y is logarithmic where they would flatten everything else.
    """
    figure = Figure(figsize=(4.4, 2.7), layout="constrained")
    axes = figure.add_subplot()
    shown = [curve for curve in curves if len(curve.x)]
    for curve in shown:
        style = "o" if len(curve.x) == 1 else "-"
        color = _kept(curve.color) if curve.color else SECOND if curve.second else ACCENT
        axes.plot(curve.x, curve.y, style, label="a curve", color=color, linewidth=1.6)
    if marked is not None:
        axes.axvline(marked, color=GREY, linestyle=":", linewidth=1.2, label="best")
    values = [y for curve in shown for y in curve.y]
    if loss and values and max(values) > _WIDE * min(values) > 0:
        axes.set_yscale("log")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    names = [shortened(curve.name, _LONGEST_NAME) for curve in shown] + ["best"] * (marked is not None)
    legend = None
    longest = max(map(len, names), default=0)
    if len(names) > _MOST_INSIDE or longest > _SHORT_NAME:
        columns = max(1, min(3, _LETTERS // (longest + 6)))
        legend = figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    elif len(names) > 1:
        legend = axes.legend(frameon=False, fontsize=9)
    for text, name in zip(legend.get_texts() if legend else (), names, strict=False):
        text.set_text(name)  # here, since a label that begins with _ is left out
        text.set_parse_math(False)  # $ is a letter of a class's name
    if legend in figure.legends:
        figure.set_figheight(figure.get_figheight() + 0.2 * max(0, -(-len(names) // columns) - 2))
    return figure


def _kept(color: str) -> str:
    """Return a class's colour, one step beside the drawing's own where it is one of those: the page changes these."""
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    own = color.lower() in {ACCENT, GREY, SECOND}
    return f"#{red:02x}{green:02x}{blue + 1:02x}" if own else color
