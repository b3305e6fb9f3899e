"""The report of a preparation: which chips and classes there are, how alike the parts are, what chips look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from src.datafolder import DataFolder, read_data_folder, read_label
from src.passwords import hide_passwords
from src.preparation.split_summary import SplitSummary
from src.quicklook import quicklook
from src.report.blocks import (
    Bar,
    Bars,
    Block,
    Charts,
    Facts,
    Headline,
    Legend,
    Listing,
    Number,
    Picture,
    Pictures,
    Strip,
    Strips,
    Text,
)
from src.report.charts import Curve, chart, curves_figure
from src.report.page import Report, Section
from src.report.pictures import painted, picture
from src.report.provenance import Run, closing_sections
from src.report.wording import counted, extent, grouped, percent
from src.spec import DatasetSpec, SceneSpec
from src.tables import PARTS, BandTable, Part, Sample
from src.text_table import lay_out

MOST_CHIPS = 3
"""Chips of each part that are shown."""
MOST_SCENES = 20
"""Scenes that are listed."""
_CHIP_SIDE = 512
"""Pixels of a chip's picture at most."""


def preparation_report(
    run: Run,
    folder: Path,
    overview: Path,
    *,
    summary: SplitSummary,
    cautions: Sequence[str],
    files: Sequence[tuple[Path, str]],
) -> Report:
    """Put a data folder into a report.

    Args:
        run: What was run.
        folder: The data folder, whole.
        overview: Its picture.
        summary: What the command said at its end.
        cautions: What it warned of.
        files: What it wrote, each with what it is.

    Raises:
        UserError: Something of the folder cannot be read.
    """
    data = read_data_folder(folder)
    spec = data.spec
    chips = {part: data.samples(part, required=False) for part in PARTS}
    width, height = spec.chip_size
    return Report(
        kind="Preparation",
        title=f"{counted(sum(map(len, chips.values())), 'chip')} from {counted(len(spec.scenes), 'scene')}",
        subtitle=f"{folder} · {width} × {height} pixels each · {run.when}",
        lead=(summary.windows, *summary.notes, *map(hide_passwords, cautions)),
        sections=(
            Section("Chips and parts", (Headline(_numbers(chips, spec)), Pictures((_overview(overview),)))),
            Section("Class by class", (_classes(data),)),
            *([Section("Band by band", _bands(spec, data.statistics))] if data.statistics else []),
            Section("What chips look like", _examples(chips, spec)),
            Section("Scenes", (Facts(_scenes(spec.scenes)),)),
            *closing_sections(run, files, ("Data folder", str(folder))),
        ),
    )


def _numbers(chips: Mapping[Part, Sequence[Sample]], spec: DatasetSpec) -> tuple[Number, ...]:
    total = sum(map(len, chips.values()))
    counts = (
        Number(grouped(len(chips[part])), f"{part.capitalize()} chips", f"{percent(len(chips[part]) / total)} of all")
        for part in PARTS
    )
    alike = "mean total variation distance of the parts’ classes; 0 is alike, 1 is apart"
    return (*counts, Number(f"{spec.split['imbalance']:.4f}", "Imbalance", alike))


def _overview(path: Path) -> Picture:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGBA"))
    alt = "Where the chips of each part lie, and bars of the shares that the classes have in each of them"
    return replace(picture(pixels, alt, "Where the chips of each part lie, and which classes they hold"), wide=True)


def _classes(data: DataFolder) -> Bars:
    """Lay out each class's share of the parts, its pixels and its weight, with bars for training."""
    classes = data.spec.classes
    counts = np.array([data.counts(part) for part in PARTS], np.float64)
    with np.errstate(invalid="ignore"):
        shares = counts / counts.sum(1, keepdims=True)
    largest = max(np.nanmax(shares[0], initial=0), 1e-9)
    rows = [
        Bar(name, share[0] / largest, (*(percent(s, 1) for s in share), grouped(pixels), f"{weight:.4f}"), color)
        for name, color, share, pixels, weight in zip(
            classes.distinct_names, classes.colors, shares.T, counts.sum(0), data.class_weights, strict=True
        )
    ]
    whole = (percent(1.0 if part.any() else np.nan, 1) for part in counts)
    rows.append(Bar("All", None, (*whole, grouped(counts.sum()), ""), summary=True))
    caption = (
        "Shares of a part’s labelled pixels, and the pixels in all parts; bars are of training, drawn to the largest "
        "class. The weight is what a pixel of the class counts in the loss with class_weights=true."
    )
    return Bars(caption, ("Class", "Training", "Validation", "Test", "Pixels", "Weight"), tuple(rows))


