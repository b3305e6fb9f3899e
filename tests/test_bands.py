"""What counts as a measurement, and that statistics over chips are NumPy's over all pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.bands import BandStatistics, Normalization, all_measured, as_dtype, measured


def test_nodata_counts_per_band_and_nan_always() -> None:
    image = np.array([[[1.0, 2.0, np.nan]], [[2.0, 2.0, 5.0]]], np.float32)
    np.testing.assert_array_equal(measured(image, [2.0, None]), [[[True, False, False]], [[True, True, True]]])
    np.testing.assert_array_equal(all_measured(image, [2.0, None]), [[True, False, False]])
    np.testing.assert_array_equal(all_measured(image, 5.0, [False, True]), [[True, True, False]])


def test_what_is_infinite_in_single_precision_is_no_measurement() -> None:
    """ArcGIS's −1.8e308 in scenes that declare no nodata value: its NaN spread over all that the network sees."""
    edge = float(np.finfo(np.float32).max)
    image = np.array([[[np.finfo(np.float64).min, 1e39, -edge, edge, np.nan, -np.inf, 1e300]]])
    expected = [[False, False, True, True, False, False, False]]
    for nodata in (None, -9999.0):
        np.testing.assert_array_equal(measured(image, nodata), [expected])
        np.testing.assert_array_equal(all_measured(image, nodata), expected)
    assert all_measured(np.repeat(image, 2, 0), None, [False, False]).all()


@pytest.mark.parametrize(
    ("nodata", "dtype", "expected"),
    [
        (-9999, "uint16", None),
        (0, "uint16", 0),
        (0.5, "uint8", None),
        (np.inf, "int16", None),
        (np.nan, "float32", None),
    ],
)
def test_a_nodata_value_that_the_type_cannot_hold_is_none(nodata: float, dtype: str, expected: object) -> None:
    assert as_dtype(nodata, dtype) == expected


def test_a_nodata_value_of_single_precision_is_recognised() -> None:
    lowest = float(np.finfo(np.float32).min)
    assert not measured(np.full((1, 1, 1), lowest, np.float32), lowest).any()
    assert not measured(np.full((1, 1, 1), 0.1, np.float32), 0.1).any()


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(1, 9), min_size=1, max_size=6),
    st.sampled_from(["uint8", "uint16", "int16", "float32", "float64"]),
    st.sampled_from([0.0, 1e3, 1e6]),
)
def test_statistics_of_chips_equal_those_of_all_pixels(
    seed: int, heights: list[int], dtype: str, offset: float
) -> None:
    generator = np.random.default_rng(seed)
    if dtype.startswith("float"):
        chips = [(generator.normal(offset, 1, (2, h, 8))).astype(dtype) for h in heights]
    else:
        chips = [generator.integers(0, 120, (2, h, 8)).astype(dtype) for h in heights]
    masks = [generator.random((h, 8)) < 0.7 for h in heights]
    streamed = BandStatistics(2)
    for chip, mask in zip(chips, masks, strict=True):
        one = BandStatistics(2)
        one.update(chip, mask)
        streamed.merge(one)
    pixels = np.concatenate([chip[:, mask] for chip, mask in zip(chips, masks, strict=True)], axis=1).astype(np.float64)
    if pixels.shape[1]:
        np.testing.assert_allclose(streamed.mean, pixels.mean(1), rtol=1e-9)
        np.testing.assert_allclose(streamed.std, pixels.std(1), rtol=1e-9, atol=1e-9)
    else:
        assert np.isnan(streamed.mean).all()


def test_statistics_stay_exact_far_from_zero() -> None:
    """A sum of squares would lose every digit here."""
    values = 1e9 + np.arange(1000, dtype=np.float64).reshape(1, 10, 100)
    statistics = BandStatistics(1)
    for part in np.split(values, 5, axis=2):
        statistics.update(part, np.ones(part.shape[1:], bool))
    np.testing.assert_allclose(statistics.std, [np.std(values)], rtol=1e-9)


def test_a_band_may_have_its_own_mask() -> None:
    statistics = BandStatistics(2)
    image = np.array([[[1, 3]], [[5, 9]]], np.uint8)
    statistics.update(image, np.array([[[True, True]], [[False, True]]]))
    np.testing.assert_array_equal(statistics.mean, [2, 9])
    np.testing.assert_array_equal(statistics.count, [2, 1])


def test_a_band_without_measurement_is_not_used_and_a_constant_one_is_only_centred() -> None:
    """A constant band divided by zero in SpecDeepMap."""
    made = Normalization.from_statistics([5.0, np.nan, 2.0], [0.0, np.nan, 4.0], scale=10)
    assert (made.used, made.mean, made.std) == ((True, False, True), (5.0, 0.0, 2.0), (1.0, 1.0, 4.0))
    assert Normalization.from_dict(made.to_dict()) == made


def test_a_constant_band_of_floats_has_no_deviation() -> None:
    """Rounding left 1e-17, by which everything was divided in a scene where the band is not constant."""
    statistics = BandStatistics(1)
    for side in (7, 13, 128):
        statistics.update(np.full((1, side, side), 0.1), np.ones((side, side), bool))
    assert statistics.std.tolist() == [0.0]
    assert Normalization.from_statistics([0.1, 0.1], [1.4e-17, 1e-6]).std == (1.0, 1e-6)  # of folders of before


def _constant(value: float) -> npt.NDArray[np.float64]:
    return np.full((1, 4, 4), value)


def test_no_pixel_at_all_is_nan() -> None:
    statistics = BandStatistics(1)
    statistics.update(_constant(3), np.zeros((4, 4), bool))
    assert np.isnan(statistics.mean).all()
    assert np.isnan(statistics.std).all()
