"""Windows for mapping: every pixel is covered, shares sum to one, what is stitched is what went in."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from src.grid import Blend, axis_spans, inner_step
from src.mapping.stitching import Stitcher

BLENDS = st.sampled_from(["cosine", "crop"])


@st.composite
def axes(draw: st.DrawFn, longest: int = 400) -> tuple[int, int, int, int]:
    """Length, window, halo, multiple."""
    halo = draw(st.integers(0, 40))
    window = draw(st.integers(2 * halo + 1, 160))
    return draw(st.integers(1, longest)), window, halo, draw(st.sampled_from([1, 8, 32]))


@given(axes(), BLENDS)
@settings(max_examples=300, deadline=None)
def test_shares_of_every_pixel_sum_to_one(axis: tuple[int, int, int, int], blend: Blend) -> None:
    length, *_ = axis
    total = np.zeros(length)
    for span in axis_spans(*axis[:3], blend, axis[3]):
        assert (span.weights > 0).all()
        total[span.first : span.stop] += span.weights
    np.testing.assert_allclose(total, 1, atol=1e-6)


@given(axes(), BLENDS)
@settings(max_examples=300, deadline=None)
def test_what_a_window_contributes_lies_in_it_and_finished_parts_follow_each_other(
    axis: tuple[int, int, int, int], blend: Blend
) -> None:
    length, window, halo, multiple = axis
    spans = axis_spans(length, window, halo, blend, multiple)
    assert spans[0].first == 0
    assert spans[-1].final == spans[-1].stop == length
    for span in spans:
        assert span.start <= span.first < span.final <= span.stop <= span.start + window
        assert length <= window or 0 <= span.start <= length - window
        assert len(span.weights) == span.stop - span.first
    for one, other in itertools.pairwise(spans):
        assert one.final == other.first


@given(axes())
@settings(max_examples=300, deadline=None)
def test_crop_keeps_no_pixel_nearer_to_an_inner_border_than_the_halo(axis: tuple[int, int, int, int]) -> None:
    length, window, halo, multiple = axis
    for span in axis_spans(length, window, halo, "crop", multiple):
        assert span.first - span.start >= halo or span.start == 0
        assert span.start + window - span.stop >= halo or span.stop == length


@given(axes())
@settings(max_examples=200, deadline=None)
def test_cosine_uses_nothing_nearer_to_an_inner_border_than_half_the_halo(axis: tuple[int, int, int, int]) -> None:
    length, window, halo, multiple = axis
    for span in axis_spans(length, window, halo, "cosine", multiple):
        assert span.first - span.start >= halo // 2 or span.start == 0
        assert span.start + window - span.stop >= halo // 2 or span.stop == length


def test_cosine_fades_from_one_window_into_the_next() -> None:
    first, second = axis_spans(64, 40, 8, "cosine")[:2]
    assert (second.first, first.stop) == (28, 36)
    fading = first.weights[second.first :]
    assert (np.diff(fading) < 0).all()
    np.testing.assert_allclose(fading, np.cos((np.arange(8) + 0.5) / 8 * np.pi / 2) ** 2, atol=1e-6)
    np.testing.assert_allclose(fading[::-1], second.weights[:8], atol=1e-6)


def test_step_is_a_multiple_where_one_fits_in() -> None:
    assert [inner_step(256, 52, 32), inner_step(64, 13, 32), inner_step(40, 13, 32)] == [128, 32, 14]


def test_a_window_that_is_all_halo_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing inside a halo of 32"):
        inner_step(64, 32)


@given(axes(160), axes(160), BLENDS)
@settings(max_examples=120, deadline=None)
def test_stitching_an_index_raster_gives_it_back(
    down: tuple[int, int, int, int], across: tuple[int, int, int, int], blend: Blend
) -> None:
    rows, columns = axis_spans(*down[:3], blend, down[3]), axis_spans(*across[:3], blend, across[3])
    height, width = down[0], across[0]
    scene = torch.arange(height * width, dtype=torch.float32).reshape(1, height, width)
    padded = torch.nn.functional.pad(scene, (0, across[1], 0, down[1]), value=float("nan"))
    stitched = torch.full_like(scene, float("nan"))
    stitcher = Stitcher(rows, columns, 1, torch.device("cpu"))
    for (r, row), (c, column) in itertools.product(enumerate(rows), enumerate(columns)):
        window = padded[:, row.start : row.start + down[1], column.start : column.start + across[1]]
        done = stitcher.add(r, c, window)
        part = (slice(None), *stitcher.block(r, c))
        assert torch.isnan(stitched[part]).all(), "a pixel was finished twice"
        stitched[part] = done
    assert torch.isfinite(stitched).all(), "a pixel was never finished"
    if blend == "crop":
        assert torch.equal(stitched, scene)
    torch.testing.assert_close(stitched, scene, rtol=1e-5, atol=1e-5)


@given(axes(120), st.data(), BLENDS)
@settings(max_examples=60, deadline=None)
def test_going_on_at_any_row_gives_the_same_numbers(
    down: tuple[int, int, int, int], data: st.DataObject, blend: Blend
) -> None:
    rows, columns = axis_spans(*down[:3], blend, down[3]), axis_spans(50, 32, 5, blend)
    scene = torch.rand(2, down[0] + down[1], 50, generator=torch.Generator().manual_seed(0))

    def run(first: int) -> list[torch.Tensor]:
        stitcher = Stitcher(rows, columns, 2, torch.device("cpu"))
        blocks = []
        for r in range(stitcher.first_row_for(first), len(rows)):
            for c, column in enumerate(columns):
                window = scene[:, rows[r].start :, column.start :][:, : down[1], :32]
                done = stitcher.add(r, c, window)
                blocks += [done.clone()] if r >= first else []
        return blocks

    again = data.draw(st.integers(0, len(rows) - 1))
    whole = run(0)[again * len(columns) :]
    assert all(torch.equal(a, b) for a, b in zip(run(again), whole, strict=True))
