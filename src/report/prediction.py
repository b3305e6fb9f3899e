"""The report of a prediction: what a map shows, how much of each class, how sure the network is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from src.labels import UNCLASSIFIED, ClassTable
from src.mapping.areas import ClassArea
from src.mapping.ground_truth import UnknownClass
from src.mapping.map_scores import Values
from src.passwords import hide_passwords
from src.quicklook import colorize
from src.raster.read import describe
from src.report.blocks import Bar, Bars, Block, Legend, Pictures, Text
from src.report.page import Report, Section
from src.report.pictures import (
    AGREEMENT,
    class_picture,
    difference,
    gradient,
    mean_of,
    picture,
    scene_picture,
    uncertainty_picture,
)
from src.report.provenance import Run, closing_sections, described_network
from src.report.scores import score_sections, score_sentences
from src.report.wording import THIN, decimal, extent, grouped, listed, percent
from src.scores import Evaluation
from src.spec import NetworkSpec


@dataclass(frozen=True)
class MappedScene:
    """One scene with what was made of it.

    Attributes:
        image: The scene.
        output: Its class map.
        areas: How much of the map each class covers.
        uncertainty: Raster of uncertainty 0–1 in its first band, None for none.
        evaluation: Scores against a ground truth, None without one.
        files: Everything that was written, each with what it is.
        sample: Class values of the map and of the ground truth, decimated alike, H × W; None for none.
        caution: What about its numbers is so unlike those of training that the map cannot be trusted; None for nothing.
        seen: What speaks against its scores alone: that the network was trained on it, or that training's labels were
            read with a class map and these without one; None for nothing.
        unknown: Classes of the ground truth that the network does not know.
        called: What tells it from the other scenes; its file name if None.
        titled: The same for headings, where it needs no suffix; its file name without one if None.
    """

    image: str
    output: Path
    areas: Sequence[ClassArea]
    uncertainty: Path | None = None
    evaluation: Evaluation | None = None
    files: Sequence[tuple[Path, str]] = ()
    sample: tuple[Values, Values] | None = None
    caution: str | None = None
    seen: str | None = None
    unknown: Sequence[UnknownClass] = ()
    called: str | None = None
    titled: str | None = None

    @property
    def name(self) -> str:
        """What sentences call the scene."""
        return self.called or Path(self.image).name

    @property
    def title(self) -> str:
        """What headings call the scene."""
        return self.titled or Path(self.image).stem

    @property
    def classes(self) -> list[ClassArea]:
        """The classes that the map has, largest first."""
        found = [area for area in self.areas if area.value != UNCLASSIFIED and area.pixels]
        return sorted(found, key=lambda area: -area.percent)


def prediction_report(run: Run, scenes: Sequence[MappedScene], *, spec: NetworkSpec, checkpoint: Path) -> Report:
    """Put one or more maps into a report.

    Args:
        run: What was run.
        scenes: What was mapped, at least one.
        spec: The network.
        checkpoint: Its checkpoint.
    """
    scenes, several = told_apart(scenes), len(scenes) > 1
    title = f"Maps of {len(scenes)} scenes" if several else f"Map of {scenes[0].title}"
    sections = [
        section
        for number, scene in enumerate(scenes, 1)
        for section in _scene_sections(scene, spec, number if several else None)
    ]
    files = tuple(file for scene in scenes for file in scene.files)
    mapped = ("Scenes" if several else "Scene", "\n".join(scene.image for scene in scenes))
    return Report(
        kind="Prediction",
        title=title,
        subtitle=f"Mapped by {checkpoint.name} · {run.when}",
        lead=tuple(sentence for scene in scenes for sentence in _sentences(scene)),
        sections=(
            *sections,
            *closing_sections(run, files, *described_network(spec, "Checkpoint", checkpoint), mapped),
        ),
    )


def told_apart(scenes: Sequence[MappedScene]) -> list[MappedScene]:
    """Call each scene by its file name, with as many of its folders before it as tell it from the others."""
    paths = [PurePath(hide_passwords(scene.image)) for scene in scenes]
    names, titles = _distinct(paths), _distinct([path.parent / path.stem for path in paths])
    return [
        replace(scene, called=name, titled=title if titles.count(title) == 1 else name)
        for scene, name, title in zip(scenes, names, titles, strict=True)
    ]


def _distinct(paths: Sequence[PurePath]) -> list[str]:
    """Shorten each path to the fewest of its last parts that no other path ends with; to all where others are equal."""
    ends = [[path.parts[-count:] for count in range(1, len(path.parts) + 1)] for path in paths]
    owners = Counter(end for own in ends for end in own)
    alone = (next((end for end in own if owners[end] == 1), own[-1]) for own in ends)
    return [str(PurePath(*parts)) for parts in alone]


def _sentences(scene: MappedScene) -> tuple[str, ...]:
    """Say what a map shows."""
    found = scene.classes
    if not found:
        return (f"{scene.name} has no measurement anywhere: its map is empty.",)
    parts = [f"{area.name} ({percent(area.percent / 100)})" for area in found[:6]]
    rest = [f"{len(found) - 6} more"] if len(found) > 6 else []
    sentence = f"{scene.name} ({_extent(scene)}) is mapped as {listed(parts + rest)}."
    if scene.caution:
        sentence += f" {'Do not trust it' if scene.evaluation is None else 'Note'}: {scene.caution}"
    if scene.evaluation is None:
        return (sentence, "There is no ground truth for it, so this page cannot say how right it is.")
    return (sentence, *score_sentences(scene.evaluation), *_limits(scene))


def _limits(scene: MappedScene) -> tuple[str, ...]:
    """Say what the scores leave out, and why they may be too good."""
    words = []
    if scene.unknown:
        pixels = grouped(sum(entry.pixels for entry in scene.unknown))
        named = [f"{entry.title} ({grouped(entry.pixels)})" for entry in scene.unknown[:6]]
        rest = [f"{len(scene.unknown) - 6} more"] if len(scene.unknown) > 6 else []
        words.append(
            f"A further {pixels} labelled pixels are of classes that the network does not know, "
            f"{listed(named + rest)}: it takes all of them for something else, and the scores leave them out."
        )
    return (*words, f"Note: {scene.seen}.") if scene.seen else tuple(words)


def _extent(scene: MappedScene) -> str:
    mapped = f", {ground(hectares)} with measurements" if (hectares := _sum(scene.classes)) is not None else ""
    return extent(describe(scene.image)) + mapped


def _sum(areas: Sequence[ClassArea]) -> float | None:
    known = [area.hectares for area in areas if area.hectares is not None]
    return sum(known) if len(known) == len(areas) else None


def _scene_sections(scene: MappedScene, spec: NetworkSpec, number: int | None) -> list[Section]:
    """Show a scene; its number is that among several, None for the only one."""
    several, classes = number is not None, spec.classes
    prefix = f"{scene.title}: " if several else ""
    sections = [
        Section(f"{prefix}map" if several else "The map", _map_blocks(scene, spec)),
        Section(f"{prefix}areas" if several else "How much of each class", (_areas(scene, classes),)),
    ]
    if scene.uncertainty is not None:
        title = f"{prefix}uncertainty" if several else "How sure the network is"
        sections.append(Section(title, _uncertainty_blocks(scene, scene.uncertainty)))
    if scene.sample is not None and scene.evaluation is not None:
        title = f"{prefix}where map and labels agree" if several else "Where map and labels agree"
        sections.append(Section(title, _agreement_blocks(scene, classes, scene.evaluation, *scene.sample)))
    if scene.evaluation is not None:
        scored = score_sections(scene.evaluation, f"scores-{number or 1}")
        sections += [Section(prefix + section.title, section.blocks) for section in scored]
    return sections


def _map_blocks(scene: MappedScene, spec: NetworkSpec) -> tuple[Block, ...]:
    classes, told = spec.classes, "The scene, in the bands nearest to red, green and blue"
    shown = [entry for entry in classes.classes if entry.value in {area.value for area in scene.classes}]
    words = ", ".join(f"{area.name} {percent(area.percent / 100)}" for area in scene.classes) or "no class"
    pictures = (
        class_picture(str(scene.output), classes, f"Map of {scene.name}: {words}", "The map"),
        scene_picture(scene.image, f"Image of {scene.name}", told, spec),
    )
    return Legend(tuple((entry.name, entry.color) for entry in shown)), Pictures(pictures)


def _areas(scene: MappedScene, classes: ClassTable) -> Bars:
    colors = dict(zip(classes.values, classes.colors, strict=True))
    whole = _sum(scene.areas)
    measured, pixels = whole is not None, sum(area.pixels for area in scene.areas)
    sizes = [area.pixels if area.hectares is None or not measured else area.hectares for area in scene.areas]
    total, largest = whole or max(1, pixels), max(sizes, default=0) or 1
    rows = []
    for area, size in zip(scene.areas, sizes, strict=True):
        extent = (ground(size),) if measured else ()
        cells = (percent(size / total, 1), *extent, grouped(area.pixels))
        rows.append(Bar(area.name, size / largest, cells, colors.get(area.value)))
    extent = (ground(total),) if measured else ()
    rows.append(Bar("Whole scene", None, (percent(1.0, 1), *extent, grouped(pixels)), summary=True))
    of = "the whole scene’s ground" if measured else "the pixels of the whole scene"
    note = f"Shares of {of}. Bars are drawn to the largest class."
    missing = "" if measured else " The scene has no CRS that tells lengths, so there are no areas."
    return Bars(note + missing, ("Class", "Share", *(("Area",) if measured else ()), "Pixels"), tuple(rows))


def _uncertainty_blocks(scene: MappedScene, path: Path) -> tuple[Block, ...]:
    mean = mean_of(str(path))
    text = (
        f"Dark is sure, bright is undecided between classes (normalised entropy of the probabilities, 0 to 1). The "
        f"mean is {decimal(mean, 2)}. Look twice at what is bright: at class borders that is natural, over wide areas "
        "it says that the training chips lack such places."
    )
    shown = uncertainty_picture(str(path), f"Uncertainty of the map of {scene.name}; mean {decimal(mean, 2)}")
    return Text((text,)), gradient("sure", "undecided"), Pictures((shown,))


def _agreement_blocks(
    scene: MappedScene, classes: ClassTable, evaluation: Evaluation, mapped: Values, truth: Values
) -> tuple[Block, ...]:
    info = describe(scene.image)
    of_unknown = ", or one that the network does not know," if scene.unknown else ""
    differs = percent(1 - evaluation.pooled.overall_accuracy)  # of all pixels; the pictures may show every n-th
    pictures = (
        picture(colorize(truth, classes), f"Labels of {scene.name}", "The labels", drawn=True, info=info),
        picture(
            difference(truth, mapped),
            f"Where the map of {scene.name} differs from its labels: {differs} of the labelled pixels",
            f"The map differs from the labels in {differs} of what they name",
            drawn=True,
            info=info,
        ),
    )
    return (
        Text((f"What has no label{of_unknown} is left blank.",)),
        Legend((*zip(classes.names, classes.colors, strict=True), *AGREEMENT)),
        Pictures(pictures),
    )


def ground(hectares: float) -> str:
    """An area as readers of maps write it: hectares, from 10 000 ha on square kilometres."""
    if hectares >= 1e4:
        return f"{grouped(hectares / 100)}{THIN}km²"
    if hectares >= 100:
        return f"{grouped(hectares)}{THIN}ha"
    return f"{hectares:.{1 if hectares >= 1 else 3}f}{THIN}ha"
