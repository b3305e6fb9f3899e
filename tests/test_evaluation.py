"""Evaluation of chips, with a network whose answer is known: the band with the largest number wins."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from torch import nn

from src import evaluation
from src.bands import Band, Normalization
from src.chips import LabelledChip
from src.errors import UserError
from src.evaluation import batches, check_fit, chip_exporter, chips_unlike_training, evaluate, read_ahead
from src.grid import Window, chip_windows
from src.labels import ClassTable
from src.models.lanes import computing_with
from src.models.network import Network
from src.raster.georeference import shifted
from src.raster.write import write_geotiff
from src.scores import Scores
from src.spec import DatasetSpec, NetworkSpec, SceneSpec
from src.tables import Sample

CPU = torch.device("cpu")
CLASSES = ClassTable.build([10, 20, 30], {10: "water", 20: "forest", 30: "field"})
BANDS = tuple(Band(name) for name in ("wet", "dark", "flat"))
SPEC = NetworkSpec("-", "-", {}, BANDS, Normalization.identity(3), -1.0, CLASSES, (8, 8))
NODATA = -1
WHOLE = Window(0, 0, 8, 8)
TRANSFORM = (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_800_000.0)
DATA = DatasetSpec(
    (
        SceneSpec("scene", "scene.tif", 26, 21, None, TRANSFORM),
        SceneSpec("later", "later.tif", 26, 21, None, TRANSFORM),
    ),
    *(BANDS, (True,) * 3, -1.0, "int16", (8, 8), (4, 4), CLASSES, {"strategy": "balanced"}, None, 0),
)


class LargestBand(nn.Module):
    """Logits are the bands themselves; sides must be multiples of ``multiple``, as encoders demand."""

    def __init__(self, multiple: int = 1) -> None:
        super().__init__()
        self.multiple = multiple

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if image.shape[-1] % self.multiple or image.shape[-2] % self.multiple:
            raise RuntimeError("wrong size")
        return image


@pytest.mark.parametrize(("count", "expected"), [(20, [2, 6, 10, 14, 18]), (3, [0, 1, 2])])
def test_whether_chips_are_like_those_of_training_is_judged_by_some_from_all_over_their_list(
    count: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stand there scene by scene."""
    read, pixels = list[Sample](), np.ones((3, 2, 2), np.uint8)

    def read_chip(sample: Sample, _: NetworkSpec) -> SimpleNamespace:
        read.append(sample)
        return SimpleNamespace(image=pixels, valid=pixels[0] > 0, info=len(read))

    monkeypatch.setattr(evaluation, "read_chip", read_chip)
    monkeypatch.setattr(evaluation, "unlike_training", lambda _, chips, found, __: f"{len(chips)} {found.count[0]}")
    samples = [Sample(Path(f"{number}.tif"), Path("label.tif")) for number in range(count)]
    assert chips_unlike_training(SPEC, samples) == f"{len(expected)} {4 * len(expected)}"
    assert read == [samples[number] for number in expected]


def network(multiple: int = 1, bands: int = 3) -> Network:
    return Network(LargestBand(multiple), Normalization.identity(bands))


def write_chip(
    folder: Path,
    name: str,
    answer: np.ndarray,
    values: np.ndarray,
    bands: Sequence[Band] = BANDS,
    window: Window = WHOLE,
) -> Sample:
    """Write a chip of a scene's window that the network maps to ``answer`` (class indices, -1 for nodata)."""
    image = np.stack([np.where(answer < 0, NODATA, 5 * (answer == index)) for index in range(3)]).astype(np.int16)
    order = [BANDS.index(Band(band.name)) for band in bands] if all(band in BANDS for band in bands) else [0, 1, 2]
    sample = Sample(folder / "images" / f"{name}.tif", folder / "labels" / f"{name}.tif")
    for path in (sample.image, sample.label):
        path.parent.mkdir(parents=True, exist_ok=True)
    grid = {"crs": rasterio.CRS.from_epsg(32633).to_wkt(), "transform": shifted(TRANSFORM, window)}
    write_geotiff(sample.image, image[order], nodata=NODATA, bands=bands, **grid)
    write_geotiff(sample.label, values.astype(np.uint8), **grid)
    return sample


