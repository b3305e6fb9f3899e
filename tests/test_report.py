"""Reports: a page that needs nothing but itself, whose pictures load, whose numbers are those of the run."""

from __future__ import annotations

import base64
import io
import logging
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from omegaconf import OmegaConf
from PIL import Image

from src.bands import Band, Normalization
from src.datafolder import read_data_folder
from src.datamodules.batches import Batch, Chip, collate
from src.figures import any_letters
from src.labels import IGNORE, ClassTable, LandClass
from src.mapping.ground_truth import UnknownClass
from src.mapping.map_scores import survey
from src.palette import PALETTE
from src.pixel_size import pixel_metres
from src.preparation.prepare import prepare_folder
from src.preparation.settings import Preparation
from src.raster.read import RasterInfo
from src.raster.write import write_geotiff
from src.report.blocks import Bar, Bars, Cell, Matrix
from src.report.charts import Curve, chart, curves_figure
from src.report.evaluation import evaluation_report
from src.report.examples import Extremes, example_section
from src.report.page import Report, Section, write_report
from src.report.pictures import (
    MAX_SIDE,
    RIGHT,
    WRONG,
    class_picture,
    difference,
    north_up,
    scale_bar,
    scene_picture,
)
from src.report.prediction import MappedScene, ground, prediction_report, told_apart
from src.report.preparation import MOST_CHIPS, preparation_report
from src.report.provenance import Run
from src.report.scores import score_sections, score_sentences
from src.report.training import read_history, training_report, validation_examples
from src.report.wording import decimal, grouped, listed, percent
from src.scores import Evaluation, ScoreCounter, Scores
from src.spec import NetworkSpec
from src.tasks import reporting
from tests import rasters
from tests.browser import CHROMIUM, chromium

UTM33 = "EPSG:32633"
VOID = {"meta", "link", "img", "br", "hr", "path", "use"}
CLASSES = ClassTable(
    (LandClass(1, "forest", "#006400"), LandClass(4, "<b>bog & fen</b>", "#a0dc64"), LandClass(9, "water", "#1e5adc"))
)
SPEC = NetworkSpec(
    "unet", "resnet18", {}, (Band("red"), Band("green"), Band("blue")), Normalization.identity(3), 0, CLASSES, (32, 32)
)
RUN = Run("python eval.py a='b c'", "key: <value>", datetime(2026, 3, 4, 5, 6, tzinfo=UTC), {"torch": "2"}, "abc")


