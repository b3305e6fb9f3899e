"""No pixel of ground is in two parts, whatever the geometry; proven by painting every part's pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import shapely
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from rasterio import Affine
from rasterio.crs import CRS

from src import blocks, splits
from src.errors import UserError
from src.grid import Window, chip_windows
from src.ground import Places, across_scenes, components, no_place_caution
from src.raster.georeference import has_place
from src.raster.read import RasterInfo
from src.splits import Strategy, imbalance, part_sizes, split_chips
from tests.rasters import NORTH_UP, TURNED

SHARES = (70.0, 15.0, 15.0)


def scene(
    name: str, height: int, width: int, left: float = 0, top: float = 0, pixel: float = 10, crs: str | None = "utm33"
) -> RasterInfo:
    wkt = None if crs is None else _wkt({"utm33": 32633, "utm32": 32632}[crs])
    return RasterInfo(name, width, height, "uint8", wkt, (pixel, 0, left, 0, -pixel, top), (None,), ())


def _wkt(code: int) -> str:
    return str(CRS.from_epsg(code).to_wkt())


def places(chips: list[tuple[int, Window]], scenes: list[RasterInfo], step: tuple[int, int], buffer: int = 0) -> Places:
    size = (chips[0][1].width, chips[0][1].height)
    return Places.of(chips, scenes, size, step, buffer)


def ground(window: Window, info: RasterInfo, buffer: float = 0) -> set[tuple[int, int]]:
    """Pixels of a window on the common grid of all scenes of these tests, whose pixels are 10 m."""
    inside = window._replace(
        row=window.row - int(buffer),
        column=window.column - int(buffer),
        height=window.height + 2 * int(buffer),
        width=window.width + 2 * int(buffer),
    ).intersection(info.window)
    x, y = round(info.transform[2] / 10), -round(info.transform[5] / 10)
    return {
        (y + r, x + c) for r in range(inside.row, inside.row_stop) for c in range(inside.column, inside.column_stop)
    }


def draw_chips(
    data: st.DataObject, scenes: list[RasterInfo], size: tuple[int, int], step: tuple[int, int]
) -> list[tuple[int, Window]]:
    """Windows of all scenes, of which some are missing, as coverage drops some."""
    kept = data.draw(st.floats(0.5, 1), "share kept")
    generator = np.random.default_rng(data.draw(st.integers(0, 999), "seed of the gaps"))
    windows = [(i, w) for i, info in enumerate(scenes) for w in chip_windows(info.height, info.width, size, step)]
    return [chip for chip in windows if generator.random() < kept]


def classes(count: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(count).integers(0, 500, (count, 4))


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Search briefly: for what has to hold whatever the search finds."""
    monkeypatch.setattr(blocks, "_STARTS", 4)
    monkeypatch.setattr(blocks, "_REFINED", 1)
    monkeypatch.setattr(blocks, "_STEPS", 3)
    monkeypatch.setattr(splits, "_BLOCKS", (30,))


@pytest.mark.usefixtures("hasty")
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_pixel_of_ground_is_in_two_parts(data: st.DataObject) -> None:
    size = data.draw(st.tuples(st.integers(2, 9), st.integers(2, 9)), "size")
    step = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 12)), "step")
    strategy: Strategy = data.draw(st.sampled_from(["balanced", "blocks", "random"]), "strategy")
    buffer = data.draw(st.integers(0, 6), "buffer") if strategy == "blocks" else 0
    scenes = [
        scene(f"s{i}", *data.draw(st.tuples(st.integers(8, 40), st.integers(8, 40))), left=10 * x, top=-10 * y)
        for i, (x, y) in enumerate(
            data.draw(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=3), "places")
        )
    ]
    chips = draw_chips(data, scenes, size, step)
    assume(len(chips) >= 3)
    try:
        split = split_chips(classes(len(chips)), places(chips, scenes, step, buffer), SHARES, strategy, 1, buffer)
    except UserError as error:
        event(f"refused: {str(error)[-40:]}")
        return
    owner: dict[tuple[int, int], int] = {}
    for (index, window), part in zip(chips, split.parts, strict=True):
        if part >= 0:
            for pixel in ground(window, scenes[index]):
                assert owner.setdefault(pixel, part) == part
    if buffer:
        assert_apart(chips, split.parts, buffer)


