import pytest

from src.bands import Band, match_bands
from src.errors import UserError


def bands(*names: str) -> tuple[Band, ...]:
    return tuple(Band(name) for name in names)


def test_named_bands_are_found_in_any_order_among_others() -> None:
    assert match_bands(bands("B2", "B8"), bands("B8", "b1", "b2"), "scene.tif") == (2, 0)


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        (bands("B2", "B8"), bands("band 1", "band 2")),
        (bands("band 2", "band 1"), bands("red", "nir")),
        (bands("red", "red"), bands("nir", "red")),
        (bands("Band_001", "Band_002"), bands("Band_002", "Band_001")),
    ],
)
def test_numbers_and_repeated_names_are_no_names_so_order_decides(
    expected: tuple[Band, ...], found: tuple[Band, ...]
) -> None:
    assert match_bands(expected, found, "scene.tif") == (0, 1)


def test_a_missing_name_is_named() -> None:
    with pytest.raises(
        UserError,
        match=r"scene.tif has 2 bands \(red, nir\); .*expects 2 bands \(red, swir\), of which swir is missing",
    ):
        match_bands(bands("red", "swir"), bands("red", "nir"), "scene.tif")


def test_a_wrong_count_without_names_says_what_was_expected() -> None:
    sentinel = bands(*(f"B{number}" for number in range(1, 21)))
    with pytest.raises(UserError, match=r"scene.tif has 1 band; the checkpoint expects 20 bands \(B1, B2, B3 … B20\)"):
        match_bands(sentinel, bands("band 1"), "scene.tif")