class Page(HTMLParser):
    """A parsed page: what it shows, where it leads, and whether its tags match."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.images: list[dict[str, str | None]] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in VOID:
            self._open.append(tag)
        if tag == "img":
            self.images.append(given)
        for name in ("href", "src", "xlink:href", "srcset", "action"):
            if given.get(name) and tag != "img":
                self.links.append(str(given[name]))
        if given.get("id"):
            self.ids.append(str(given["id"]))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"[ \n]+", " ", " ".join(self.text))


def utm() -> str:
    from rasterio.crs import CRS

    return str(CRS.from_string(UTM33).to_wkt())


def examples_and_scores(chips: int = 9, noise: float = 0.5) -> tuple[Extremes, Evaluation]:
    rng = np.random.default_rng(1)
    examples, counter = Extremes(CLASSES), ScoreCounter(CLASSES, per_chip=True)
    for chip in range(chips):
        target = rng.choice(np.array([0, 1, 4, 9], np.uint8), (32, 32))
        wrong = rng.random(target.shape) < noise * chip / chips
        mapped = np.where(wrong, rng.choice(np.array([1, 4, 9], np.uint8), target.shape), np.maximum(target, 1))
        image = rng.integers(0, 255, (32, 32, 4), dtype=np.uint8)
        examples.add(f"chip_{chip}.tif", lambda image=image: image, target, mapped)
        truth, found = (torch.from_numpy(CLASSES.encode(values))[None] for values in (target, mapped))
        counter.add(truth, found, torch.from_numpy(rng.random((1, 32, 32), np.float32)))
    return examples, counter.result()


def evaluation_page(folder: Path) -> Path:
    examples, evaluation = examples_and_scores()
    (folder / "iou 1.csv").write_text("Class,IoU\n")
    report = evaluation_report(
        RUN,
        evaluation,
        title="Scores on 9 chips",
        spec=SPEC,
        checkpoint=Path("best.ckpt"),
        data="data/mine (test)",
        examples=examples,
        files=[(folder / "iou 1.csv", "IoU of each class"), (folder, "everything")],
    )
    return write_report(folder / "report.html", report)


def mapped_scene(folder: Path, name: str, evaluation: Evaluation | None, width: int = 300) -> MappedScene:
    rng = np.random.default_rng(2)
    transform = (10.0, 0.0, 330_000.0, 0.0, -10.0, 5_822_040.0)
    values = np.repeat(rng.choice(np.array([0, 1, 4], np.uint8), (4, 1), p=[0.2, 0.5, 0.3]), width, 1).repeat(50, 0)
    image = rng.integers(1, 5000, (3, *values.shape), dtype=np.uint16)
    scene, output, unsure = (folder / f"{name}{part}.tif" for part in ("", "_map", "_uncertainty"))
    write_geotiff(scene, image, crs=utm(), transform=transform, nodata=0)
    write_geotiff(output, values, crs=utm(), transform=transform, nodata=0, classes=CLASSES)
    write_geotiff(unsure, rng.random(values.shape, np.float32), crs=utm(), transform=transform)
    areas = survey(output, CLASSES).areas
    sample = (values, np.where(values == 4, np.uint8(1), values)) if evaluation else None
    files = [(output, "the map"), (unsure, "doubt")]
    return MappedScene(str(scene), output, areas, unsure, evaluation, files, sample)


def prediction_page(folder: Path) -> Path:
    _, evaluation = examples_and_scores()
    scenes = [mapped_scene(folder, "first", evaluation), mapped_scene(folder, "second", evaluation)]
    return write_report(folder / "report.html", prediction_report(RUN, scenes, spec=SPEC, checkpoint=Path("best.ckpt")))


HISTORY = "epoch,train_loss,val_loss,train_iou,val_iou,val_iou_of/forest,lr\n" + "".join(
    f"{epoch},{2 - epoch / 10},{1.5 if epoch else 100},{epoch / 10},{0.6 - (epoch - 4) ** 2 / 50},nan,{0.1**epoch}\n"
    for epoch in range(8)
)


def training_page(folder: Path) -> Path:
    examples, evaluation = examples_and_scores()
    (folder / "metrics.csv").write_text(HISTORY)
    report = training_report(
        RUN,
        evaluation.pooled,
        read_history(folder / "metrics.csv"),
        spec=SPEC,
        checkpoint=Path("best.ckpt"),
        data="data/mine",
        examples=examples,
        files=[(folder / "metrics.csv", "all numbers")],
    )
    return write_report(folder / "report.html", report)


def preparation_page(folder: Path, caution: str = "few <chips>", **settings: Any) -> Path:
    labels = np.full((96, 160), 4, np.uint8)
    labels[:, 50:110], labels[:10] = 1, 0
    labels[:64, 110:] = 9
    image = rasters.image(folder / "scene one.tif", 96, 160, bands=4, names=["B02", "B03", "B04", "B08"])
    given = Preparation(
        str(image), str(rasters.write(folder / "labels.tif", labels)), (32, 32), (32, 32), 20.0, **settings
    )
    made = prepare_folder(given, folder / "data")
    assert made.summary is not None
    report = preparation_report(
        RUN,
        folder / "data",
        folder / "data/overview.png",
        summary=made.summary,
        cautions=[caution],
        files=[(folder / "data/train_files.csv", "a list")],
    )
    return write_report(folder / "data/overview.html", report)


PAGES = [evaluation_page, prediction_page, training_page, preparation_page]


@pytest.mark.parametrize("make", PAGES)
def test_every_picture_is_inside_decodes_and_says_what_it_shows(make: Callable[[Path], Path], tmp_path: Path) -> None:
    page = Page(make(tmp_path))
    assert len(page.images) >= 6
    for image in page.images:
        head, data = str(image["src"]).split(",", 1)
        assert head == "data:image/webp;base64"
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as decoded:
            decoded.load()
            assert decoded.size == (int(image["width"] or 0), int(image["height"] or 0))
        assert len(image["alt"] or "") > 8


@pytest.mark.parametrize("make", PAGES)
def test_the_page_needs_nothing_from_elsewhere_and_its_links_lead_somewhere(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    page = Page(make(tmp_path))
    html = page.path.read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\s\"'<>]+", html)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert not re.search(r"@import|url\((?!#)|<script|<iframe|<object", html)
    assert len(page.ids) == len(set(page.ids))
    assert page.links
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids
        elif not link.startswith("data:"):
            assert (page.path.parent / unquote(link)).exists(), link


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    page = Page(evaluation_page(tmp_path))
    assert "<b>bog & fen</b>" in page.words
    assert "<b>bog" not in page.path.read_text(encoding="utf-8")
    assert "key: <value>" in page.words


def test_an_evaluation_reports_the_run_and_its_own_numbers(tmp_path: Path) -> None:
    _, evaluation = examples_and_scores()
    words = Page(evaluation_page(tmp_path)).words
    assert "python eval.py a='b c'" in words
    assert "4 March 2026, 05:06" in words
    assert "torch 2" in words
    assert f"Mean IoU {decimal(evaluation.pooled.mean_iou)}" in words
    for iou, support in zip(evaluation.pooled.iou, evaluation.pooled.support, strict=True):
        assert decimal(iou) in words
        assert grouped(support) in words


def test_a_training_names_its_best_epoch_and_draws_what_was_recorded(tmp_path: Path) -> None:
    page = Page(training_page(tmp_path))
    assert "Of 8 epochs, number 4 (counted from 0) is the best" in page.words
    assert "0.600, 0.400 on the training chips" in page.words
    html = page.path.read_text(encoding="utf-8")
    assert html.count("<svg") == 4
    assert "Loss by epoch; in the last one training 1.300, validation 1.500" in html
    assert "nan" not in page.words


def test_a_preparation_shows_chips_classes_and_bands_and_what_was_warned_of(tmp_path: Path) -> None:
    page = Page(preparation_page(tmp_path, scaler=10000.0))
    data = read_data_folder(tmp_path / "data")
    assert "15 chips from 1 scene" in page.words
    assert "15 of 15 windows are chips; dropped: none." in page.words
    assert "few <chips>" in page.words
    assert "scene one" in page.words
    assert "160 × 96 pixels of 10 m" in page.words.replace("\u202f", " ")
    assert data.summary is not None
    assert data.statistics is not None
    for row in data.summary.rows:
        assert grouped(sum(row.counts)) in page.words
        assert f"{row.weight:.4f}" in page.words
        assert percent(row.counts[0] / sum(other.counts[0] for other in data.summary.rows), 1) in page.words
    for name, mean, std in zip(("B02", "B03", "B04", "B08"), data.statistics.mean, data.statistics.std, strict=True):
        assert re.search(rf"{name} +{mean:.6g} +{std:.6g}", page.words)
    assert "divided by 10000" in page.words
    shown = [str(image["alt"]) for image in page.images]
    assert len(shown) == 1 + 2 * (MOST_CHIPS + 2 + 1), "the overview, image and label of three, two and one chips"
    assert sum(alt.startswith("Image of scene one_tile_") for alt in shown) == MOST_CHIPS + 3
    assert "python eval.py a='b c'" in page.words


def test_what_was_warned_of_is_told_without_passwords(tmp_path: Path) -> None:
    page = Page(preparation_page(tmp_path, "CAUTION: https://me:hunter2@host/a.tif has many"))
    assert "hunter2" not in page.path.read_text(encoding="utf-8")
    assert "has many" in page.words


def test_cautions_are_collected_where_they_are_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("src.some.module")
    log.warning("before")
    with reporting.cautions() as said:
        log.warning("CAUTION: %s", "few")
        log.info("no warning")
    log.warning("after")
    assert said == ["CAUTION: few"]
    assert "CAUTION: few" in caplog.text


def test_a_preparation_without_test_chips_says_so_with_dashes(tmp_path: Path) -> None:
    page = Page(preparation_page(tmp_path, shares=(80, 20, 0)))
    assert "Test chips 0" in page.words
    assert "nan" not in page.words.casefold()
    assert re.search(r"All 100\.0\u202f% 100\.0\u202f% –", page.words)


def test_a_training_without_numbers_is_reported_too(tmp_path: Path) -> None:
    examples = Extremes(CLASSES)
    none = Scores(np.zeros((3, 3), np.int64))
    where = {"spec": SPEC, "checkpoint": Path("a.ckpt"), "data": "d", "examples": examples, "files": []}
    words = Page(write_report(tmp_path / "r.html", training_report(RUN, none, [], **where))).words
    assert "No epoch was recorded" in words
    assert "no labelled pixel" in words


def test_a_report_without_a_labelled_pixel_states_no_numbers(tmp_path: Path) -> None:
    """It said nan %, a mean IoU of 0.000 beside no accuracy, and a mean confidence of 0 %."""
    counter = ScoreCounter(CLASSES, per_chip=True)
    nothing = torch.full((1, 4, 4), IGNORE)
    counter.add(nothing, torch.zeros_like(nothing), torch.full((1, 4, 4), 0.9))
    evaluation = counter.result()
    assert evaluation.calibration is not None
    sections = score_sections(evaluation)
    page = Page(write_report(tmp_path / "r.html", Report("Test", "t", "", score_sentences(evaluation), sections)))
    assert "There is no labelled pixel to score against." in page.words
    for name in (
        "Mean IoU",
        "Overall accuracy",
        "Mean F1",
        "Cohen’s kappa",
        "Calibration error",
        "Mean IoU over chips",
    ):
        assert f"{name} – " in page.words
    assert "Mean – – – – – 0" in page.words
    for nonsense in ("nan", "0.000", "confidence of"):
        assert nonsense not in page.words


@pytest.mark.parametrize(("kept", "mark"), [({}, 1), ({"refit": True}, 0), ({"last": True}, 0)])
def test_curves_mark_the_best_epoch_where_it_was_kept(tmp_path: Path, kept: dict[str, bool], mark: int) -> None:
    """A refit keeps its last epoch, and save_top_k=0 too; another was marked as the best."""
    (tmp_path / "metrics.csv").write_text(HISTORY)
    where = {"spec": SPEC, "checkpoint": Path("a.ckpt"), "data": "d", "examples": Extremes(CLASSES), "files": []}
    history = read_history(tmp_path / "metrics.csv")
    report = training_report(RUN, Scores(np.eye(3, dtype=np.int64)), history, **where, **kept)
    (charts,) = report.sections[0].blocks
    assert [drawn.svg.count(">best<") for drawn in charts.charts] == [mark, mark, 0, 0]


def test_a_training_says_which_classes_its_curves_leave_out(tmp_path: Path) -> None:
    names = {value: f"kind {value}" for value in range(1, 14)} | {2: "kind 1"}
    classes = ClassTable.build(names, names)
    history = [{"epoch": 0.0, "val_iou": 0.5} | {f"val_iou_of/{name}": 0.5 for name in classes.distinct_names}]
    none = Scores(np.zeros((13, 13), np.int64))
    where = {"checkpoint": Path("a.ckpt"), "data": "d", "examples": Extremes(classes), "files": []}
    report = training_report(RUN, none, history, spec=replace(SPEC, classes=classes), **where)
    page = Page(write_report(tmp_path / "r.html", report))
    assert "IoU of 12 of the 13 classes, validation" in page.words
    drawn = "".join(re.findall(r"<svg.*?</svg>", page.path.read_text(encoding="utf-8"), re.DOTALL))
    shown = [drawn.count(f">kind {kind}<") for kind in ("1 (1)", "1 (2)", 3, 12, 13)]
    assert shown == [1, 1, 1, 1, 0]
    assert "IoU of each class, validation" in Page(training_page(tmp_path)).words


def test_curves_have_the_colours_and_names_of_their_classes() -> None:
    """The first colour of the palette is the drawing's own, which the page exchanges for green."""
    names = ["_forest", *(f"Land principally occupied by agriculture, kind {n}" for n in range(6)), "森林"]
    curves = [Curve(name, [0, 1], [0, n / 10], color=PALETTE[n]) for n, name in enumerate(names)]
    for drawn in (curves, curves[:2], curves[2:4]):
        figure = curves_figure(drawn, ylabel="IoU", marked=1)
        svg = chart(figure, "classes", "", "").svg
        lines = [line for line in figure.axes[0].lines if line.get_linestyle() == "-"]
        for curve, line in zip(drawn, lines, strict=True):
            assert str(line.get_color()) in svg
            assert np.abs(np.subtract(to_rgb(line.get_color()), to_rgb(curve.color or ""))).max() < 0.01
            assert f">{curve.name[:30]}" in svg
        with any_letters():
            box = (figure.legends or [figure.axes[0].get_legend()])[0].get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert figure.axes[0].get_window_extent().height > 100


