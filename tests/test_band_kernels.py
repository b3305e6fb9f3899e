"""Which band gets whose kernel."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F

from src.bands import Band
from src.errors import UserError
from src.models.band_kernels import band_key, matched_bands, rgb_bands, same_bands

S2 = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8a", "B9", "B10", "B11", "B12")


def bands(*names: str) -> list[Band]:
    return [Band(name) for name in names]


def used(names: Sequence[object]) -> list[bool]:
    return [True] * len(names)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("B01 443nm", "B1"),
        ("B8A", "B8A"),
        ("b8a", "B8A"),
        ("B08A_865", "B8A"),
        ("SR_B4", "B4"),
        ("B12", "B12"),
        ("B6_VCID_1", "B6_VCID_1"),
        ("VV", "VV"),
        ("band 7", None),
        ("7", None),
        ("Blue", None),
        ("B4x", None),
    ],
)
def test_a_sensors_name_is_read_from_a_bands_name(name: str, key: str | None) -> None:
    assert band_key(name) == key


def test_bands_are_matched_by_name_whatever_their_order() -> None:
    """The same numbers come out as with the weights' own bands in their own order, zeros for those that are missing."""
    data = bands("B08 842nm", "B04 665nm", "B03 560nm", "B02 490nm", "B8A 865nm")
    kernels = matched_bands(data, used(data), S2, None, "SENTINEL2")
    weight, image = torch.rand(4, 13, 3, 3), torch.rand(2, 5, 8, 8)
    own = torch.zeros(2, 13, 8, 8)
    own[:, [7, 3, 2, 1, 8]] = image
    torch.testing.assert_close(F.conv2d(image, kernels.adapt(weight)), F.conv2d(own, weight))
    assert "B8 kernel → B08 842nm" in kernels.lines
    assert "missing in the data, filled with zeros: B1, B5, B6, B7, B9, B10, B11, B12" in kernels.lines


def test_bands_that_the_weights_do_not_know_start_at_zero_and_are_named() -> None:
    data = bands("B04", "elevation", "B03", "B02")
    kernels = matched_bands(data, used(data), ("B4", "B3", "B2"), None, "SENTINEL2")
    adapted = kernels.adapt(torch.rand(4, 3, 1, 1))
    assert not adapted[:, 1].any()
    assert kernels.sources == (0, None, 1, 2)
    assert kernels.lines[-1] == "unknown to the weights, kernels start at zero: elevation"


def test_an_unused_band_counts_as_missing() -> None:
    data = bands("B4", "B3", "B2")
    kernels = matched_bands(data, [True, False, True], ("B4", "B3", "B2"), None)
    assert not kernels.adapt(torch.ones(1, 3, 1, 1))[:, 1].any()
    assert "missing in the data, filled with zeros: B3" in kernels.lines


def test_what_was_given_goes_before_names() -> None:
    data = bands("band 1", "band 2", "band 3")
    kernels = matched_bands(data, used(data), S2, ["B2", None, "B8A"])
    assert kernels.sources == (1, None, 8)


@pytest.mark.parametrize(
    ("data", "given", "sensor", "words"),
    [
        (bands("band 1", "band 2"), None, "", ("none of the data's", "weights.bands=[")),
        (bands("B4", "B4 again"), None, "", ("Several", "B4")),
        (bands("B4", "B3"), ["B4"], "", ("1 entries", "2 bands")),
        (bands("B4", "B3"), ["B4", "B99"], "", ("no band B99", "B12")),
        (bands("B4", "B13"), None, "SENTINEL2", ("no B13", "weights.bands=[")),
        ([Band("B4", 655), Band("B5", 865)], None, "SENTINEL2", ("B5 is at 704 nm", "865 nm")),
        (bands("B4", "B8A"), None, "LANDSAT_OLI", ("LANDSAT_OLI", "B8A")),
    ],
)
def test_nothing_is_guessed(data: list[Band], given: list[str] | None, sensor: str, words: tuple[str, ...]) -> None:
    """One sensor's B5 is not the other's: names of another sensor, or wavelengths that contradict them, are refused."""
    with pytest.raises(UserError) as error:
        matched_bands(data, used(data), S2, given, sensor)
    for word in words:
        assert word in str(error.value)