def assert_apart(chips: list[tuple[int, Window]], parts: npt.NDArray[np.int64], buffer: int) -> None:
    """Between chips of different parts of a scene lie as many pixels at least."""
    for (index, window), part in zip(chips, parts, strict=True):
        if part >= 0:
            near = _within(window, buffer)
            others = [w for (i, w), p in zip(chips, parts, strict=True) if i == index and p >= 0 and p != part]
            assert not any(near.intersection(other).pixels for other in others)


def _within(window: Window, buffer: int) -> Window:
    return Window(window.row - buffer, window.column - buffer, window.height + 2 * buffer, window.width + 2 * buffer)


@pytest.mark.parametrize("strategy", ["balanced", "random"])
def test_chips_apart_are_all_used(strategy: Strategy) -> None:
    info = scene("a", 60, 60)
    chips = [(0, w) for w in chip_windows(60, 60, (10, 10), (10, 10))]
    split = split_chips(classes(36), places(chips, [info], (10, 10)), (80, 10, 10), strategy)
    assert [(split.parts == part).sum() for part in range(3)] == [29, 4, 3]
    assert split.straddling == 0


def test_groups_of_overlapping_chips_stay_whole_where_they_can() -> None:
    """Ten scenes with overlapping chips each: whole scenes go to a part, and no chip is lost."""
    scenes = [scene(f"s{i}", 20, 20, left=1000 * i) for i in range(10)]
    chips = [(i, w) for i in range(10) for w in chip_windows(20, 20, (10, 10), (5, 5))]
    split = split_chips(classes(len(chips)), places(chips, scenes, (5, 5)), (80, 10, 10))
    assert split.straddling == 0
    by_scene = split.parts.reshape(10, -1)
    assert (by_scene == by_scene[:, :1]).all()
    assert [(by_scene[:, 0] == part).sum() for part in range(3)] == [8, 1, 1]


def test_where_overlap_ties_all_together_blocks_are_cut_and_few_chips_are_lost() -> None:
    info = scene("a", 400, 400)
    chips = [(0, w) for w in chip_windows(400, 400, (40, 40), (20, 20))]
    split = split_chips(classes(len(chips)), places(chips, [info], (20, 20)), (80, 10, 10))
    sizes = np.array([(split.parts == part).sum() for part in range(3)])
    assert 0 < split.straddling < 0.25 * len(chips)
    assert split.straddling == (split.parts < 0).sum()
    np.testing.assert_allclose(sizes / sizes.sum(), [0.8, 0.1, 0.1], atol=0.03)


def test_blocks_are_balanced_and_apart() -> None:
    info = scene("a", 300, 300)
    chips = [(0, w) for w in chip_windows(300, 300, (20, 20), (20, 20))]
    counts = classes(len(chips)) + 1000 * np.eye(4, dtype=np.int64)[np.arange(len(chips)) * 4 // len(chips)]
    at = places(chips, [info], (20, 20), 30)
    balanced = split_chips(counts, at, (80, 10, 10), "blocks", buffer=30)
    chance = split_chips(counts, at, (80, 10, 10), "random")
    assert balanced.cut is not None
    assert balanced.imbalance < 0.1
    assert_apart(chips, balanced.parts, 30)
    assert chance.straddling == 0
    assert imbalance(counts, balanced.parts) == balanced.imbalance


def test_a_given_block_is_taken() -> None:
    info = scene("a", 100, 100)
    chips = [(0, w) for w in chip_windows(100, 100, (10, 10), (10, 10))]
    split = split_chips(classes(100), places(chips, [info], (10, 10)), SHARES, "blocks", block=50, seed=3)
    assert split.cut == (50, 50)
    assert_quarters(split.parts)


def test_blocks_of_oblong_chips_are_as_oblong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splits, "_BLOCKS", (4,))
    info = scene("a", 100, 200)
    chips = [(0, w) for w in chip_windows(100, 200, (20, 10), (20, 10))]
    split = split_chips(classes(100), places(chips, [info], (20, 10)), SHARES, "blocks")
    assert split.cut == (100, 50)
    assert_quarters(split.parts)


def assert_quarters(parts: npt.NDArray[np.int64]) -> None:
    """Each quarter of ten by ten chips is in one part."""
    for row in (0, 5):
        for column in (0, 5):
            assert len(np.unique(parts.reshape(10, 10)[row : row + 5, column : column + 5])) == 1


