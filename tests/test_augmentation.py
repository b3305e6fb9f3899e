from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from src.augmentation import Augmentation, Levels, Pixels, _gathered, _moved, _Places
from src.bands import Normalization
from src.errors import UserError
from src.labels import IGNORE

SIZE = 24
EVERYTHING = Augmentation(True, True, 45, 0.3, 16, 0.5, 0.1, 0.1, 0.1, 0.1)


def batch(count: int = 8, height: int = SIZE, width: int = SIZE) -> Pixels:
    """Band 1 is the class index plus one, band 2 numbers the pixels; a corner is not measured."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 4, (count, height, width), generator=generator, dtype=torch.uint8)
    number = torch.arange(1.0, height * width + 1).reshape(1, height, width).expand(count, -1, -1)
    valid = torch.ones((count, height, width), dtype=torch.bool)
    valid[:, :5, :7] = False
    image = torch.stack([target + 1.0, number], 1) * valid[:, None]
    return Pixels(image, torch.where(valid, target, IGNORE), valid)


@pytest.mark.parametrize(("height", "width"), [(SIZE, SIZE), (SIZE, SIZE + 8)])
def test_flips_and_turns_change_pixels_and_move_image_label_and_mask_together(height: int, width: int) -> None:
    before = batch(40, height, width)
    after = Augmentation(flips=True, rotate90=True)(before, seed=3)
    changed = (after.image != before.image).flatten(1).any(1)
    assert changed.float().mean() > 0.6  # SpecDeepMap's augmentation changed nothing in 200 draws
    assert torch.equal(after.image[:, 0] == 0, ~after.valid)
    assert torch.equal(after.image[:, 0][after.valid], after.target[after.valid] + 1.0)
    assert (after.target[~after.valid] == IGNORE).all()
    assert torch.equal(after.image[:, 1].flatten(1).sort().values, before.image[:, 1].flatten(1).sort().values)


def test_all_eight_views_of_a_square_chip_occur() -> None:
    before = batch(1)
    views = {Augmentation(True, True)(before, seed).image.numpy().tobytes() for seed in range(100)}
    assert len(views) == 8


def test_turns_without_flips_are_turns() -> None:
    before = batch(1)
    found = {Augmentation(rotate90=True)(before, seed).image.numpy().tobytes() for seed in range(50)}
    assert found == {before.image.rot90(k, (2, 3)).contiguous().numpy().tobytes() for k in range(4)}


def test_a_crop_is_a_part_of_the_chip() -> None:
    before = batch()
    after = Augmentation(crop=10)(before, seed=1)
    assert after.image.shape == (8, 2, 10, 10)
    assert after.target.shape == after.valid.shape == (8, 10, 10)
    first = after.image[0, 1]
    assert torch.equal(first[first > 0].diff().unique().sort().values[:1], torch.tensor([1.0]))
    assert len({int(corner) for corner in after.image[:, 1, -1, -1]}) > 1
    assert Augmentation(crop=10).output_size((24, 8)) == (10, 8)


def test_rotation_leaves_new_corners_without_class_and_keeps_pixels_with_their_label() -> None:
    half = torch.zeros((30, 64, 64), dtype=torch.uint8)
    half[:, :, 32:] = 1
    before = Pixels(half[:, None].float() * 2 - 1, half, torch.ones_like(half, dtype=torch.bool))
    after = Augmentation(rotation=45)(before, seed=5)
    assert (after.target == IGNORE).any()
    assert torch.equal(after.target == IGNORE, ~after.valid)
    assert (after.image[:, 0][~after.valid] == 0).all()
    inside = after.valid & (after.image[:, 0].abs() > 0.9)  # off the edge that interpolation blurs
    assert torch.equal(after.image[:, 0][inside] > 0, after.target[inside] == 1)
    assert inside.float().mean() > 0.8
    turned = (after.valid == before.valid).flatten(1).all(1)
    assert 5 < turned.sum() < 25  # half of the samples stay as they are


def test_beside_gaps_and_edges_only_what_was_measured_is_mixed() -> None:
    measured = torch.rand((40, 32, 32), generator=torch.Generator().manual_seed(0)) < 0.7
    image = torch.where(measured, 5.0, 0.0)[:, None].repeat(1, 2, 1, 1)
    image[:, 1] = 0  # a band that is not used
    after = Augmentation(rotation=45, zoom=0.3)(
        Pixels(image, torch.zeros_like(measured, dtype=torch.uint8), measured), 1
    )
    assert 0.5 < after.valid.float().mean() < 0.7
    assert torch.allclose(after.image[:, 0], torch.where(after.valid, 5.0, 0.0), atol=1e-4)
    assert not after.image[:, 1].any()


def test_a_turn_of_an_oblong_chip_keeps_angles() -> None:
    image = torch.zeros(200, 1, 32, 64)
    image[:, :, 12:20, 28:36] = 1
    labels = torch.zeros((200, 32, 64), dtype=torch.uint8)
    after = Augmentation(rotation=45)(Pixels(image, labels, labels == 0), seed=0)
    areas = after.image.sum((1, 2, 3))
    assert (areas - 64).abs().max() < 3
    offsets = torch.stack(torch.meshgrid(torch.arange(32) - 15.5, torch.arange(64) - 31.5, indexing="ij")).flatten(1)
    spread = torch.linalg.eigvalsh((after.image.flatten(2) * offsets) @ offsets.T)
    assert (spread[:, 1] / spread[:, 0]).max() < 1.2  # a square is as wide in all directions


def test_zoom_changes_the_size_of_things() -> None:
    image = torch.zeros(50, 1, 48, 48)
    image[:, :, 16:32, 16:32] = 1
    labels = torch.zeros((50, 48, 48), dtype=torch.uint8)
    areas = Augmentation(zoom=0.5)(Pixels(image, labels, labels == 0), seed=0).image.sum((1, 2, 3)) / 256
    assert areas.min() < 0.8
    assert areas.max() > 1.2
    assert areas.min() > 1 / 1.5**2 - 0.05
    assert areas.max() < 1.5**2 + 0.05


def test_cutmix_pastes_image_label_and_mask_of_another_sample() -> None:
    count = 20
    target = torch.arange(count, dtype=torch.uint8)[:, None, None].expand(-1, 16, 16).contiguous()
    before = Pixels(target[:, None].float() + 1, target, target % 2 == 0)
    after = Augmentation(cutmix=1)(before, seed=0)
    assert torch.equal(after.image[:, 0], after.target + 1.0)
    assert torch.equal(after.valid, after.target % 2 == 0)
    assert (after.target != before.target).any((1, 2)).sum() > count // 2
    for own, mixed in zip(before.target, after.target, strict=True):
        assert set(mixed.unique().tolist()) <= {int(own[0, 0]), (int(own[0, 0]) - 1) % count}


def test_jitter_leaves_labels_and_unmeasured_pixels_alone() -> None:
    before = batch()
    after = Augmentation(gain=0.1, brightness=0.1, noise=0.1)(before, seed=0)
    assert torch.equal(after.target, before.target)
    assert (after.image.movedim(1, -1)[~after.valid] == 0).all()
    assert (after.image != before.image).movedim(1, -1)[after.valid].float().mean() > 0.99


def test_the_same_seed_gives_the_same_batch_and_another_seed_another() -> None:
    first, same, other = (EVERYTHING(batch(), seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not torch.equal(first.image, other.image)


def test_nothing_happens_when_all_is_off() -> None:
    before = batch()
    assert not Augmentation().changes
    assert Augmentation()(before, 0) is before


@pytest.mark.parametrize(
    "name", [entry.name for entry in fields(Augmentation) if entry.name not in {"flips", "rotate90"}]
)
def test_a_negative_number_is_one_clear_line(name: str) -> None:
    with pytest.raises(UserError, match=f"augmentation.{name}=-1"):
        Augmentation(**{name: -1})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_one_clear_line(value: float) -> None:
    for name in ("zoom", "cutmix", "gain"):
        with pytest.raises(UserError, match=f"augmentation.{name}={value}"):
            Augmentation(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("cutmix", 2), ("rotation", 200), ("crop", 0)])
def test_a_number_out_of_range_is_one_clear_line(name: str, value: int) -> None:
    with pytest.raises(UserError, match=f"augmentation.{name}={value}"):
        Augmentation(**{name: value})


def test_dropped_bands_are_whole_and_others_stay() -> None:
    before = batch(200)
    after = Augmentation(band_dropout=0.3)(before, seed=4)
    kept = (after.image == before.image).flatten(2).all(2)
    assert ((after.image == 0).flatten(2).all(2) | kept).all()
    assert (~kept).float().mean() == pytest.approx(0.3, abs=0.08)
    assert torch.equal(after.target, before.target)


STATISTICS = Normalization((True, True, False), 10.0, (50.0, 300.0, 0.0), (4.0, 20.0, 1.0))
"""Of raw numbers 500 ± 40 and 3000 ± 200, and a band that is not used."""
NETWORKS = (
    STATISTICS,
    Normalization.identity(3),
    Normalization(STATISTICS.used, 100.0, (1.0, 2.0, 0.0), (3.0, 5.0, 1)),
)
"""Standardised, as they are, and as pretrained weights want them."""


@pytest.mark.parametrize("normalization", NETWORKS)
@pytest.mark.parametrize("changes", [Augmentation(gain=0.3, brightness=0.2, noise=0.1), Augmentation(band_dropout=0.5)])
def test_changes_of_bands_are_the_same_whatever_the_network_makes_of_their_numbers(
    changes: Augmentation, normalization: Normalization
) -> None:
    used, scale = torch.tensor(STATISTICS.used)[None, :, None, None], STATISTICS.scale
    draw = torch.Generator().manual_seed(0)
    mean, std = (torch.tensor(each)[None, :, None, None] * scale for each in (STATISTICS.mean, STATISTICS.std))
    raw = mean + std * torch.randn((6, 3, 8, 8), generator=draw)
    raw[:, 0, 0, 0] = 500  # a measurement that standardising makes 0
    valid = torch.ones((6, 8, 8), dtype=torch.bool)
    valid[:, 3:5] = False
    measured = used & valid[:, None]

    def changed(kind: Normalization) -> torch.Tensor:
        """Normalise, change, and return to raw numbers."""
        one, other = (torch.tensor(each)[None, :, None, None] for each in (kind.mean, kind.std))
        kept = torch.tensor(kind.used)[None, :, None, None] & measured
        given = torch.where(kept, (raw / kind.scale - one) / other, 0.0)
        levels = changes.levels(replace(kind, used=STATISTICS.used), STATISTICS)
        after = changes(Pixels(given, valid.byte(), valid), 7, levels).image
        assert not after[~measured.expand_as(after)].any()
        return (after * other + one) * kind.scale

    expected, found = changed(STATISTICS), changed(normalization)
    where = measured.expand_as(raw)
    assert torch.allclose(found[where], expected[where], rtol=1e-4)
    assert bool((expected[:, 0, 0, 0] != 500).any()) == (not changes.band_dropout)
    if changes.band_dropout:
        rows = found[:, :2, 0]
        dropped = rows.std(-1) < 1e-2
        assert 0 < dropped.sum() < dropped.numel()
        assert torch.allclose(rows.mean(-1)[dropped], mean[0, :2, 0, 0].expand(6, 2)[dropped])


def test_levels_of_standardised_bands_are_exactly_0_and_1() -> None:
    statistics = Normalization((True,), 10_000.0, (0.12345678901234567,), (0.0456789,))
    assert [each.tolist() for each in Levels.of(statistics, statistics)] == [[[[[True]]]], [[[[0.0]]]], [[[[1.0]]]]]


@pytest.mark.parametrize("name", ["gain", "brightness", "noise", "band_dropout"])
def test_a_change_by_unknown_statistics_is_one_clear_line(name: str) -> None:
    plain = Normalization.identity(2)
    with pytest.raises(UserError, match=rf"augmentation\.{name}=0\.1 goes by .*run prepare.py again"):
        Augmentation(**{name: 0.1}).levels(plain, None)
    Augmentation(flips=True, cutmix=0.5).levels(plain, None)


@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
@pytest.mark.parametrize("seed", range(8))
def test_moving_samples_one_by_one_is_what_a_gather_does(size: tuple[int, int], seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    given = Pixels(
        torch.randn((6, 3, *size), generator=draw),
        torch.randint(0, 5, (6, *size), generator=draw),
        torch.rand((6, *size), generator=draw) > 0.1,
    )
    turned, mirror_rows, mirror_columns = (torch.rand((3, 6), generator=draw) < 0.5).unbind()
    nowhere = torch.zeros(6, dtype=torch.long)
    places = _Places(turned & (size[0] == size[1]), mirror_rows, mirror_columns, nowhere, nowhere, size)
    for one, other in zip(_moved(given, places), _gathered(given, places), strict=True):
        assert torch.equal(one, other)
        assert one.stride() == other.stride()


def test_autocast_changes_nothing_of_where_pixels_go() -> None:
    """In bfloat16 the positions that a rotation samples were off by a pixel and more, and labels with them."""
    draw = torch.Generator().manual_seed(0)
    target = torch.randint(0, 4, (2, 512, 512), generator=draw, dtype=torch.uint8)
    before = Pixels(torch.randn((2, 2, 512, 512), generator=draw), target, torch.ones_like(target, dtype=torch.bool))
    changes = Augmentation(rotation=45, zoom=0.25, gain=0.1, brightness=0.1, noise=0.1)
    plain = changes(before, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        cast = changes(before, seed=1)
    assert not torch.equal(plain.target, before.target)
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))
