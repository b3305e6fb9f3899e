from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from src.errors import UserError
from src.labels import IGNORE
from src.models.losses import WEIGHTINGS, CrossEntropy, CrossEntropyDice, Dice, class_weights

WEIGHT = (0.2, 1.0, 3.0)
LOSSES = [
    CrossEntropy(),
    CrossEntropy(WEIGHT),
    CrossEntropy(WEIGHT, label_smoothing=0.1),
    CrossEntropy(gamma=2),
    Dice(),
    Dice(WEIGHT),
    CrossEntropyDice(WEIGHT),
]


def example() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, 5, generator=generator)
    target = torch.randint(0, 3, (2, 6, 5), generator=generator, dtype=torch.uint8)
    target[:, :2] = IGNORE
    return logits, target


@pytest.mark.parametrize("loss", LOSSES)
def test_without_a_labelled_pixel_the_loss_is_zero_and_so_is_its_gradient(loss: nn.Module) -> None:
    logits = example()[0].requires_grad_()
    value = loss(logits, torch.full((2, 6, 5), IGNORE, dtype=torch.uint8))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_pixels_without_a_class_change_nothing(loss: nn.Module) -> None:
    logits, target = example()
    elsewhere = torch.where((target == IGNORE)[:, None], 50 * torch.randn(logits.shape), logits)
    assert torch.allclose(loss(logits, target), loss(elsewhere, target))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_right_answer_costs_less_than_a_wrong_one_and_bfloat16_is_welcome(loss: nn.Module) -> None:
    target = example()[1]
    right = F.one_hot(target.long() % 3, 3).movedim(-1, 1) * 9.0
    assert loss(right.bfloat16(), target) < loss(right.roll(1, 1).bfloat16(), target)
    assert loss(right.bfloat16(), target).dtype == torch.float32


@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("smoothing", [0, 0.1])
def test_cross_entropy_is_pytorchs_where_there_are_labels(weight: tuple[float, ...] | None, smoothing: float) -> None:
    """With both, a pixel of weight w counts as w pixels; PyTorch weighs the smoothed part by the other classes."""
    logits, target = example()
    tensor = torch.tensor((1.0, 1.0, 1.0) if weight is None else weight)
    each = F.cross_entropy(logits, target.long(), ignore_index=IGNORE, label_smoothing=smoothing, reduction="none")
    share = torch.where(target == IGNORE, 0.0, tensor[target.long() % 3])
    expected = (each * share).sum() / share.sum()
    assert torch.allclose(CrossEntropy(weight, smoothing)(logits, target), expected)
    if not smoothing:
        assert torch.allclose(expected, F.cross_entropy(logits, target.long(), tensor, ignore_index=IGNORE))


@pytest.mark.parametrize("weights", [(0.03, 0.97), (0.01, 0.2, 5.0)])
def test_smoothing_and_weights_together_still_want_each_pixel_s_own_class(weights: tuple[float, ...]) -> None:
    """The rarest class was the best answer everywhere from a weight of 19 times the commonest's on."""
    classes = len(weights)
    logits = torch.zeros(1, classes, 1, classes, requires_grad=True)
    target = torch.arange(classes)[None, None]
    loss, optimizer = CrossEntropy(weights, 0.1), torch.optim.LBFGS([logits], max_iter=200)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value: torch.Tensor = loss(logits, target)
        value.backward()
        return value

    for _ in range(20):
        optimizer.step(closure)
    probability = logits.detach().softmax(1)[0, :, 0].T
    assert probability.argmax(1).tolist() == list(range(classes))
    assert torch.allclose(probability.diagonal(), torch.full((classes,), 0.9 + 0.1 / classes), atol=0.02)


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_focal_loss_is_its_formula(weight: tuple[float, ...] | None) -> None:
    logits, target = example()
    labelled = target != IGNORE
    probability = logits.softmax(1).gather(1, (target.long() % 3)[:, None])[:, 0][labelled]
    share = torch.tensor(weight or (1.0, 1.0, 1.0))[target[labelled].long()]
    expected = (-share * (1 - probability) ** 2 * probability.log()).sum() / share.sum()
    assert torch.allclose(CrossEntropy(weight, gamma=2)(logits, target), expected)