def test_straddlers_are_left_out_of_training_before_validation_and_never_of_test() -> None:
    """Of three in a row the middle one goes, and only then is looked what training still meets."""
    row = [(0, Window(0, column, 10, 10)) for column in (0, 5, 10)]
    at = places(row, [scene("a", 10, 20)], (5, 5))
    for assigned, kept in (((0, 1, 2), [0, -1, 2]), ((0, 0, 1), [0, -1, 1]), ((0, 2, 1), [-1, 2, -1])):
        assert splits._without_straddlers(np.array(assigned), at, 0).tolist() == kept


@pytest.mark.parametrize("grid", [NORTH_UP, TURNED], ids=["north-up", "turned"])
def test_scenes_that_touch_share_nothing_and_scenes_that_overlap_do(grid: Affine) -> None:
    first, beside, over = (
        replace(scene(name, 10, 10), transform=tuple(grid @ Affine.translation(columns, 0))[:6])
        for name, columns in (("a", 0), ("b", 10), ("c", 9.5))
    )
    chips = [(i, Window(0, 0, 10, 10)) for i in range(2)]
    assert not len(places(chips, [first, beside], (10, 10)).across)
    assert places(chips, [first, over], (10, 10)).across.tolist() == [[0, 1]]
    assert places(chips, [first, beside], (10, 10), buffer=1).across.tolist() == [[0, 1]]


def test_scenes_in_neighbouring_zones_are_found_to_overlap() -> None:
    """Two Sentinel-2 tiles of neighbouring UTM zones show the same ground."""
    import rasterio.warp

    west = scene("w", 100, 100, left=790_000, top=5_800_000, crs="utm32")
    xs, ys = rasterio.warp.transform("EPSG:32632", "EPSG:32633", [790_500], [5_799_500])
    east = scene("e", 100, 100, left=xs[0] - 500, top=ys[0] + 500, crs="utm33")
    chips = [(i, w) for i in range(2) for w in chip_windows(100, 100, (50, 50), (50, 50))]
    assert len(places(chips, [west, east], (50, 50)).across) >= 4


def test_scenes_without_a_crs_lie_apart() -> None:
    scenes = [scene(name, 10, 10, crs=None) for name in "ab"]
    assert not len(places([(0, Window(0, 0, 5, 5)), (1, Window(0, 0, 5, 5))], scenes, (5, 5)).across)
    caution = no_place_caution([*scenes, *scenes])
    assert caution is not None
    assert caution.startswith("a and b (and 2 more) do not say where they lie")
    assert no_place_caution([scenes[0], scene("c", 10, 10)]) is None


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize(("top", "down"), [(0, 10), (0, -10), (100, -10)])
def test_a_corner_at_0_0_without_a_crs_of_the_earth_is_no_place(local: bool, top: float, down: float) -> None:
    """ENVI's Arbitrary was a CRS: two scenes that it says nothing of counted as one ground."""
    crs = 'LOCAL_CS["Arbitrary",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]' if local else None
    lost = [replace(scene(name, 10, 10), crs=crs, transform=(10, 0, 0, 0, down, top)) for name in "ab"]
    assert not any(map(has_place, lost))
    assert no_place_caution(lost) is not None
    assert not len(places([(0, Window(0, 0, 5, 5)), (1, Window(0, 0, 5, 5))], lost, (5, 5)).across)
    assert has_place(replace(lost[0], transform=(10, 0, 50, 0, down, top)))
    assert has_place(replace(lost[0], crs=scene("c", 1, 1).crs))


def test_scenes_without_a_crs_that_have_coordinates_are_compared() -> None:
    """Orthophotos with a world file and no projection were trained on in one file and tested on in the next."""
    first, over, beside = (
        scene(name, 10, 10, left, 900, crs=None) for name, left in (("a", 50), ("b", 100), ("c", 150))
    )
    elsewhere = scene("d", 10, 10, 50, 900)  # the same numbers in a CRS are another place
    scenes = [elsewhere, first, over, beside]
    assert sorted(map(tuple, across_scenes([(n, Window(0, 0, 10, 10)) for n in range(4)], scenes).tolist())) == [
        (1, 2),
        (2, 3),
    ]
    assert no_place_caution(scenes) is None
    lost = [scene("a", 10, 10, 0, 0, crs=None), scene("b", 10, 10, 0, 100, crs=None)]  # pixels of 10, the corner below
    assert str(no_place_caution(lost)).startswith("a and b do not say where they lie")