def _bands(spec: DatasetSpec, statistics: BandTable) -> tuple[Block, ...]:
    """Draw means and deviations over the wavelengths, or over the numbers where some band has none, and list them."""
    mean, std = np.array(statistics.mean), np.array(statistics.std)
    centres = np.array([np.nan if band.wavelength is None else band.wavelength for band in spec.bands])
    shown = np.flatnonzero(np.array(spec.used) & np.isfinite(mean))
    measured = bool(np.isfinite(centres[shown]).all())
    at = centres if measured else np.arange(1, len(mean) + 1)
    order = shown[np.argsort(at[shown], kind="stable")]
    curves = [
        Curve(name, at[order].tolist(), values[order].tolist(), second=second)
        for name, values, second in (("mean", mean, False), ("standard deviation", std, True))
    ]
    scaled = "" if spec.scaler is None else f", divided by {spec.scaler:g}"
    xlabel = "wavelength, nm" if measured else "band"
    figure = curves_figure(curves, xlabel=xlabel, ylabel=f"value{scaled}")
    said = f"Means and standard deviations of {counted(len(shown), 'band')}{scaled}"
    drawn = chart(figure, "bands", said, f"{said}, over the measured pixels of the training chips")
    rows = [
        (
            str(number),
            band.name,
            "" if band.wavelength is None else f"{band.wavelength:g}",
            *(
                f"{value:.6g}" if used and np.isfinite(value) else "not used"
                for value in (mean[number - 1], std[number - 1])
            ),
        )
        for number, (band, used) in enumerate(zip(spec.bands, spec.used, strict=True), start=1)
    ]
    table = "\n".join(lay_out(("band", "name", "nm", "mean", "standard deviation"), rows))
    return Charts((drawn,)), Listing("Every band", table)


def _examples(chips: Mapping[Part, Sequence[Sample]], spec: DatasetSpec) -> tuple[Block, ...]:
    """Show some chips of each part, evenly spread over its list, with their labels."""
    classes = spec.classes
    strips = [
        Strips(part.capitalize(), tuple(_strip(sample, spec) for sample in _spread(samples)))
        for part, samples in chips.items()
        if samples
    ]
    legend = Legend(tuple(zip(classes.names, classes.colors, strict=True)))
    note = "Each stretched by itself. What has no class, or no measurement, is left blank."
    return (Text((note,)), legend, *strips)


def _spread(samples: Sequence[Sample]) -> list[Sample]:
    places = np.linspace(0, len(samples) - 1, min(MOST_CHIPS, len(samples)))
    return [samples[place] for place in places.round().astype(int).tolist()]


def _strip(sample: Sample, spec: DatasetSpec) -> Strip:
    name = sample.image.stem
    image = picture(quicklook(str(sample.image), _CHIP_SIDE), f"Image of {name}", "Image")
    values = read_label(sample.label)
    step = -(-max(values.shape) // _CHIP_SIDE)
    labelled = percent(np.count_nonzero(values) / values.size)
    label = painted(values[::step, ::step], spec.classes, f"Labels of {name}", "Label")
    return Strip(name, f"{labelled} labelled", (image, label))


def _scenes(scenes: Sequence[SceneSpec]) -> tuple[tuple[str, str], ...]:
    rows = [(scene.name, f"{hide_passwords(scene.path)}, {extent(scene)}") for scene in scenes[:MOST_SCENES]]
    more = len(scenes) - len(rows)
    return (*rows, *([("and more", counted(more, "further scene"))] if more else []))