class Away(torch.Tensor):
    """Stands for a tensor in a GPU's memory, as a training's chips are there."""

    def cpu(self, *_: Any, **__: Any) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


def test_validation_chips_are_mapped_until_there_are_enough() -> None:
    class Echo(torch.nn.Module):
        """Says of every pixel the class that its first band names."""

        def forward(self, image: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
            assert valid.shape == image.shape[:1] + image.shape[2:]
            return torch.nn.functional.one_hot(image[:, 0].long(), 3).permute(0, 3, 1, 2).float()

    rng = np.random.default_rng(0)
    chips = [
        Chip(f"{n}", rng.integers(0, 3, (3, 8, 8)).astype(np.uint8), np.ones((8, 8), bool), np.zeros((8, 8), np.uint8))
        for n in range(12)
    ]
    chips[1].target[:] = chips[1].image[0]
    chips[2].target[:] = IGNORE
    batches = [collate(chips[start : start + 4]) for start in range(0, 12, 4)]
    found = validation_examples(Echo(), SPEC, batches, torch.device("cpu"), most=8)
    assert found.seen == 7
    assert found.best[0].name == "1"
    assert found.best[0].iou == 1
    assert found.best[0].image.shape == (8, 8, 4)
    away = [batch._replace(**{k: getattr(batch, k).as_subclass(Away) for k in Batch._fields[:3]}) for batch in batches]
    assert validation_examples(Echo(), SPEC, away, torch.device("cpu"), most=8).best[0].iou == 1


def test_a_map_reports_areas_of_its_classes(tmp_path: Path) -> None:
    scene = mapped_scene(tmp_path, "scene", None)
    path = write_report(tmp_path / "r.html", prediction_report(RUN, [scene], spec=SPEC, checkpoint=Path("best.ckpt")))
    words = Page(path).words
    forest = next(area for area in scene.areas if area.name == "forest")
    assert forest.hectares == forest.pixels / 100
    assert f"forest {percent(forest.pixels / 60_000, 1)} {ground(forest.hectares)} {grouped(forest.pixels)}" in words
    assert "no data" in words
    assert "cannot say how right it is" in words


def test_a_map_says_what_all_labelled_pixels_say_also_where_its_pictures_show_few(tmp_path: Path) -> None:
    _, evaluation = examples_and_scores()
    scene = mapped_scene(tmp_path, "scene", evaluation)
    assert scene.sample is not None
    seen = replace(scene, sample=(scene.sample[0], np.zeros_like(scene.sample[1])))
    report = prediction_report(RUN, [seen], spec=SPEC, checkpoint=Path("best.ckpt"))
    words = Page(write_report(tmp_path / "r.html", report)).words
    assert f"differs from the labels in {percent(1 - evaluation.pooled.overall_accuracy)} of what they name" in words


def test_a_map_whose_labels_say_nothing_of_it_is_not_told_that_none_were_given(tmp_path: Path) -> None:
    report = prediction_report(RUN, [mapped_scene(tmp_path, "s", None)], spec=SPEC, checkpoint=Path("best.ckpt"))
    assert "There is no ground truth for it" in Page(write_report(tmp_path / "r.html", report)).words


@pytest.mark.parametrize(
    ("crs", "transform", "size"),
    [
        (4326, (0.00015, 0, 13, 0, -0.0001, 52.6), "10.1 × 11.1\u202fm"),
        (3857, (10, 0, 1.45e6, 0, -10, 6.9e6), "6.07\u202fm"),  # on the ground; 10 m on Web Mercator's plane
    ],
)
def test_pixels_have_their_width_and_height_on_the_ground(
    tmp_path: Path, crs: int, transform: tuple[float, ...], size: str
) -> None:
    from rasterio.crs import CRS

    where = {"crs": CRS.from_epsg(crs).to_wkt(), "transform": transform, "nodata": 0}
    write_geotiff(tmp_path / "s.tif", np.ones((3, 8, 8), np.uint8), **where)
    write_geotiff(tmp_path / "m.tif", np.ones((8, 8), np.uint8), **where)
    scene = MappedScene(str(tmp_path / "s.tif"), tmp_path / "m.tif", survey(tmp_path / "m.tif", CLASSES).areas)
    path = write_report(tmp_path / "r.html", prediction_report(RUN, [scene], spec=SPEC, checkpoint=Path("best.ckpt")))
    assert f"8 × 8 pixels of {size}, " in Page(path).words


def test_shares_are_those_of_the_ground(tmp_path: Path) -> None:
    from rasterio.crs import CRS

    where = {"crs": CRS.from_epsg(4326).to_wkt(), "transform": (0.1, 0, 10, 0, -1, 70), "nodata": 0}
    values = np.full((20, 10), 1, np.uint8)
    values[10:] = 4
    write_geotiff(tmp_path / "s.tif", np.ones((3, 20, 10), np.uint8), **where)
    write_geotiff(tmp_path / "m.tif", values, **where)
    areas = survey(tmp_path / "m.tif", CLASSES).areas
    scene = MappedScene(str(tmp_path / "s.tif"), tmp_path / "m.tif", areas)
    path = write_report(tmp_path / "r.html", prediction_report(RUN, [scene], spec=SPEC, checkpoint=Path("best.ckpt")))
    words = Page(path).words
    whole = sum(area.hectares or 0 for area in areas)
    for area in areas[:2]:
        assert f"{100 * (area.hectares or 0) / whole:.1f}\u202f%" in words
    assert "50.0\u202f%" not in words
    assert "Shares of the whole scene’s ground." in words


def test_what_scores_leave_out_and_what_speaks_against_them_is_said(tmp_path: Path) -> None:
    _, evaluation = examples_and_scores()
    unknown = [UnknownClass(7, "reed", 1000), UnknownClass(None, "city", 200)]
    scene = replace(mapped_scene(tmp_path, "s", evaluation), unknown=unknown, seen="it has seen it")
    path = write_report(tmp_path / "r.html", prediction_report(RUN, [scene], spec=SPEC, checkpoint=Path("best.ckpt")))
    words = Page(path).words
    assert "A further 1\u202f200 labelled pixels are of classes that the network does not know" in words
    assert "7 reed (1\u202f000) and city (200): it takes all of them for something else" in words
    assert "Note: it has seen it." in words
    assert "What has no label, or one that the network does not know, is left blank." in words


def test_a_scene_without_crs_or_measurement_is_reported_too(tmp_path: Path) -> None:
    write_geotiff(tmp_path / "s.tif", np.zeros((3, 8, 8), np.uint8), crs=None, transform=(2, 0, 0, 0, 2, 0), nodata=0)
    write_geotiff(tmp_path / "m.tif", np.zeros((8, 8), np.uint8), crs=None, transform=(2, 0, 0, 0, 2, 0), nodata=0)
    scene = MappedScene(str(tmp_path / "s.tif"), tmp_path / "m.tif", survey(tmp_path / "m.tif", CLASSES).areas)
    path = write_report(tmp_path / "r.html", prediction_report(RUN, [scene], spec=SPEC, checkpoint=Path("best.ckpt")))
    words = Page(path).words
    assert "its map is empty" in words
    assert "\u202fha" not in words


def test_scenes_of_one_file_name_are_told_apart(tmp_path: Path) -> None:
    """Their sections had one title and one anchor, so that all links led to the first."""
    _, evaluation = examples_and_scores()
    scenes = []
    for year in ("2021", "2022"):
        (tmp_path / year).mkdir()
        scenes.append(mapped_scene(tmp_path / year, "scene", evaluation, width=60))
    other = mapped_scene(tmp_path, "other", None, width=60)
    report = prediction_report(RUN, [*scenes, other], spec=SPEC, checkpoint=Path("best.ckpt"))
    page = Page(write_report(tmp_path / "r.html", report))
    assert len(page.ids) == len(set(page.ids))
    assert [link for link in page.links if link.endswith(":-map")] == [
        "#2021/scene:-map",
        "#2022/scene:-map",
        "#other:-map",
    ]
    for name in ("2021/scene.tif (", "2022/scene.tif (", " other.tif ("):
        assert name in page.words
    assert [image["alt"] for image in page.images if "Image of" in str(image["alt"])] == [
        "Image of 2021/scene.tif",
        "Image of 2022/scene.tif",
        "Image of other.tif",
    ]


def test_scenes_are_called_as_shortly_as_tells_them_apart() -> None:
    images = ["a/x/s.tif", "b/x/s.tif", "b/y/s.tif", "s.tif", "b/y/s.img", "t.tif", "same.tif", "same.tif"]
    scenes = told_apart([MappedScene(image, Path("m.tif"), ()) for image in images])
    assert [scene.name for scene in scenes] == [
        *("a/x/s.tif", "b/x/s.tif", "y/s.tif", "s.tif", "s.img", "t.tif", "same.tif", "same.tif"),
    ]
    assert [scene.title for scene in scenes][:6] == ["a/x/s", "b/x/s", "y/s.tif", "s", "s.img", "t"]
    (secret,) = told_apart([MappedScene("https://me:SECRET@host", Path("m.tif"), ())])
    assert secret.name == "me:***@host"


def test_sections_of_one_title_have_anchors_of_their_own(tmp_path: Path) -> None:
    report = Report("Test", "t", "", (), tuple(Section(title, ()) for title in ("A b", "a-b", "a b", "a-b-2")))
    assert report.anchors == ("a-b", "a-b-2", "a-b-3", "a-b-2-2")
    page = Page(write_report(tmp_path / "r.html", report))
    assert page.links == ["data:,", *(f"#{anchor}" for anchor in report.anchors)]


def test_no_name_of_a_map_breaks_its_charts(tmp_path: Path) -> None:
    """A name went into the charts' internal names and into a pattern: there was no report, or one in pieces."""
    _, evaluation = examples_and_scores()
    scenes = [mapped_scene(tmp_path, name, evaluation, width=60) for name in (r'a\1 "b" (<c>)', r"\g<9>")]
    report = prediction_report(RUN, scenes, spec=SPEC, checkpoint=Path("best.ckpt"))
    page = Page(write_report(tmp_path / "r.html", report))
    assert len(page.ids) == len(set(page.ids))
    html = page.path.read_text(encoding="utf-8")
    links = re.findall(r"url\(#(.*?)\)", html)
    assert links
    assert set(links) <= set(page.ids)
    assert all(re.fullmatch(r"scores-[12]-\w+", link) for link in links)


def test_the_sentences_name_best_weakest_and_the_largest_confusion() -> None:
    matrix = [[80, 15, 5], [1, 98, 1], [0, 0, 100]]
    truth = torch.tensor([i for i, row in enumerate(matrix) for n in row for _ in range(n)], dtype=torch.uint8)
    found = torch.tensor([j for row in matrix for j, n in enumerate(row) for _ in range(n)], dtype=torch.uint8)
    counter = ScoreCounter(CLASSES)
    counter.add(truth[None, None], found[None, None])
    first, second = score_sentences(counter.result())
    assert "Of the 300 labelled pixels, 93\u202f%" in first
    assert "best is water (IoU 0.943), weakest forest (0.792)" in second
    assert second.endswith("Most often forest is taken for <b>bog & fen</b>: 15\u202f% of its pixels.")


def test_classes_of_one_name_are_told_apart() -> None:
    counter = ScoreCounter(ClassTable.build([1, 4], {1: "forest", 4: "forest"}))
    counter.add(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 0, 0, 1]]))
    blocks = [block for section in score_sections(counter.result()) for block in section.blocks]
    bars, matrix = (next(block for block in blocks if block.kind == kind) for kind in ("bars", "matrix"))
    assert isinstance(bars, Bars)
    assert isinstance(matrix, Matrix)
    assert [row.name for row in bars.rows] == ["forest (1)", "forest (4)", "Mean"]
    assert matrix.names == ("forest (1)", "forest (4)")
    assert "weakest forest (4)" in score_sentences(counter.result())[1]