Grid = tuple[float, float, float, float, float, float]
DEGREES, FIJI = CRS.from_epsg(4326).to_wkt(), CRS.from_epsg(32701).to_wkt()
EAST = (DEGREES, (0.001, 0.0, 179.95, 0.0, -0.001, -17.0))
WEST = (DEGREES, (0.001, 0.0, -180.05, 0.0, -0.001, -17.0))
METRES = (FIJI, (100.0, 0.0, 180_000.0, 0.0, -100.0, 8_119_000.0))
ZIMBABWE = (DEGREES, (0.001, 0.0, 30.0, 0.0, -0.001, -17.0))
EARTH = (DEGREES, (3.6, 0.0, -180.0, 0.0, -1.8, 90.0))


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        (EAST, WEST, True),
        (EAST, METRES, True),
        (WEST, METRES, True),
        (ZIMBABWE, METRES, False),
        (ZIMBABWE, WEST, False),
        (EARTH, EAST, True),
        (EARTH, ZIMBABWE, True),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_ground_across_the_180th_meridian_is_shared_whatever_the_order(
    one: tuple[str, Grid], other: tuple[str, Grid], shared: bool, turned: bool
) -> None:
    """The order of scenes told which ground was trained on and tested on."""
    both = [replace(scene(str(n), 100, 100), crs=crs, transform=grid) for n, (crs, grid) in enumerate((one, other))]
    scenes = both[::-1] if turned else both
    chips = [(n, Window(0, 0, 100, 100)) for n in (0, 1)]
    assert across_scenes(chips, scenes).tolist() == ([[0, 1]] if shared else [])


