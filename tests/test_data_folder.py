"""Reading a data folder: ours, SpecDeepMap's, and damaged ones."""

from __future__ import annotations

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.datafolder import read_data_folder, read_label
from src.errors import UserError
from src.preparation.prepare import prepare
from src.preparation.settings import Preparation
from src.tables import (
    BandTable,
    ClassRow,
    Part,
    Summary,
    class_weights,
    read_samples,
    read_statistics,
    read_summary,
    write_samples,
    write_statistics,
    write_summary,
)
from tests import rasters

SHARED = Path(__file__).parents[2] / "shared/data/specdeepmap_enmap"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a data folder of 36 chips."""
    image = rasters.image(tmp_path / "scene.tif", 96, 96, nodata=0)
    label = rasters.label(tmp_path / "label.tif", 96, 96, values=(0, 2, 9))
    prepare(Preparation(str(image), str(label), (16, 16), (16, 16), min_coverage=10.0), tmp_path / "data")
    return tmp_path / "data"


def test_without_dataset_json_everything_is_derived_from_csvs_and_chips(folder: Path) -> None:
    ours = read_data_folder(folder)
    (folder / "dataset.json").unlink()
    derived = read_data_folder(folder)
    assert derived.spec.classes.values == (2, 9)
    assert derived.spec.used == ours.spec.used
    assert derived.spec.nodata == 0
    assert derived.spec.dtype == "uint16"
    assert (derived.spec.chip_size, derived.spec.chip_step) == ((16, 16), (16, 16))
    assert [band.name for band in derived.spec.bands] == [band.name for band in ours.spec.bands]
    np.testing.assert_allclose(derived.spec.scenes[0].transform, ours.spec.scenes[0].transform)
    assert derived.class_weights == ours.class_weights
    assert derived.train_counts == ours.train_counts
    assert derived.normalization() == ours.normalization()


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_chip_that_is_trained_on_cannot_be_scored(folder: Path, part: Part) -> None:
    rows = (folder / "train_files.csv").read_text().splitlines()
    chip = rows[1].split(",")[0]
    with (folder / f"{part}_files.csv").open("a") as file:
        file.write(rows[1].replace("/", "\\") + "\n")  # as a list made on Windows names it
    data = read_data_folder(folder)
    name = Path(chip).name
    with pytest.raises(UserError, match=rf"{part}_files.csv lists images.{name}, which train_files.csv lists too"):
        data.samples(part)
    assert chip in {f"images/{sample.image.name}" for sample in data.samples("train")}


@pytest.mark.parametrize("values", [[[-1.0]], [[256.0]], [[1.5]], [[1 + 1j]]], ids=str)
def test_a_label_that_holds_no_classes_is_one_clear_line(tmp_path: Path, values: list[list[complex]]) -> None:
    label = rasters.write(tmp_path / "label.tif", np.asarray(values))
    with pytest.raises(UserError, match=r"label\.tif has values that are no classes"):
        read_label(label)


def test_a_label_may_hold_its_classes_in_another_type(tmp_path: Path) -> None:
    label = rasters.write(tmp_path / "label.tif", np.array([[0.0, 3.0, 255.0]]))
    assert read_label(label).tolist() == [[0, 3, 255]]


def test_classes_come_from_all_chips_and_not_from_the_first(folder: Path) -> None:
    """SpecDeepMap looked into the first chip only."""
    (folder / "dataset.json").unlink()
    (folder / "Summary_train_val.csv").unlink()
    last = read_data_folder(folder).samples("test")[-1]
    values = rasters.read(last.label)[0]
    values[0, 0] = 77
    rasters.write(last.label, values)
    again = read_data_folder(folder)
    assert again.spec.classes.values == (2, 9, 77)
    assert again.train_counts[2] == 0
    assert all(weight > 0 for weight in again.class_weights)


def test_bands_are_searched_for_measurements_where_statistics_are_missing(folder: Path) -> None:
    (folder / "dataset.json").unlink()
    (folder / "Normalize_Bands.csv").unlink()
    for sample in [s for part in ("train", "validation", "test") for s in read_data_folder(folder).samples(part)]:
        pixels = rasters.read(sample.image)
        pixels[1] = 0
        rasters.write(sample.image, pixels, nodata=0)
    found = read_data_folder(folder)
    assert found.spec.used == (True, False, True)
    with pytest.raises(UserError, match=r"has no Normalize_Bands\.csv"):
        found.normalization()


def test_chips_that_differ_are_named(folder: Path) -> None:
    (folder / "dataset.json").unlink()
    sample = read_data_folder(folder).samples("train")[3]
    rasters.write(sample.image, rasters.read(sample.image)[:2], nodata=0)
    with pytest.raises(UserError, match=rf"{sample.image.name} has bands 2"):
        read_data_folder(folder)


def test_what_is_no_data_folder(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no data folder"):
        read_data_folder(tmp_path)
    (folder / "dataset.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        read_data_folder(folder)
    (folder / "dataset.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(UserError, match="update SpecDeepMap"):
        read_data_folder(folder)


def test_statistics_of_other_chips_are_refused(folder: Path) -> None:
    write_statistics(folder / "Normalize_Bands.csv", BandTable((1.0,), (1.0,)), None)
    with pytest.raises(UserError, match="lists 1 bands, but the chips have 3"):
        read_data_folder(folder)


def test_an_empty_list_is_an_error_only_where_chips_are_needed(folder: Path) -> None:
    write_samples(folder / "test_files.csv", [])
    data = read_data_folder(folder)
    assert data.samples("test", required=False) == []
    with pytest.raises(UserError, match="lists no chip"):
        data.samples("test")


@pytest.mark.parametrize(
    "path",
    ["../secret.tif", "/etc/passwd", "images/../../secret.tif", "C:\\secret.tif", "..\\secret.tif", "out/secret.tif"],
)
def test_no_path_leads_out_of_the_folder(path: str, tmp_path: Path) -> None:
    inside = tmp_path / "data"
    inside.mkdir()
    (tmp_path / "secret.tif").write_bytes(b"")
    (inside / "out").symlink_to(tmp_path)
    (inside / "list.csv").write_text(f"image,mask\n{path},{path}\n")
    with pytest.raises(UserError, match="outside of its folder"):
        read_samples(inside / "list.csv")


@pytest.mark.parametrize(
    "text", ["\ufeffimage,mask\r\na.tif,b.tif\r\n", "mask,image\nb.tif,a.tif\n\n", "image, mask\n a.tif ,b.tif"]
)
def test_lists_from_any_system_are_read(text: str, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.tif").write_bytes(b"")
    (tmp_path / "list.csv").write_bytes(text.encode())
    (sample,) = read_samples(tmp_path / "list.csv")
    assert (sample.image.name, sample.label.name) == ("a.tif", "b.tif")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "lacks the column 'image'"),
        (b"image\na.tif\n", r"lacks the column 'mask' \(it has: image\)"),
        (b"image,mask\na.tif\n", "row 2 has 1 cells"),
        (b"image,mask\na.tif,gone.tif\n", "no such file"),
        (b"image,mask\n\xff\xfe,b.tif\n", "cannot be read as a CSV"),
    ],
)
def test_damaged_lists_are_one_line(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"")
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_samples(tmp_path / "list.csv")
    with pytest.raises(UserError, match="There is no"):
        read_samples(tmp_path / "gone.csv")


def test_statistics_survive_the_csv_bit_by_bit(tmp_path: Path) -> None:
    table = BandTable((0.1 + 0.2, math.nan, 1e-17), (1 / 3, math.nan, 0.0))
    for scaler in (None, 10_000.0):
        write_statistics(tmp_path / "s.csv", table, scaler)
        again = read_statistics(tmp_path / "s.csv")
        np.testing.assert_array_equal(again.mean, table.mean)
        np.testing.assert_array_equal(again.std, table.std)
    (tmp_path / "s.csv").write_text("Band_Number,std,mean\n1,a,2\n")
    with pytest.raises(UserError, match="'a' where a number"):
        read_statistics(tmp_path / "s.csv")
    (tmp_path / "s.csv").write_text("Band_Number,std,mean\n1,1,2\n1,1,2\n")
    with pytest.raises(UserError, match="once each"):
        read_statistics(tmp_path / "s.csv")


def test_a_summary_survives_the_csv(tmp_path: Path) -> None:
    summary = Summary((ClassRow(1, (30, 10, 0), 0.25), ClassRow(7, (10, 0, 5), 0.75)), 1000.0, background=True)
    write_summary(tmp_path / "s.csv", summary)
    assert read_summary(tmp_path / "s.csv") == summary
    assert (tmp_path / "s.csv").read_text().splitlines()[1] == "1,30,75.0,10,100.0,0,0.0,0.25,1000,Yes"


NAMES = st.text(st.characters(blacklist_categories=("C", "Z"), blacklist_characters="/\\"), min_size=1, max_size=20)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(NAMES, unique=True, max_size=8), st.booleans())
def test_any_names_survive_a_chip_list(names: list[str], excel: bool) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "list.csv"
        rows = [(f"{name}.tif", f"{name}.tif") for name in names]
        for name, _ in rows:
            (path.parent / name).touch()
        write_samples(path, rows)
        if excel:
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
        assert [(sample.image.name, sample.label.name) for sample in read_samples(path)] == rows


SCALERS = st.one_of(st.none(), st.integers(1, 10**14), st.floats(0, 1e300, exclude_min=True))


@pytest.mark.parametrize(
    ("scaler", "text"),
    [(10_000.0, "10000"), (1_234_567.0, "1234567"), (1e6, "1000000"), (0.1 + 0.2, "0.30000000000000004")],
)
def test_a_scaler_stands_in_both_tables_as_it_is(scaler: float, text: str, tmp_path: Path) -> None:
    """Six digits of it did: 1234567 was read as 1234570."""
    write_summary(tmp_path / "s.csv", Summary((ClassRow(1, (1, 1, 1), 1.0),), scaler, background=True))
    write_statistics(tmp_path / "n.csv", BandTable((1.0,), (1.0,)), scaler)
    assert (tmp_path / "s.csv").read_text().splitlines()[1].split(",")[-2] == text
    assert (tmp_path / "n.csv").read_text().splitlines()[1].split(",")[-1] == text


@given(st.lists(st.tuples(NUMBERS, st.floats(0, 1e300)), max_size=9), SCALERS)
def test_any_statistics_survive_their_csv(bands: list[tuple[float, float]], scaler: float | None) -> None:
    table = BandTable(tuple(mean for mean, _ in bands), tuple(std for _, std in bands))
    with TemporaryDirectory() as folder:
        write_statistics(Path(folder) / "s.csv", table, scaler)
        assert read_statistics(Path(folder) / "s.csv") == table


@given(
    st.dictionaries(st.integers(1, 255), st.tuples(*[st.integers(0, 10**12)] * 3), min_size=1, max_size=9),
    st.floats(0.0001, 1),
    SCALERS,
    st.booleans(),
)
def test_any_summary_survives_its_csv(
    counts: dict[int, tuple[int, int, int]], weight: float, scaler: float | None, background: bool
) -> None:
    rows = tuple(ClassRow(value, counts[value], weight) for value in sorted(counts))
    summary = Summary(rows, scaler, background)
    with TemporaryDirectory() as folder:
        write_summary(Path(folder) / "s.csv", summary)
        assert read_summary(Path(folder) / "s.csv") == summary


def test_class_weights_are_one_minus_the_share_and_never_zero() -> None:
    assert class_weights([402, 704, 847, 1660, 41, 152]) == [0.8944, 0.815, 0.7775, 0.5638, 0.9892, 0.9601]
    assert class_weights([5]) == [1.0]
    assert class_weights([0, 5]) == [1.0, 1.0]
    assert class_weights([10**9, 1])[0] > 0


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data/specdeepmap_enmap")
def test_a_folder_that_specdeepmap_made() -> None:
    data = read_data_folder(SHARED)
    assert data.spec.classes.values == (1, 2, 3, 4, 5, 6)
    assert [i + 1 for i, used in enumerate(data.spec.used) if not used] == [130, 131, 132, 133, 134, 135]
    assert (data.spec.nodata, data.spec.dtype, data.spec.chip_size) == (-32768, "float32", (32, 32))
    assert [len(data.samples(part)) for part in ("train", "validation", "test")] == [14, 2, 2]
    assert data.train_counts == (402, 704, 847, 1660, 41, 152)
    assert data.class_weights == (0.8944, 0.815, 0.7775, 0.5638, 0.9892, 0.9601)
    assert data.class_weights == tuple(class_weights(data.train_counts))
    assert data.normalization().mean[0] == pytest.approx(395.78097098214283)
    assert [row.counts for row in data.summary.rows][5] == (152, 207, 0) if data.summary else False
