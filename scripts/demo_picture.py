"""Draw the demo's result, scene | labels | map, and say how good the map is.

python scripts/demo_picture.py
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch, Rectangle

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script finds only what lies beside it

from src.atomic import whole_file
from src.class_map import ClassMap, ClassRule
from src.datafolder import DATASET, read_dataset
from src.errors import UserError
from src.figures import any_letters, shortened
from src.labels import ClassTable
from src.mapping.ground_truth import LabelOptions, ground_truth
from src.quicklook import colorize, quicklook
from src.raster.read import describe, open_raster
from src.spec import DatasetSpec

RANDOM_FOREST = 0.492
"""Mean IoU of a per-pixel random forest (300 trees, 4000 pixels a class) on the real scene's part to map, without
the labels under its bright haze."""

LONGEST_NAME, LEGEND_LETTERS = 40, 130
"""Letters of a class's name, and of a row of the legend, in which each name takes six more for its colour."""

INK, PAPER, BLANK = "#1f2933", "#ffffff", "#eef0f2"


def read_labels(path: Path, like: Path, spec: DatasetSpec) -> npt.NDArray[np.uint8]:
    """Read labels in the classes of a data folder, by the class map that it was made with.

    Args:
        path: Polygons or a raster.
        like: The raster whose grid they are put on.
        spec: The data folder's description.

    Returns:
        H × W class values, 0 where there is no class.
    """
    rules = tuple(ClassRule(rule["value"], tuple(rule["merge"])) for rule in spec.config.get("class_map") or ())
    options = LabelOptions(ClassMap(rules) if rules else None, spec.config.get("label_field"))
    info = describe(like)
    with ground_truth(str(path), info, spec.classes, options).open() as reader:
        labels: npt.NDArray[np.uint8] = reader.read(info.window)
    return labels


