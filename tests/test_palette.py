"""Classes without a colour of their own: no two look alike, however many there are."""

from __future__ import annotations

import numpy as np
import pytest

from src.labels import ClassTable
from src.palette import PALETTE, oklab, palette_color


def apart(colors: tuple[str, ...]) -> float:
    """How far the two colours that are most alike are from each other, in Oklab."""
    seen = oklab(np.array([list(bytes.fromhex(color[1:])) for color in colors]))
    distances = np.linalg.norm(seen[:, None] - seen, axis=-1)
    return float(distances[np.triu_indices(len(colors), 1)].min())


def test_no_two_of_all_classes_have_one_colour() -> None:
    """Class 21 had the colour of class 1 in maps, legends and curves."""
    colors = ClassTable.build(range(1, 256)).colors
    assert len({*colors, "#ffffff", "#000000"}) == 257
    assert colors[:20] == PALETTE
    assert colors[20] == palette_color(20) == "#282828"
    assert colors[254] == palette_color(254)


@pytest.mark.parametrize(("classes", "share"), [(40, 1.0), (255, 0.7)])
def test_further_colours_are_about_as_different_as_the_first_twenty(classes: int, share: float) -> None:
    colors = ClassTable.build(range(1, classes + 1)).colors
    assert apart((*colors, "#ffffff", "#000000")) >= share * apart(PALETTE)


def test_oklab_has_white_and_greys_without_a_hue() -> None:
    white, grey, black = oklab(np.array([[255] * 3, [127] * 3, [0] * 3]))
    np.testing.assert_allclose(white, [1, 0, 0], atol=1e-4)
    np.testing.assert_allclose(grey[1:], 0, atol=1e-4)
    np.testing.assert_allclose(black, 0, atol=1e-4)