def test_rgb_kernels_go_to_the_bands_named_so_and_their_mean_to_the_others() -> None:
    data = bands("Blue", "Green", "Red", "NIR")
    kernels = rgb_bands(data, used(data), None)
    red, green, blue = (torch.full((1, 1, 1), value) for value in (1.0, 2.0, 6.0))
    adapted = kernels.adapt(torch.cat([red, green, blue])[None]).flatten()
    torch.testing.assert_close(adapted, torch.tensor([6.0, 2.0, 1.0, 3.0]) * 3 / 4)
    assert kernels.lines == (
        "red kernel → Red",
        "green kernel → Green",
        "blue kernel → Blue",
        "mean of the three → NIR; all scaled by 3/4",
    )


def test_three_bands_in_any_order_keep_their_kernels_whole() -> None:
    data = bands("b", "g", "r")
    adapted = rgb_bands(data, used(data), [3, 2, 1]).adapt(torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1))
    assert adapted.flatten().tolist() == [3.0, 2.0, 1.0]


def test_an_unused_band_gets_no_kernel_and_does_not_count() -> None:
    data = bands("Red", "Green", "Blue", "empty")
    adapted = rgb_bands(data, [True, True, True, False], None).adapt(torch.ones(1, 3, 1, 1))
    assert adapted.flatten().tolist() == [1.0, 1.0, 1.0, 0.0]


def test_one_band_is_grey() -> None:
    assert rgb_bands([Band("pan")], [True], None).adapt(torch.ones(1, 3, 1, 1)).flatten().tolist() == [3.0]


@pytest.mark.parametrize(
    ("data", "given", "words"),
    [
        (bands("band 1", "band 2", "band 3"), None, "weights.rgb=[3,2,1]"),
        (bands("B1", "B2", "B3", "B4", "B5", "B7"), None, "cannot be told"),
        (bands("a", "b", "c"), [1, 2, 4], "numbers from 1 to 3"),
        (bands("a", "b", "c"), ["a", "b", "d"], "d is no band"),
        (bands("a", "b", "c"), [1, 2], "three different bands"),
        (bands("a", "b", "c"), [1, 2, 2], "three different bands"),
    ],
)
def test_rgb_is_not_guessed(data: list[Band], given: list[int | str] | None, words: str) -> None:
    """B4, B3 and B2 alone may be Landsat 5's near infrared, red and green."""
    with pytest.raises(UserError) as error:
        rgb_bands(data, used(data), given)
    assert words in str(error.value)


def test_stacked_pixels_are_adapted_band_by_band() -> None:
    """TResNet stacks 4 × 4 pixels before its first convolution: each band enters it 16 times."""
    data = bands("Blue", "Green", "Red")
    weight, image = torch.rand(4, 48, 3, 3), torch.rand(1, 3, 16, 16)

    def stack(x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        return x.view(n, c, h // 4, 4, w // 4, 4).permute(0, 3, 5, 1, 2, 4).reshape(n, c * 16, h // 4, w // 4)

    adapted = rgb_bands(data, used(data), None).adapt(weight, 16)
    torch.testing.assert_close(F.conv2d(stack(image), adapted), F.conv2d(stack(image.flip(1)), weight))


def test_the_same_bands_keep_their_kernels() -> None:
    data = bands("x", "y")
    weight = torch.rand(3, 2, 1, 1)
    assert torch.equal(same_bands(data, [True, True]).adapt(weight), weight)
    assert not same_bands(data, [True, False]).adapt(weight)[:, 1].any()


def test_two_bands_are_no_colours_and_share_the_kernels() -> None:
    """Red, green and blue could not be named among two bands: whatever weights.rgb said was refused."""
    data = bands("VV", "VH")
    kernels = rgb_bands(data, used(data), None)
    weight = torch.rand(4, 3, 3, 3)
    torch.testing.assert_close(kernels.adapt(weight), weight.sum(1, keepdim=True).expand(-1, 2, -1, -1) / 2)
    assert kernels.sources == (None, None)
    assert rgb_bands(data, [False, True], None).rows == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
