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


def of(*wavelengths: float, names: tuple[str, ...] = ()) -> tuple[Band, ...]:
    """Bands of these wavelengths, without names unless they are given."""
    names = names or tuple(f"band {n + 1}" for n in range(len(wavelengths)))
    return tuple(Band(name, wavelength) for name, wavelength in zip(names, wavelengths, strict=True))


SENTINEL_2A = of(442.7, 492.4, 559.8, 664.6, 704.1, 740.5, 782.8, 832.8, 864.7, 945.1, 1373.5, 1613.7, 2202.4)
SENTINEL_2B = of(442.2, 492.1, 559.0, 664.9, 703.8, 739.1, 779.7, 832.9, 864.0, 943.2, 1376.9, 1610.4, 2185.7)


def test_bands_without_names_are_found_by_their_wavelengths() -> None:
    assert match_bands(of(443, 1025, 1608, 2190), of(2190, 1608, 1025, 443.5), "scene.tif") == (3, 2, 1, 0)


@pytest.mark.parametrize(
    ("expected", "found", "message"),
    [
        (of(443, 1025), of(443, 1608), r"Band 2 of scene.tif is 'band 2' \(1608 nm\), .* expects 'band 2' \(1025 nm\)"),
        (of(665, 842, names=("red", "nir")), of(665, 842, names=("nir", "red")), r"Band 2 of scene.tif is 'red' \(842"),
        (of(833, 865, names=("B8", "B8A")), of(833, 865, names=("B8A", "B8")), r"Band 2 of scene.tif is 'B8' \(865 nm"),
        (of(420, 426.5, 433), of(426.5, 433, 439.5), r"Band 1 of scene.tif is 'band 1' \(426.5 nm\)"),
    ],
)
def test_a_band_of_another_wavelength_is_not_the_expected_one(
    expected: tuple[Band, ...], found: tuple[Band, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        match_bands(expected, found, "scene.tif")


def test_sensors_of_a_kind_and_bands_without_wavelengths_fit() -> None:
    in_order = tuple(range(13))
    assert match_bands(SENTINEL_2A, SENTINEL_2B, "scene.tif") == in_order
    assert match_bands(SENTINEL_2B, SENTINEL_2A, "scene.tif") == in_order
    landsat = of(865, 655, names=("nir", "red"))
    assert match_bands(of(665, 833, names=("red", "nir")), landsat, "scene.tif") == (1, 0)
    assert match_bands((*of(443, 665), Band("band 3")), of(443, 665, 842), "scene.tif") == (0, 1, 2)
    assert match_bands(of(443, 665), (Band("band 1"), Band("band 2", 665)), "scene.tif") == (0, 1)


def test_a_wavelength_is_no_part_of_a_name() -> None:
    """GDAL puts it behind the names of an ENVI file, or in their place, in the unit that the header has."""
    envi = of(664.6, 2202.4, names=("B4 (664.6 Nanometers)", "B12 (2202.4 Nanometers)"))
    assert match_bands(envi, of(2185.7, 664.9, names=("B12 (2.1857 Micrometers)", "B4")), "scene.tif") == (1, 0)
    micro, nano = of(450, 550, names=("0.45", "0.55")), of(450, 550, names=("450 nm", "550 nm"))
    assert match_bands(micro, nano, "scene.tif") == (0, 1)
    with pytest.raises(UserError, match=r"of which B12 \(2202\.4 Nanometers\) is missing"):
        match_bands(envi, of(664.6, 1610, names=("B4", "B11 (1610)")), "scene.tif")


def test_bands_of_other_names_are_found_by_their_wavelengths() -> None:
    """prepare.py took such scenes together, and train.py refused the chips of the second."""
    assert match_bands(of(665, 842, names=("red", "nir")), of(842, 665, names=("B8", "B4")), "scene.tif") == (1, 0)