def test_the_mean_says_which_classes_it_is_over(tmp_path: Path) -> None:
    counter = ScoreCounter(CLASSES)
    counter.add(torch.tensor([[0, 0, 0, 0]]), torch.tensor([[0, 0, 0, 1]]))
    assert score_sentences(counter.result())[0].endswith("both give it 75\u202f%.")
    report = Report("Test", "t", "", (), score_sections(counter.result()))
    assert "Mean: over the classes that the labels have." in Page(write_report(tmp_path / "r.html", report)).words
    counter.add(torch.tensor([[1, 2]]), torch.tensor([[1, 2]]))
    assert "averaged over the 3 classes that the labels have" in score_sentences(counter.result())[0]
    report = Report("Test", "t", "", (), score_sections(counter.result()))
    assert "Mean: over" not in Page(write_report(tmp_path / "r.html", report)).words


def test_extremes_keep_the_best_and_the_worst_of_many_and_pictures_of_no_others() -> None:
    rng, painted = np.random.default_rng(3), []
    extremes, all_scores = Extremes(CLASSES, most=2), {}
    for chip in range(40):
        target = rng.choice(np.array([1, 9], np.uint8), (20, 20))
        mapped = np.where(rng.random((20, 20)) < rng.random(), 10 - target, target).astype(np.uint8)
        counter = ScoreCounter(CLASSES)
        counter.add(*(torch.from_numpy(CLASSES.encode(v))[None] for v in (target, mapped)))
        all_scores[str(chip)] = counter.result().pooled.mean_iou
        extremes.add(str(chip), lambda: painted.append(1) or np.zeros((20, 20, 4), np.uint8), target, mapped)
    order = sorted(all_scores, key=lambda name: all_scores[name])
    assert [e.name for e in extremes.worst] == order[:2]
    assert [e.name for e in extremes.best] == order[:-3:-1]
    assert len(painted) < 20
    extremes.add("empty", lambda: np.zeros((20, 20, 4), np.uint8), np.zeros((20, 20), np.uint8), mapped)
    assert extremes.seen == 40


