"""The picture of a data folder."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from src.bands import Band
from src.grid import Window, grouped_windows
from src.labels import ClassTable
from src.preparation.overview import PART_COLORS, Overview, Thumbnail
from src.raster.read import RasterInfo

BANDS = tuple(Band(name) for name in ("red", "green", "blue"))


def info(height: int, width: int) -> RasterInfo:
    return RasterInfo("scene.tif", width, height, "uint16", None, (1, 0, 0, 0, -1, 0), (None,) * 3, BANDS)


@settings(max_examples=20)
@given(st.integers(1, 2600), st.integers(1, 40), st.integers(3, 90), st.randoms())
def test_a_thumbnail_is_every_nth_pixel_whatever_the_windows_and_their_order(
    height: int, width: int, chip: int, random: object
) -> None:
    scene = np.random.default_rng(height).integers(1, 1000, (3, height, width)).astype(np.uint16)
    valid = scene[0] > 100
    thumbnail = Thumbnail(info(height, width))
    groups = list(grouped_windows(height, width, (chip, chip), (chip, chip), 4 * chip * chip, rows=False))
    assert hasattr(random, "shuffle")
    random.shuffle(groups)
    padded = np.pad(scene, ((0, 0), (0, 4 * chip), (0, 4 * chip)))
    whole = np.pad(valid, ((0, 4 * chip), (0, 4 * chip)))
    for group in groups:
        w = group.extent
        part = np.s_[w.row : w.row_stop, w.column : w.column_stop]
        thumbnail.add(w, padded[:, *part], whole[part])
    step = thumbnail.factor
    assert max(height, width) / step <= 1000
    np.testing.assert_array_equal(thumbnail.valid, valid[::step, ::step])
    np.testing.assert_array_equal(thumbnail.image, scene[:, ::step, ::step])


def test_the_picture_shows_every_part_in_its_colour(tmp_path: Path) -> None:
    thumbnail = Thumbnail(info(64, 96))
    grey = np.random.default_rng(0).integers(100, 900, (3, 64, 96)).astype(np.uint16)
    thumbnail.add(Window(0, 0, 64, 96), grey, np.ones((64, 96), bool))
    chips = [(0, Window(r, c, 32, 32)) for r in (0, 32) for c in (0, 32, 64)]
    parts = np.array([0, 0, 0, 1, 2, -1])
    counts = np.arange(12).reshape(6, 2) + 1
    Overview([thumbnail], chips, parts, counts, ClassTable.build([1, 2]), 0.1).draw(tmp_path / "o.png")
    picture = (matplotlib.image.imread(tmp_path / "o.png")[..., :3] * 255).round().astype(int)
    for color in PART_COLORS:
        wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        assert (np.abs(picture - wanted).max(-1) <= 2).sum() > 500
    again = tmp_path / "again.png"
    Overview([thumbnail], chips, parts, counts, ClassTable.build([1, 2]), 0.1).draw(again)
    assert again.read_bytes() == (tmp_path / "o.png").read_bytes()


def test_nothing_reaches_over_the_edge_of_the_picture(tmp_path: Path) -> None:
    """Long names pushed the title out at the right, a tall scene its own name at the top."""
    tall, row = Thumbnail(info(260, 180)), Thumbnail(info(1, 400))
    names = {value: f"a long name of a kind of land use, number {value}" for value in range(1, 17)}
    chips = [(scene, Window(0, c, 16, 16)) for scene in (0, 1) for c in (0, 16, 32)]
    counts = np.arange(6 * 16).reshape(6, 16) + 1
    table = ClassTable.build(list(names), names)
    Overview([tall, row], chips, np.array([0, 1, 2] * 2), counts, table, 0.1).draw(tmp_path / "o.png")
    picture = matplotlib.image.imread(tmp_path / "o.png")[..., :3]
    for edge in (picture[:3], picture[-3:], picture[:, :3], picture[:, -3:]):
        assert (edge == 1).all()


def test_names_in_any_script_are_drawn_without_a_word(tmp_path: Path) -> None:
    """Warnings are errors here: the font that comes with matplotlib lacks such letters."""
    thumbnail = Thumbnail(info(16, 48))
    chips = [(0, Window(0, c, 16, 16)) for c in (0, 16, 32)]
    table = ClassTable.build([1], {1: "森林"})
    Overview([thumbnail], chips, np.arange(3), np.ones((3, 1), np.int64), table, 0).draw(tmp_path / "o.png")
    assert (tmp_path / "o.png").stat().st_size