def random_chips(folder: Path, count: int, size: tuple[int, int] = (8, 8), seed: int = 0) -> list[Sample]:
    rng = np.random.default_rng(seed)
    return [
        write_chip(folder, f"scene_tile_{i}_{seed}", rng.integers(-1, 3, size), rng.choice([0, 10, 20, 30], size))
        for i in range(count)
    ]


def pixels(samples: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray]:
    """Truth (class values) and right answer (class values, 0 where there is no measurement) of all pixels."""
    truth, answer = [], []
    for sample in samples:
        with rasterio.open(sample.image) as image, rasterio.open(sample.label) as label:
            cube = image.read()
            valid = (cube != NODATA).all(0)
            answer.append(np.where(valid, np.array([10, 20, 30])[cube.argmax(0)], 0).ravel())
            truth.append(label.read(1).ravel())
    return np.concatenate(truth), np.concatenate(answer)


def test_every_pixel_with_class_and_measurement_counts_once(tmp_path: Path) -> None:
    samples = random_chips(tmp_path, 5)
    truth, answer = pixels(samples)
    expected = [[int(((truth == t) & (answer == a)).sum()) for a in CLASSES.values] for t in CLASSES.values]
    seen: list[int] = []
    result = evaluate(network(), SPEC, samples, device=CPU, batch_size=2, advance=seen.append)
    np.testing.assert_array_equal(result.pooled.matrix, expected)
    assert seen == [2, 2, 1]
    assert result.calibration is not None
    assert result.calibration.pixels.sum() == np.sum(expected)


def cut(folder: Path, values: np.ndarray, size: int, step: int) -> list[Sample]:
    """Cut a scene's labels into chips; what the network says of a pixel is another thing in each of them."""
    rng = np.random.default_rng(4)
    samples = []
    for window in chip_windows(values.shape[0], values.shape[1], (size, size), (step, step)):
        label = np.zeros((size, size), np.uint8)
        inside = values[window.row : window.row_stop, window.column : window.column_stop]
        label[: inside.shape[0], : inside.shape[1]] = inside
        answer = np.where(rng.random(label.shape) < 0.9, rng.integers(0, 3, label.shape), -1)
        name = f"scene_tile_{window.column}_{window.row}"
        samples.append(write_chip(folder, name, answer, label, window=window))
    return [samples[i] for i in rng.permutation(len(samples))]  # as a split leaves them