def test_few_chips_are_shown_once() -> None:
    examples, _ = examples_and_scores(chips=2)
    titles = [block.title for block in example_section(examples).blocks if block.kind == "strips"]
    assert titles == ["All"]


def test_difference_is_blank_without_label_or_map() -> None:
    painted = difference(np.array([[0, 1, 1, 1]], np.uint8), np.array([[1, 1, 2, 0]], np.uint8))
    assert painted[0].tolist() == [[0, 0, 0, 0], list(RIGHT), list(WRONG), [0, 0, 0, 0]]


@pytest.mark.parametrize("width", [1, 7, 300, 1024, 54_321])
@pytest.mark.parametrize("pixel", [0.25, 10.0, 30.0])
def test_scale_bar_is_as_long_as_it_says(width: int, pixel: float) -> None:
    bar = scale_bar(info(width, (pixel, 0, 0, 0, -pixel, 0), utm()))
    assert bar is not None
    number, unit = bar.label.split("\u202f")
    metres = float(number) * (1000 if unit == "km" else 1)
    assert metres / (width * pixel) == pytest.approx(bar.share)
    assert 0.1 < bar.share <= 0.3
    assert float(f"{metres:e}".split("e")[0]) in (1, 2, 5)


def test_scale_knows_degrees_and_feet_and_says_nothing_without_a_crs() -> None:
    from rasterio.crs import CRS

    degrees = info(100, (0.01, 0, 13, 0, -0.01, 60.5), CRS.from_epsg(4326).to_wkt())
    assert pixel_metres(degrees) == pytest.approx((111_195 * 0.01 * 0.5, 1111.95), rel=1e-3)
    feet = info(100, (10, 0, 0, 0, -10, 0), CRS.from_epsg(2263).to_wkt())
    assert pixel_metres(feet) == pytest.approx((3.048, 3.048), rel=1e-4)
    nowhere = info(100, (1, 0, 0, 0, 1, 0), None)
    assert scale_bar(nowhere) is None
    assert not north_up(nowhere)
    assert north_up(feet)


