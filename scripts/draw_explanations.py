"""Draw the pictures of docs/explanation.md, with the functions that they explain.

    python scripts/draw_explanations.py

Each lies on a light card of its own, so that it reads on light and dark pages.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from src.grid import Blend, Window, axis_spans, chip_windows  # noqa: E402  the checkout has to be found first
from src.ground import Places  # noqa: E402
from src.scores import confusion_matrices, mean_iou  # noqa: E402
from src.splits import Split, Strategy, split_chips  # noqa: E402

IMAGES = ROOT / "docs/images"
CARD, INK, GREY = "#fbfaf7", "#1f2933", "#8a94a0"
BLUE, ORANGE, PINK, GREEN = "#3b82f6", "#f59e0b", "#ec4899", "#2f9e5b"
LENGTH, WINDOW, HALO = 640, 256, 51
"""A scene of 640 pixels and the demo of ``overlap=20``: 51 pixels are 20 % of a chip of 256."""


def windows() -> Figure:
    """Windows over one row of a scene, and the share that each has in every pixel, faded and cropped."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(1.3, 1, 1))
    spans = axis_spans(LENGTH, WINDOW, HALO, "cosine")
    for row, (span, color) in enumerate(zip(spans, (BLUE, ORANGE, PINK, GREEN, GREY), strict=False)):
        y = len(spans) - row - 1
        top.add_patch(Rectangle((span.start, y + 0.15), WINDOW, 0.7, facecolor=color, alpha=0.25, linewidth=0))
        left, right = (0 if row == 0 else HALO), (0 if row == len(spans) - 1 else HALO)
        inner = span.start + left, WINDOW - left - right
        top.add_patch(Rectangle((inner[0], y + 0.15), inner[1], 0.7, facecolor=color, alpha=0.75, linewidth=0))
        top.text(span.start + WINDOW / 2, y + 0.5, f"window {row + 1}", ha="center", va="center", color="white")
    top.set(xlim=(0, LENGTH), ylim=(0, len(spans)), yticks=[], title="what each window reads; pale: its halo")
    titles: tuple[tuple[Axes, Blend, str], ...] = (
        (middle, "cosine", "blend=cosine: the outer half of the halo is left out, the rest fades"),
        (bottom, "crop", "blend=crop: a border in the middle of what two windows share"),
    )
    for axes, blend, title in titles:
        for span, color in zip(axis_spans(LENGTH, WINDOW, HALO, blend), (BLUE, ORANGE, PINK, GREEN), strict=False):
            axes.fill_between(np.arange(span.first, span.stop), span.weights, color=color, alpha=0.55, step="mid")
        axes.set(ylim=(0, 1.05), yticks=[0, 1], ylabel="share", title=title)
    bottom.set_xlabel("pixel of the scene")
    return figure


def scores() -> Figure:
    """One map of three chips, and the mean IoU three ways of averaging give it."""
    water = np.zeros((3, 12, 12), np.int64)
    water[0], water[1, :, :6], water[2, 9:11, 2:4] = 1, 1, 1
    mapped = water.copy()
    mapped[1, :, 5:6], mapped[2] = 0, 0
    mapped[2, 2:4, 8:10] = 1
    matrices = confusion_matrices(torch.from_numpy(water), torch.from_numpy(mapped), 2)
    pooled = mean_iou(matrices.sum(0))
    chips = float(np.mean([mean_iou(matrix) for matrix in matrices]))
    batches = float(np.mean([mean_iou(matrices[:2].sum(0)), mean_iou(matrices[2])]))
    figure = Figure(figsize=(8, 2.7), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1.1, 1))[0]
    for number, axes in enumerate(left.subplots(1, 3), start=1):
        truth, found = water[number - 1], mapped[number - 1]
        image = np.where(truth[..., None] == 1, (0.55, 0.72, 0.98), (0.93, 0.9, 0.8))
        image[truth != found] = (0.93, 0.28, 0.6)
        axes.imshow(image)
        axes.set(xticks=[], yticks=[], title=f"chip {number}: IoU {mean_iou(matrices[number - 1]):.2f}")
    left.supxlabel("blue: water   sand: land   pink: mapped wrongly", fontsize=9)
    axes = right.subplots()
    values = {"all pixels": pooled, "mean over chips": chips, "mean over batches": batches}
    bars = axes.barh(list(values), list(values.values()), color=(GREEN, ORANGE, GREY), height=0.6)
    axes.bar_label(bars, fmt="%.2f", padding=4)
    axes.set(xlim=(0, 1.1), title="mean IoU of this map")
    axes.invert_yaxis()
    return figure