def read_scores(path: Path) -> dict[str, float]:
    """Read ``iou.csv``: IoU by class; its last row is the mean.

    Raises:
        UserError: It is another file.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = [(row.get("Class"), row.get("IoU")) for row in csv.DictReader(file)]
    if "Mean IoU" not in dict(rows):
        raise UserError(
            f"{path} has no row Mean IoU; expected the iou.csv that predict.py writes. Give it as --scores."
        )
    return {str(name): float(score or "nan") for name, score in rows}


def draw(
    scene: npt.NDArray[np.uint8],
    label: npt.NDArray[np.uint8],
    mapped: npt.NDArray[np.uint8],
    classes: ClassTable,
    titles: Sequence[str],
    pixel: float,
    source: str = "",
) -> Figure:
    """Draw three panels side by side, with a legend and a scale bar.

    Args:
        scene: H × W × 4, the scene in colours.
        label: H × W class values, 0 = unclassified.
        mapped: H × W class values, 0 = nothing mapped.
        classes: Names and colours.
        titles: One line for each panel.
        pixel: Metres across a pixel.
        source: Small print below.
    """
    height, width = label.shape
    panel = 4.0
    layout = ConstrainedLayoutEngine(wspace=0.02, w_pad=0.06)
    figure = Figure(figsize=(3 * panel + 0.6, panel * height / width + 1.1), dpi=130, layout=layout)
    figure.set_facecolor(PAPER)
    for axes, picture, title in zip(figure.subplots(1, 3), (scene, label, mapped), titles, strict=True):
        axes.imshow(picture if picture.ndim == 3 else colorize(picture, classes), interpolation="nearest")
        axes.set_title(title, fontsize=12, color=INK, pad=8)
        axes.set(xticks=[], yticks=[], facecolor=BLANK)
        axes.spines[:].set_visible(False)
        if picture is scene:
            _scale_bar(axes, height, width, pixel)
            axes.set_xlabel(source, fontsize=7, color="#6b7785", loc="left")
    patches = [Patch(facecolor=entry.color) for entry in classes.classes]
    patches.append(Patch(facecolor=BLANK, edgecolor="#c3c9d0", linewidth=0.6))
    names = [shortened(name, LONGEST_NAME) for name in (*classes.names, "unclassified")]
    columns = max(1, min(7, len(patches), LEGEND_LETTERS // (max(map(len, names)) + 6)))
    figure.set_figheight(figure.get_figheight() + 0.22 * (-(-len(names) // columns) - 1))
    legend = figure.legend(
        patches,
        ["class"] * len(patches),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=11,
        labelcolor=INK,
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)  # here, since a label that begins with _ is left out
        text.set_parse_math(False)  # $ is a letter of a class's name
    return figure


def _scale_bar(axes: Axes, height: int, width: int, pixel: float) -> None:
    """Put a bar of a round length, a fifth to a half of the width, into the lower left corner."""
    length = max(
        (digit * 10.0**power for power in range(8) for digit in (1, 2, 5) if digit * 10**power <= width * pixel / 2),
        default=pixel,
    )
    across, margin, thick = length / pixel, width * 0.045, height * 0.008
    box = (margin * 0.55, height - margin - thick - height * 0.045)
    axes.add_patch(
        Rectangle(box, across + margin * 0.9, height - box[1] - margin * 0.45, facecolor="#00000080", linewidth=0)
    )
    axes.add_patch(Rectangle((margin, height - margin - thick), across, thick, facecolor="white", linewidth=0))
    words = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    axes.text(
        margin + across / 2, height - margin - 2 * thick, words, color="white", fontsize=10, ha="center", va="bottom"
    )


def make_picture(options: argparse.Namespace) -> list[str]:
    """Write the picture and return the lines that close the demo.

    Raises:
        UserError: A file of an earlier step is missing.
    """
    for path in (options.image, options.label, options.map, options.scores, options.data_dir / DATASET):
        if not path.is_file():
            raise UserError(f"There is no {path}; run the demo's earlier steps first: make demo")
    spec = read_dataset(options.data_dir / DATASET)
    classes = spec.classes
    scores = read_scores(options.scores)
    mean = scores.pop("Mean IoU")
    names = dict(zip(map(str, classes.values), classes.names, strict=True))
    with open_raster(options.map) as dataset:
        mapped, pixel = dataset.read(1), abs(dataset.transform.a)
    with open_raster(options.image) as dataset:
        tags: Mapping[str, Any] = dataset.tags()
    real = "Copernicus" in tags.get("SOURCE", "")
    label = read_labels(options.label, options.map, spec)
    titles = (
        f"{tags['SENSOR']}, {tags['DATE']}" if real else "Synthetic scene",
        "OpenStreetMap land use" if real else "Labels",
        f"Map (mIoU {mean:.3f})",
    )
    source = "Contains modified Copernicus Sentinel data 2017. Land use © OpenStreetMap contributors." if real else ""
    figure = draw(quicklook(str(options.image)), label, mapped, classes, titles, pixel, source)
    with whole_file(options.output) as partial, any_letters():
        figure.savefig(partial)
    return closing_lines(mean, {names[value]: score for value, score in scores.items()}, real, options)


def closing_lines(mean: float, scores: Mapping[str, float], real: bool, options: argparse.Namespace) -> list[str]:
    """Say how good the map is and where everything lies."""
    compare = f" (a random forest on single pixels: {RANDOM_FOREST}, without those under haze)" if real else ""
    return [
        f"mIoU {mean:.3f} on the part to map, which training has not seen{compare}",
        "  " + "  ".join(f"{name} {value:.3f}" for name, value in scores.items()),
        f"map      {options.map}",
        f"scores   {options.scores.parent / 'scores.csv'}, {options.scores}",
        f"picture  {options.output}",
    ]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; the defaults are the demo's files."""
    parser = argparse.ArgumentParser(description="Draw scene, labels and map side by side.")
    add = parser.add_argument
    add("--image", type=Path, default=Path("data/demo/map_image.tif"), help="the scene that was mapped")
    add("--label", type=Path, default=Path("data/demo/landuse.gpkg"), help="polygons with the field fclass")
    add("--data-dir", type=Path, default=Path("data/demo/chips"), help="data folder that names the classes")
    add("--map", type=Path, default=Path("logs/predict/demo/map.tif"), help="the map")
    add("--scores", type=Path, default=Path("logs/predict/demo/iou.csv"), help="its scores")
    add("--output", type=Path, default=Path("logs/demo/map.png"), help="the picture")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the picture that the command line describes and print the demo's last lines."""
    try:
        print("\n".join(make_picture(parse_arguments(arguments))))
    except UserError as error:
        sys.exit(f"demo_picture.py: error: {error}")


if __name__ == "__main__":
    main()