def info(width: int, transform: tuple[float, ...], crs: str | None) -> RasterInfo:
    assert len(transform) == 6
    return RasterInfo("scene.tif", width, 100, "uint8", crs, transform, (0,), (Band("a"),))


def test_pictures_of_large_rasters_stay_small(tmp_path: Path) -> None:
    scene = mapped_scene(tmp_path, "wide", None, width=5000)
    for shown in (scene_picture(scene.image, "x", ""), class_picture(str(scene.output), CLASSES, "x", "")):
        assert (shown.width, shown.height) == (MAX_SIDE, 48)


def test_matrix_shades_are_shares_of_the_row() -> None:
    rows = Matrix("c", ("a", "b"), ("#000000", "#ffffff"), np.array([[3, 1], [0, 0]])).rows
    assert rows[0][2] == [Cell("3", 75, "75", True), Cell("1", 25, "25", False)]
    assert rows[1][2] == [Cell("0", None, "–", False), Cell("0", None, "–", True)]


@pytest.mark.parametrize("classes", [2, 9])
def test_a_matrix_rounds_no_error_away(tmp_path: Path, classes: int) -> None:
    """300 of 100 000 pixels wrong read 100 % right and 0 % wrong."""
    counts = np.eye(classes, dtype=np.int64)
    counts[0, :2] = 99_700, 300
    matrix = Matrix("c", tuple("abcdefghi"[:classes]), ("#000000",) * classes, counts)
    report = Report("Test", "t", "", (), (Section("Matrix", (matrix,)),))
    html = write_report(tmp_path / "m.html", report).read_text(encoding="utf-8")
    cells = re.findall(r"<td class=.*?<b>(.*?)</b>", html)
    unit = "" if matrix.dense else "\u202f%"
    assert cells[:2] == [f"&gt;99{unit}", f"&lt;1{unit}"]
    assert cells[classes : classes + 2] == [f"0{unit}", f"100{unit}"]