def test_many_scenes_are_compared_as_every_two_of_them_would_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every two scenes were compared in Python: 2000 of them took minutes."""
    places = np.random.default_rng(0).integers(0, 80, (60, 2)) * 10.0
    scenes = [scene(str(n), 6, 9, left, top) for n, (left, top) in enumerate(places.tolist())]
    chips = [(n, w) for n in range(60) for w in chip_windows(6, 9, (3, 3), (3, 3))]
    painted = [ground(window, scenes[number]) for number, window in chips]
    expected = {
        (i, j)
        for j, (its, _) in enumerate(chips)
        for i, (own, _) in enumerate(chips[:j])
        if own != its and painted[i] & painted[j]
    }
    monkeypatch.delattr(shapely.geometry.base.BaseGeometry, "intersects")
    assert set(map(tuple, across_scenes(chips, scenes).tolist())) == expected
    assert len(expected) > 30


@given(st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40))
def test_components_are_what_chains_of_pairs_join(pairs: list[tuple[int, int]]) -> None:
    found = components(30, [np.array(pairs, np.int64).reshape(-1, 2)])
    lines = [shapely.LineString([(a, 0), (b, 1)]) for a, b in pairs]
    assert len(lines) == len(pairs)
    label = list(range(30))
    for _ in range(30):
        for a, b in pairs:
            label[a] = label[b] = min(label[a], label[b])
    assert all((found[a] == found[b]) == (label[a] == label[b]) for a in range(30) for b in range(30))


@settings(max_examples=40)
@given(st.data())
def test_pairs_are_all_chips_that_overlap_or_are_nearer_than_the_buffer(data: st.DataObject) -> None:
    size = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    step = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    buffer = data.draw(st.integers(0, 5))
    info = scene("a", 25, 25)
    chips = draw_chips(data, [info], size, step)
    assume(chips)
    found = {tuple(sorted(p)) for batch in places(chips, [info], step).pairs(buffer) for p in batch.tolist()}
    expected = {
        (i, j)
        for i, (_, one) in enumerate(chips)
        for j, (_, other) in enumerate(chips[:i])
        if _within(one, buffer).intersection(other).pixels
    }
    assert found == {tuple(sorted(p)) for p in expected}


def test_too_few_chips_and_too_much_overlap_are_said() -> None:
    info = scene("a", 20, 20)
    two = [(0, Window(0, 0, 10, 10)), (0, Window(0, 10, 10, 10))]
    with pytest.raises(UserError, match="2 chips for 3 parts"):
        split_chips(classes(2), places(two, [info], (10, 10)), SHARES)
    tied = [(0, w) for w in chip_windows(12, 12, (10, 10), (2, 2)) if w.row < 4 and w.column < 4]
    with pytest.raises(UserError, match="share so much ground"):
        split_chips(classes(len(tied)), places(tied, [info], (2, 2)), SHARES)


def test_scenes_between_whose_crss_there_is_no_way_lie_apart() -> None:
    """A tangent plane of the other side of the earth has no coordinates for it; the split ended in a traceback."""
    from rasterio.crs import CRS

    here = scene("here", 20, 20, 330_000, 5_822_000)
    far = CRS.from_user_input("+proj=gnom +lat_0=-50 +lon_0=-170").to_wkt()
    elsewhere = replace(scene("elsewhere", 20, 20), crs=far)
    chips = [(number, here.window) for number in range(4)]
    found = across_scenes(chips, [here, elsewhere, elsewhere, here])
    assert sorted(map(tuple, found.tolist())) == [(0, 3), (1, 2)]


def uneven(count: int) -> npt.NDArray[np.int64]:
    """Counts of chips that are of one class mostly."""
    generator = np.random.default_rng(count)
    shares = generator.dirichlet(np.full(6, 0.5), count)
    return (shares * generator.integers(2_000, 65_536, (count, 1))).astype(np.int64)


def test_one_overlapping_pair_among_many_chips_spoils_no_balance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every single chip became a unit of the search for groups, slow and worse: it found 0.00056 here."""
    given: list[int] = []

    def noted(units: blocks.Units, shares: tuple[float, ...], seed: int) -> tuple[npt.NDArray[np.int64], float]:
        given.append(units.count)
        return blocks.assign_units(units, shares, seed)

    monkeypatch.setattr(splits, "assign_units", noted)
    infos = [scene("a", 500, 500), scene("b", 10, 10, left=-95)]
    chips = [(0, w) for w in chip_windows(500, 500, (10, 10), (10, 10))] + [(1, Window(0, 0, 10, 10))]
    at = places(chips, infos, (10, 10))
    split = split_chips(uneven(2501), at, (80, 10, 10))
    assert given == [1]
    assert split.parts[0] == split.parts[-1]
    assert [int((split.parts == part).sum()) for part in range(3)] == [2001, 250, 250]
    assert (split.straddling, split.cut) == (0, None)
    assert split.imbalance < 0.0003
    np.testing.assert_array_equal(split.parts, split_chips(uneven(2501), at, (80, 10, 10)).parts)


@pytest.mark.usefixtures("hasty")
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 4), min_size=12, max_size=60), st.floats(20, 80), st.booleans(), st.integers(0, 9))
def test_groups_and_single_chips_fill_the_parts(sizes: list[int], train: float, rest: bool, seed: int) -> None:
    """Whatever is assigned last: groups are in one part, and no part lacks more chips than a group has."""
    shares = (train, (100 - train) / 4, (100 - train) / (4 if rest else 4 / 3))
    infos = [scene(f"s{n}", 10, 10, left=1000 * n) for n in range(len(sizes)) for _ in range(sizes[n])]
    chips = [(number, Window(0, 0, 10, 10)) for number in range(len(infos))]
    group = np.repeat(np.arange(len(sizes)), sizes)
    assume(max(sizes) <= min(shares) / 100 * len(group))
    split = split_chips(classes(len(group)), places(chips, infos, (10, 10)), shares, seed=seed)
    for number in range(len(sizes)):
        assert len(np.unique(split.parts[group == number])) == 1
    found = [int((split.parts == part).sum()) for part in range(3)]
    assert np.abs(np.subtract(found, part_sizes(len(group), shares))).max() <= 2 * max(sizes)


def test_overlapping_chips_of_one_part_are_all_in_it() -> None:
    """There was no change to look at, which ended in a traceback."""
    infos = [scene("a", 60, 60), scene("b", 10, 10, left=-95)]
    chips = [(0, w) for w in chip_windows(60, 60, (10, 10), (10, 10))] + [(1, Window(0, 0, 10, 10))]
    assert not split_chips(classes(37), places(chips, infos, (10, 10)), (100, 0, 0)).parts.any()