def test_dice_is_over_the_classes_present() -> None:
    logits, target = example()
    target[target == 2] = IGNORE
    probability = logits.softmax(1).movedim(1, -1)[target != IGNORE]
    truth = F.one_hot(target[target != IGNORE].long(), 3)
    dice = (2 * (probability * truth).sum(0) + 1) / (probability.sum(0) + truth.sum(0) + 1)
    assert torch.allclose(Dice()(logits, target), (1 - dice[:2]).mean())


def test_dice_is_the_weighted_mean_over_its_classes() -> None:
    logits, target = torch.zeros(1, 3, 1, 6), torch.tensor([[[0, 0, 0, 1, 1, 2]]])
    # All are as likely, so each class is foreseen for 6 / 3 pixels, of which a third of its own are hit.
    first, second, third = (1 - (2 * own / 3 + 1) / (2 + own + 1) for own in (3, 2, 1))
    assert float(Dice()(logits, target)) == pytest.approx((first + second + third) / 3)
    assert float(Dice((0, 1, 3))(logits, target)) == pytest.approx((second + 3 * third) / 4)


def test_cross_entropy_and_dice_have_their_shares_and_the_classes_weigh_in_the_one() -> None:
    together = CrossEntropyDice(WEIGHT, label_smoothing=0.1, dice=0.2)(*example())
    assert torch.allclose(together, 0.8 * CrossEntropy(WEIGHT, 0.1)(*example()) + 0.2 * Dice()(*example()))


def test_pixels_of_a_class_with_weight_0_change_nothing_with_smoothed_labels_either() -> None:
    logits, target = example()
    loss = CrossEntropy((0.0, 1.0, 3.0), label_smoothing=0.1)
    assert torch.allclose(loss(logits, target), loss(logits, torch.where(target == 0, IGNORE, target)))
    assert loss(logits, torch.zeros_like(target)) == 0  # it was a million


@pytest.mark.parametrize("gamma", [0.5, 1, 2])
def test_the_focal_loss_has_a_slope_where_the_answer_is_sure(gamma: float) -> None:
    logits = torch.tensor([[40.0, 0.0], [0.0, 1.0]]).reshape(2, 2, 1, 1).requires_grad_()
    CrossEntropy(gamma=gamma)(logits, torch.zeros(2, 1, 1)).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[1].abs().sum() > 0.1


def test_losses_put_nothing_into_a_checkpoint() -> None:
    assert not any(loss.state_dict() for loss in LOSSES)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_rarer_classes_weigh_more_and_the_mean_over_pixels_is_one(weighting: str) -> None:
    counts = (10_000, 100, 0, 1_000)
    weights = class_weights(counts, weighting)
    assert weights[1] > weights[3] > weights[0] > weights[2] == 0
    assert math.isclose(sum(w * c for w, c in zip(weights, counts, strict=True)) / sum(counts), 1)


def test_inverse_weightings_are_their_formulas() -> None:
    few, many = class_weights((100, 10_000), "inverse_frequency")
    assert math.isclose(few / many, 100)
    few, many = class_weights((100, 10_000), "inverse_sqrt")
    assert math.isclose(few / many, 10)


def test_one_class_alone_has_a_weight() -> None:
    assert all(class_weights((500,), weighting) == (1.0,) for weighting in WEIGHTINGS)


def test_what_means_nothing_is_one_clear_line() -> None:
    with pytest.raises(UserError, match="class_weights=loud"):
        class_weights((1, 2), "loud")
    with pytest.raises(UserError, match="label_smoothing=1"):
        CrossEntropy(label_smoothing=1)
    with pytest.raises(UserError, match="dice=2"):
        CrossEntropyDice(dice=2)
    for gamma in (-1, math.inf):
        with pytest.raises(UserError, match=f"gamma={gamma}"):
            CrossEntropy(gamma=gamma)
    with pytest.raises(UserError, match="smooth=-1"):
        Dice(smooth=-1)