@pytest.mark.parametrize("classes", [2, 9])
def test_a_class_without_labels_has_no_shares(tmp_path: Path, classes: int) -> None:
    counts = np.zeros((classes, classes), np.int64)
    counts[0, 0] = 5
    matrix = Matrix("c", tuple("abcdefghi"[:classes]), ("#000000",) * classes, counts)
    report = Report("Test", "t", "", (), (Section("Matrix", (matrix,)),))
    words = Page(write_report(tmp_path / "m.html", report)).words
    assert words.count("–") == classes * (classes - 1) + 1  # one in the title


def test_many_classes_stand_above_their_columns_by_number(tmp_path: Path) -> None:
    names = tuple(f"class {letter}" for letter in "abcdefghi")
    many, few = (Matrix("c", names[:n], ("#000000",) * n, np.eye(n, dtype=np.int64)) for n in (9, 8))
    texts = []
    for matrix in (many, few):
        report = Report("Test", "t", "", (), (Section("Matrix", (matrix,)),))
        texts.append(Page(write_report(tmp_path / "m.html", report)).words)
    assert "9 class i" in texts[0]
    assert texts[0].count("class i") == 1
    assert texts[1].count("class h") == 2


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50.0), (1.7, 100.0), (float("nan"), None), (None, None)])
def test_bars_stay_in_their_track(share: float | None, expected: float | None) -> None:
    assert Bar("a", share, ("x",)).percent == expected