def owners(samples: Sequence[Sample], size: int, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Per pixel the nearest of the chips that show it, of equally near ones the first, and whether several show it."""
    places = [tuple(map(int, sample.image.stem.split("_")[-2:])) for sample in samples]
    rows, columns = np.indices(shape)
    apart = np.array([(rows + 0.5 - y - size / 2) ** 2 + (columns + 0.5 - x - size / 2) ** 2 for x, y in places])
    shown = np.array([(rows >= y) & (rows < y + size) & (columns >= x) & (columns < x + size) for x, y in places])
    return np.where(shown, apart, np.inf).argmin(0), shown.sum(0) > 1


@pytest.mark.parametrize("described", [True, False])
def test_pixels_that_overlapping_chips_show_count_once_in_the_chip_whose_centre_is_nearest(
    tmp_path: Path, described: bool
) -> None:
    """Chips of step 4 and size 8 counted each pixel up to four times over all pixels."""
    values = np.random.default_rng(5).choice([0, 10, 20, 30], (21, 26)).astype(np.uint8)
    samples = cut(tmp_path, values, 8, 4)
    result = evaluate(network(), SPEC, samples, device=CPU, data=DATA if described else None, batch_size=3)
    expected, shared = np.zeros((3, 3), int), 0
    nearest, several = owners(samples, 8, values.shape)
    answers = [pixels([sample])[1].reshape(8, 8) for sample in samples]
    for row, column in zip(*np.nonzero(values), strict=True):
        x, y = map(int, samples[nearest[row, column]].image.stem.split("_")[-2:])
        if mapped := answers[nearest[row, column]][row - y, column - x]:
            expected[CLASSES.values.index(values[row, column]), CLASSES.values.index(mapped)] += 1
            shared += several[row, column]
    np.testing.assert_array_equal(result.pooled.matrix, expected)
    assert result.calibration is not None
    assert result.calibration.pixels.sum() == expected.sum()
    assert result.shared == shared


def test_scores_of_chips_and_batches_are_of_whole_chips_where_they_overlap(tmp_path: Path) -> None:
    values = np.random.default_rng(5).choice([0, 10, 20, 30], (12, 12)).astype(np.uint8)
    samples = cut(tmp_path, values, 8, 4)
    result = evaluate(network(), SPEC, samples, device=CPU, batch_size=1)
    alone = [evaluate(network(), SPEC, [sample], device=CPU) for sample in samples]
    assert result.chip_means is not None
    for i in range(3):
        occurring = [one.pooled.iou[i] for one in alone if np.isfinite(one.pooled.iou[i])]
        assert result.chip_means.iou[i] == pytest.approx(np.mean(occurring))
    assert result.batch_mean_iou == pytest.approx(np.mean([np.nanmean(one.pooled.iou) for one in alone]))
    assert result.pooled.matrix.sum() < sum(one.pooled.matrix.sum() for one in alone)


@pytest.mark.parametrize("changed", ["step", "date", "folder", "place"])
def test_chips_that_do_not_show_the_same_pixels_of_one_scene_count_whole(tmp_path: Path, changed: str) -> None:
    values = np.random.default_rng(5).choice([10, 20, 30], (16, 16)).astype(np.uint8)
    samples = cut(tmp_path / "a", values, 8, 8)
    if changed == "date":
        for sample in cut(tmp_path / "b", values, 8, 8):
            later = sample.image.rename(samples[0].image.with_name(sample.image.name.replace("scene", "later")))
            samples.append(Sample(later, sample.label))
    elif changed == "folder":
        samples += cut(tmp_path / "b", values, 8, 8)
    elif changed == "place":  # numbers of tiles are no pixels: city_tile_1_0 is the second one
        samples = [
            Sample(s.image.rename(s.image.with_name(f"city_tile_{n % 2}_{n // 2}.tif")), s.label)
            for n, s in enumerate(sorted(samples, key=lambda sample: sample.image.stem))
        ]
    result = evaluate(network(), SPEC, samples, device=CPU, data=None if changed == "place" else DATA)
    alone = [evaluate(network(), SPEC, [sample], device=CPU).pooled.matrix for sample in samples]
    np.testing.assert_array_equal(result.pooled.matrix, np.sum(alone, 0))
    assert result.shared == 0


def test_parts_that_a_split_raster_cut_from_one_window_count_each_its_own_labels(tmp_path: Path) -> None:
    values = np.random.default_rng(5).choice([10, 20, 30], (8, 8)).astype(np.uint8)
    upper = np.where(np.arange(8)[:, None] < 4, values, 0)
    answer = np.zeros((8, 8), int)
    test = write_chip(tmp_path, "scene_test_tile_0_0", answer, upper)
    beside = write_chip(tmp_path, "scene_tile_4_0", answer, np.roll(upper, 4, 1), window=Window(0, 4, 8, 8))
    train = write_chip(tmp_path, "scene_train_tile_0_0", answer, values - upper)
    one = evaluate(network(), SPEC, [test, beside], device=CPU, data=DATA)
    assert one.pooled.matrix.sum() == 4 * 12
    assert one.shared == 4 * 4
    both = evaluate(network(), SPEC, [test, train], device=CPU, data=DATA)
    assert both.pooled.matrix.sum() == 64


def test_batch_size_does_not_matter(tmp_path: Path) -> None:
    samples = random_chips(tmp_path, 4)
    one, many = (evaluate(network(), SPEC, samples, device=CPU, batch_size=size) for size in (1, 16))
    np.testing.assert_array_equal(one.pooled.matrix, many.pooled.matrix)
    assert one.chip_means is not None
    assert many.chip_means is not None
    np.testing.assert_allclose(one.chip_means.iou, many.chip_means.iou)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_the_mean_over_batches_is_that_of_batch_size_chips_whatever_the_threads(tmp_path: Path, threads: int) -> None:
    class WithParameter(LargestBand):  # without any a network has one lane
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

    samples = random_chips(tmp_path, 18)
    alone = [evaluate(network(), SPEC, [sample], device=CPU) for sample in samples]
    expected = 0.0
    for start in range(0, 18, 8):
        scores = Scores(np.sum([one.pooled.matrix for one in alone[start : start + 8]], 0))
        expected += min(8, 18 - start) * float(np.nanmean(scores.iou)) / 18
    with computing_with(threads):
        lanes = Network(WithParameter(), Normalization.identity(3))
        assert evaluate(lanes, SPEC, samples, device=CPU, batch_size=8).batch_mean_iou == pytest.approx(expected)


def test_chips_of_other_sizes_are_padded_to_what_the_network_takes(tmp_path: Path) -> None:
    samples = random_chips(tmp_path, 2) + random_chips(tmp_path, 2, (5, 11), 1)
    padded = evaluate(network(multiple=8), SPEC, samples, device=CPU)
    np.testing.assert_array_equal(padded.pooled.matrix, evaluate(network(), SPEC, samples, device=CPU).pooled.matrix)
    assert padded.pooled.matrix.sum() == evaluate(network(), SPEC, samples, device=CPU).pooled.matrix.sum()


def test_a_size_that_the_network_cannot_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no chips of 5 × 8 px.*trained on 8 × 8 px"):
        evaluate(network(multiple=1000), SPEC, random_chips(tmp_path, 1, (8, 5)), device=CPU)


def test_bands_are_taken_by_name(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    answer, values = rng.integers(0, 3, (8, 8)), rng.choice([10, 20, 30], (8, 8))
    plain = write_chip(tmp_path / "plain", "a", answer, values)
    mixed = write_chip(tmp_path / "mixed", "a", answer, values, [BANDS[2], BANDS[0], BANDS[1]])
    first, second = (evaluate(network(), SPEC, [sample], device=CPU) for sample in (plain, mixed))
    np.testing.assert_array_equal(first.pooled.matrix, second.pooled.matrix)


def test_a_chip_with_other_bands_is_refused(tmp_path: Path) -> None:
    sample = write_chip(tmp_path, "a", np.zeros((8, 8), int), np.full((8, 8), 10), [Band(n) for n in "xyz"])
    with pytest.raises(UserError, match=r"a\.tif has 3 bands \(x, y, z\); the checkpoint expects 3 bands"):
        evaluate(network(), SPEC, [sample], device=CPU)


def test_nodata_goes_to_an_imported_network_as_data(tmp_path: Path) -> None:
    samples = random_chips(tmp_path, 2)
    truth, _ = pixels(samples)
    imported = evaluate(network(), replace(SPEC, nodata_is_data=True), samples, device=CPU)
    assert imported.pooled.matrix.sum() == (truth != 0).sum()
    assert imported.pooled.matrix.sum() > evaluate(network(), SPEC, samples, device=CPU).pooled.matrix.sum()


@pytest.mark.parametrize("nodata_is_data", [False, True])
def test_numbers_beyond_single_precision_are_no_measurements(tmp_path: Path, nodata_is_data: bool) -> None:
    """−1.8e308 in float64, which no file declares, made probabilities NaN and the calibration's error with them."""
    spec = replace(SPEC, nodata=None, nodata_is_data=nodata_is_data)
    blurred = Network(nn.AvgPool2d(3, 1, 1), Normalization.identity(3))  # which spreads NaN
    results = []
    for name, value in (("lowest", np.finfo(np.float64).min), ("infinite", -np.inf)):
        cube = np.random.default_rng(0).random((3, 8, 8))
        cube[:, 4, 4] = value
        sample = Sample(tmp_path / f"{name}.tif", tmp_path / "label.tif")
        write_geotiff(sample.image, cube, crs=None, transform=TRANSFORM, bands=BANDS)
        write_geotiff(sample.label, np.full((8, 8), 20, np.uint8), crs=None, transform=TRANSFORM)
        results.append(evaluate(blurred, spec, [sample], device=CPU))
    found, expected = results
    assert found.pooled.matrix.sum() == 63
    np.testing.assert_array_equal(found.pooled.matrix, expected.pooled.matrix)
    assert found.calibration is not None
    assert expected.calibration is not None
    assert found.calibration.expected_error == expected.calibration.expected_error


@pytest.mark.parametrize("mask", [True, False])
def test_predictions_are_blanked_where_the_label_is_0_only_if_asked_for(tmp_path: Path, mask: bool) -> None:
    """In SpecDeepMap they were blanked with "crop unclassified labels" on and off."""
    samples = random_chips(tmp_path, 2)
    truth, answer = pixels(samples)
    evaluate(network(), SPEC, samples, device=CPU, export=chip_exporter(tmp_path / "out", samples, CLASSES, mask))
    written = []
    for sample in samples:
        with rasterio.open(tmp_path / "out" / sample.image.name) as dataset:
            written.append(dataset.read(1).ravel())
    np.testing.assert_array_equal(np.concatenate(written), np.where(truth == 0, 0, answer) if mask else answer)


def test_exported_chips_have_grid_colours_and_nodata(tmp_path: Path) -> None:
    samples = random_chips(tmp_path, 1)
    evaluate(network(), SPEC, samples, device=CPU, export=chip_exporter(tmp_path / "out", samples, CLASSES, True))
    with rasterio.open(tmp_path / "out" / samples[0].image.name) as dataset:
        assert dataset.crs.to_epsg() == 32633
        assert tuple(dataset.transform)[:6] == TRANSFORM
        assert dataset.dtypes == ("uint8",)
        assert dataset.nodata == 0
        assert dataset.colormap(1)[20] == (*CLASSES.classes[1].rgb, 255)


def test_chips_of_one_name_in_two_folders_do_not_overwrite_each_other(tmp_path: Path) -> None:
    samples = random_chips(tmp_path / "north", 1) + random_chips(tmp_path / "south", 1)
    evaluate(network(), SPEC, samples, device=CPU, export=chip_exporter(tmp_path / "out", samples, CLASSES, True))
    assert len(list((tmp_path / "out").rglob("*.tif"))) == 2


def test_chips_that_differ_in_the_end_of_their_names_only_do_not_overwrite_each_other(tmp_path: Path) -> None:
    # What looks like a suffix may be a date; ENVI files have none.
    names = ("a_2020.06.01.tif", "a_2020.06.02", "a_2020.06.03", "b.tif", "b.img")
    samples = []
    for number, name in enumerate(names):
        sample = write_chip(tmp_path, f"chip{number}", np.full((8, 8), number % 3), np.full((8, 8), 10))
        samples.append(Sample(sample.image.rename(sample.image.with_name(name)), sample.label))
    export = chip_exporter(tmp_path / "out", samples, CLASSES, mask_unclassified=False)
    evaluate(network(), SPEC, samples, device=CPU, export=export)
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found == {"a_2020.06.01.tif", "a_2020.06.02.tif", "a_2020.06.03.tif", "b.tif.tif", "b.img.tif"}


def test_a_label_of_an_unknown_class_is_refused(tmp_path: Path) -> None:
    sample = write_chip(tmp_path, "a", np.zeros((8, 8), int), np.full((8, 8), 40))
    with pytest.raises(UserError, match="has the value 40; the checkpoint knows the classes 10, 20, 30"):
        evaluate(network(), SPEC, [sample], device=CPU)


def test_a_label_of_another_size_is_refused(tmp_path: Path) -> None:
    sample = write_chip(tmp_path, "a", np.zeros((8, 8), int), np.full((8, 7), 10))
    with pytest.raises(UserError, match="is 7 × 8 pixels, its image 8 × 8"):
        evaluate(network(), SPEC, [sample], device=CPU)


def test_chips_without_a_single_labelled_pixel_are_refused(tmp_path: Path) -> None:
    sample = write_chip(tmp_path, "a", np.full((8, 8), -1), np.full((8, 8), 10))
    with pytest.raises(UserError, match="None of the 1 chips has a pixel with both a class and a measurement"):
        evaluate(network(), SPEC, [sample], device=CPU)


def test_a_batch_too_large_for_the_device_names_a_smaller_one(tmp_path: Path) -> None:
    class Full(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError(f"no memory for {image.shape}")

    with pytest.raises(UserError, match=r"6 chips at once are too many .* Lower batch_size to 3"):
        evaluate(Network(Full(), Normalization.identity(3)), SPEC, random_chips(tmp_path, 6), device=CPU)


def test_no_more_than_a_few_batches_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = random_chips(tmp_path, 2)[:1] * 40
    read, taken = 0, 0
    plain = evaluation.read_chip

    def counting(sample: Sample, spec: NetworkSpec) -> LabelledChip:
        nonlocal read
        read += 1
        return plain(sample, spec)

    monkeypatch.setattr(evaluation, "read_chip", counting)
    for batch in batches(read_ahead(samples, SPEC, 4), 4):
        assert read - taken <= 4 + 4 + 2  # the batch, as many read ahead, and one at the door of each loop
        taken += len(batch)
    assert taken == 40


def test_reading_stops_when_nobody_wants_more(tmp_path: Path) -> None:
    samples = random_chips(tmp_path, 3)
    chips = read_ahead([*samples, Sample(tmp_path / "none.tif", tmp_path / "none.tif")], SPEC, 1)
    assert next(chips).info.name == samples[0].image.stem
    assert isinstance(chips, Generator)
    chips.close()  # hangs or raises if the threads go on


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (ClassTable.build([10, 40], {40: "snow"}), "40 snow is unknown to it.* knows 10 water, 20 forest, 30 field"),
        (ClassTable.build([10, 20], {20: "asphalt"}), "20 is asphalt there and forest here"),
    ],
)
def test_classes_that_do_not_fit_are_refused_with_the_difference(classes: ClassTable, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_fit(SPEC, BANDS, classes, "data/north")


@pytest.mark.parametrize(
    "classes", [ClassTable.build([10, 30]), ClassTable.build([20], {20: "Forest "}), ClassTable.build([20], {20: "20"})]
)
def test_fewer_classes_and_classes_without_names_fit(classes: ClassTable) -> None:
    check_fit(SPEC, BANDS, classes, "data/north")


def test_the_training_data_s_own_names_fit_a_network_that_a_user_named_otherwise() -> None:
    spec = replace(SPEC, classes=SPEC.classes.renamed({20: "Wald", 30: "Feld"}, {}))
    for name in ("forest", "Wald"):
        check_fit(spec, BANDS, ClassTable.build([20], {20: name}), "data/north")
    with pytest.raises(UserError, match="20 is asphalt there and Wald here"):
        check_fit(spec, BANDS, ClassTable.build([20], {20: "asphalt"}), "data/north")
    named = replace(SPEC, classes=ClassTable.build([20]).renamed({20: "Wald"}, {}))
    with pytest.raises(UserError, match="20 is asphalt there and Wald here"):  # class_20 is no name that fits others
        check_fit(named, BANDS, ClassTable.build([20], {20: "asphalt"}), "data/north")


def test_bands_that_do_not_fit_are_refused_before_anything_runs() -> None:
    with pytest.raises(UserError, match=r"data/north has 2 bands .*expects 3 bands \(wet, dark, flat\)"):
        check_fit(SPEC, BANDS[:2], CLASSES, "data/north")