def splits() -> Figure:
    """The same overlapping chips assigned in three ways; no two parts share ground."""
    rng = np.random.default_rng(4)
    size, step = (128, 128), (64, 64)
    found = [w for w in chip_windows(896, 1152, size, step) if w.row_stop <= 896 and w.column_stop <= 1152]
    place = np.array([[w.row, w.column] for w in found]) / 900
    counts = np.stack([np.exp(-((place - center) ** 2).sum(1) / 0.3) for center in rng.random((4, 2))], 1)
    counts = np.rint(counts * 16384 / counts.sum(1, keepdims=True)).astype(np.int64)
    figure = Figure(figsize=(8, 2.9), layout="constrained")
    cases: tuple[tuple[str, Strategy, tuple[int, int], int], ...] = (
        ("chips side by side (step = size)", "balanced", (128, 128), 0),
        ("overlapping chips", "balanced", step, 0),
        ("blocks, 64 px apart", "blocks", step, 64),
    )
    for axes, (title, strategy, wanted, buffer) in zip(figure.subplots(1, 3), cases, strict=True):
        keep = [i for i, w in enumerate(found) if not (w.row % wanted[1] or w.column % wanted[0])]
        chips = [found[i] for i in keep]
        split = split_chips(counts[keep], places(chips, size, wanted), (70, 15, 15), strategy, 42, buffer)
        draw_split(axes, chips, split)
        axes.set(title=title, xticks=[], yticks=[], xlim=(0, 1152), ylim=(896, 0), aspect="equal")
    handles = [Rectangle((0, 0), 1, 1, color=color) for color in (BLUE, ORANGE, PINK, "#d9dde2")]
    names = ["training", "validation", "test", "left out at a seam"]
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False)
    return figure


def places(chips: list[Window], size: tuple[int, int], step: tuple[int, int]) -> Places:
    """Describe chips of one scene."""
    rows, columns = (np.array([getattr(w, name) for w in chips], np.int64) for name in ("row", "column"))
    return Places(np.zeros(len(chips), np.int64), rows, columns, size, step, np.zeros((0, 2), np.int64))


def draw_split(axes: Axes, chips: list[Window], split: Split) -> None:
    """Fill each chip's ground with its part's colour; what was left out first."""
    for part, color in ((-1, "#d9dde2"), (0, BLUE), (1, ORANGE), (2, PINK)):
        for chip in (chip for chip, mine in zip(chips, split.parts, strict=True) if mine == part):
            corner = chip.column + 2, chip.row + 2
            axes.add_patch(Rectangle(corner, chip.width - 4, chip.height - 4, facecolor=color, edgecolor="white"))


def main(folder: Path = IMAGES) -> None:
    """Write all of them as SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": "specdeepmap",
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.titlesize": 10,
        "axes.facecolor": CARD,
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    }
    with rc_context(style):  # type: ignore[arg-type]  # its names are literals to matplotlib's stubs
        for name, draw in (("windows", windows), ("scores", scores), ("splits", splits)):
            path = folder / f"{name}.svg"
            draw().savefig(path, facecolor=CARD, metadata={"Date": None})
            print(path)


if __name__ == "__main__":
    main()