def test_words() -> None:
    assert [percent(share, 1) for share in (0.0, 1e-5, 0.5, 0.99999, 1.0)] == [
        "0.0\u202f%",
        "<0.1\u202f%",
        "50.0\u202f%",
        ">99.9\u202f%",
        "100.0\u202f%",
    ]
    assert [percent(share) for share in (0.004, 0.997, float("nan"))] == ["<1\u202f%", ">99\u202f%", "–"]
    assert grouped(1234567) == "1\u202f234\u202f567"
    assert listed(["a", "b", "c"]) == "a, b and c"
    assert listed(["a"]) == "a"
    assert [ground(hectares) for hectares in (4.9e5, 123.4567, 4.5, 0.09)] == [
        "4\u202f900\u202fkm²",
        "123\u202fha",
        "4.5\u202fha",
        "0.090\u202fha",
    ]


def test_a_failing_report_is_a_warning_and_leaves_no_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "current_run", lambda *_: RUN)

    def fail(_: Run) -> Report:
        raise ValueError("no such\nbrush")

    with caplog.at_level(logging.DEBUG):
        assert reporting.add_report(tmp_path / "report.html", "eval", OmegaConf.create(), fail) is None
    assert not list(tmp_path.iterdir())
    warning, trace = caplog.records
    assert "ValueError: no such brush" in warning.getMessage()
    assert warning.levelno == logging.WARNING
    assert trace.exc_info


def test_a_report_is_named_last(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reporting, "current_run", lambda *_: RUN)
    with caplog.at_level(logging.INFO):
        good = reporting.add_report(tmp_path / "r.html", "eval", OmegaConf.create(), lambda _: plain_report("a"))
    assert good == tmp_path / "r.html"
    assert good.is_file()
    assert caplog.messages == [str(good)]


def plain_report(title: str) -> Report:
    return Report("Test", title, "", (), (Section("Empty", ()),))


A4 = 680
"""Pixels of CSS between the margins of a page, 180 mm."""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")
def test_chromium_shows_every_picture_without_a_word_and_no_page_is_wider_than_a_phone(tmp_path: Path) -> None:
    loaded = "[...document.images].every(i => i.complete && i.naturalWidth > 0) && document.images.length"
    paper = "getComputedStyle(document.body).backgroundColor"
    ink, drawn = "getComputedStyle(document.body).color", "[...document.querySelectorAll('.charts svg text')]"
    # Words that matplotlib leaves to the default, black, have to follow the page's ink.
    written = f"{drawn}.every(t => getComputedStyle(t).fill === {ink} || t.style.fill)"
    with chromium(tmp_path / "profile") as browser:
        for make in PAGES:
            folder = tmp_path / make.__name__
            folder.mkdir()
            path = make(folder)
            browser.show(path)
            assert browser.evaluate(loaded) == len(Page(path).images)
            light = browser.evaluate(paper)
            browser.show(path, width=360, height=740, dark=True)
            assert browser.evaluate(paper) != light
            assert browser.evaluate(written)
            assert browser.evaluate("document.documentElement.scrollWidth") <= 360
            browser.show(path, width=A4, dark=True, media="print")
            assert browser.evaluate(paper) in (light, "rgba(0, 0, 0, 0)")  # paper is never dark
            assert browser.evaluate("document.documentElement.scrollWidth") <= A4
            assert browser.evaluate("[...document.querySelectorAll('nav')].every(n => !n.offsetHeight)")
            assert browser.evaluate("[...document.images].every(i => i.offsetHeight && i.offsetHeight < 1000)")
            assert browser.evaluate("[...document.querySelectorAll('details > *')].every(e => e.checkVisibility())")
        assert not browser.complaints


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")
def test_names_of_any_length_leave_room_for_the_matrix(tmp_path: Path) -> None:
    names = tuple(f"Land principally occupied by agriculture, with significant areas of kind {n}" for n in range(7))
    matrix = Matrix("c", names, ("#000000",) * 7, np.full((7, 7), 1000))
    path = write_report(tmp_path / "m.html", Report("Test", "t", "", (), (Section("Matrix", (matrix,)),)))
    with chromium(tmp_path / "profile") as browser:
        browser.show(path)
        assert browser.evaluate("(s => s.scrollWidth <= s.clientWidth)(document.querySelector('.scroll'))")
        assert browser.evaluate("document.querySelector('.matrix thead').offsetHeight") < 250
