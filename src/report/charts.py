"""Charts for reports: matplotlib draws them, the page colours them."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from src.figures import ACCENT, GREY, INK
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
        name: Word that no other chart of the page has; it keeps their internal names apart.
        alt: What it shows, numbers included.
        caption: Below it.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = _INVISIBLE.sub("", buffer.getvalue()).strip()
    for color, variable in _VARIABLES.items():
        svg = re.sub(re.escape(color), f"var({variable})", svg, flags=re.IGNORECASE)
    svg = re.sub(r'<svg ([^>]*?)width="[\d.]+pt"', r"<svg \1", svg, count=1)
    svg = re.sub(r'<svg ([^>]*?)height="[\d.]+pt"', r"<svg \1", svg, count=1)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", svg)
    return Chart(svg, alt, caption)


_MOST_INSIDE = 4
"""Names of curves that find room between the curves."""
_WIDE = 30
"""How many times the smallest value the largest may be before an axis becomes logarithmic."""


def curves_figure(curves: Sequence[Curve], *, ylabel: str, marked: float | None = None, loss: bool = False) -> Figure:
    """Draw curves over epochs.

    Args:
        curves: What to draw; a curve without a point is left out.
        ylabel: What is drawn.
        marked: The epoch that was kept, as a vertical line.
        loss: Whether outliers are to be expected: y is logarithmic where they would flatten everything else.
    """
    figure = Figure(figsize=(4.4, 2.7), layout="constrained")
    axes = figure.add_subplot()
    shown = [curve for curve in curves if len(curve.x)]
    for curve in shown:
        style, color = "o" if len(curve.x) == 1 else "-", curve.color or (SECOND if curve.second else ACCENT)
        axes.plot(curve.x, curve.y, style, label=curve.name, color=color, linewidth=1.6)
    if marked is not None:
        axes.axvline(marked, color=GREY, linestyle=":", linewidth=1.2, label="best")
    values = [y for curve in shown for y in curve.y]
    if loss and values and max(values) > _WIDE * min(values) > 0:
        axes.set_yscale("log")
    axes.set(xlabel="epoch", ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    names = len(shown) + (marked is not None)
    legend = None
    if names > _MOST_INSIDE:
        legend = figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    elif names > 1:
        legend = axes.legend(frameon=False, fontsize=9)
    for text in legend.get_texts() if legend else ():
        text.set_parse_math(False)  # $ is a letter of a class's name
    return figure
