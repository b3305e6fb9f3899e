"""Scores against scikit-learn's and torchmetrics' own, and against cases worked out by hand."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as sklearn
from torchmetrics.functional import classification as torchmetrics

from src.labels import IGNORE, ClassTable
from src.scores import METRICS, ScoreCounter, Scores, confusion_matrices, confusion_matrix

Labels = npt.NDArray[np.uint8]


@st.composite
def label_images(draw: st.DrawFn) -> tuple[int, Labels, Labels]:
    """Number of classes, truth and prediction: B × H × W with IGNORE here and there; a class may be absent."""
    classes = draw(st.integers(1, 6))
    shape = draw(hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6))
    values = st.sampled_from([*range(classes), IGNORE])
    return (
        classes,
        draw(hnp.arrays(np.uint8, shape, elements=values)),
        draw(hnp.arrays(np.uint8, shape, elements=values)),
    )


def counted(truth: Labels, prediction: Labels) -> tuple[Labels, Labels]:
    both = (truth != IGNORE) & (prediction != IGNORE)
    return truth[both], prediction[both]


def scores_of(truth: Labels, prediction: Labels, classes: int) -> Scores:
    return Scores(confusion_matrix(torch.from_numpy(truth), torch.from_numpy(prediction), classes).numpy())


def matrix(*rows: list[int]) -> Scores:
    return Scores(np.array(rows, np.int64))


@given(label_images())
@settings(deadline=None, max_examples=80)
def test_confusion_matrix_is_scikit_learns(images: tuple[int, Labels, Labels]) -> None:
    classes, truth, prediction = images
    y, p = counted(truth, prediction)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a single label, although labels are given
        expected = sklearn.confusion_matrix(y, p, labels=range(classes)) if y.size else np.zeros((classes, classes))
    np.testing.assert_array_equal(scores_of(truth, prediction, classes).matrix, expected)


@given(label_images())
@settings(deadline=None, max_examples=30)
def test_a_batchs_matrices_are_those_of_its_images(images: tuple[int, Labels, Labels]) -> None:
    classes, truth, prediction = images
    together = confusion_matrices(torch.from_numpy(truth), torch.from_numpy(prediction), classes).numpy()
    alone = [scores_of(t, p, classes).matrix for t, p in zip(truth, prediction, strict=True)]
    np.testing.assert_array_equal(together, alone)


@given(label_images())
@settings(deadline=None, max_examples=80)
def test_scores_per_class_and_their_means_are_scikit_learns(images: tuple[int, Labels, Labels]) -> None:
    classes, truth, prediction = images
    scores, (y, p) = scores_of(truth, prediction, classes), counted(truth, prediction)
    present = np.flatnonzero(scores.support)
    if not y.size:
        assert scores.mean_iou == 0.0
        assert np.isnan([scores.overall_accuracy, scores.kappa]).all()
        return
    scorers = {
        "iou": sklearn.jaccard_score,
        "f1": sklearn.f1_score,
        "precision": sklearn.precision_score,
        "recall": sklearn.recall_score,
    }
    for name, scorer in scorers.items():
        ours = getattr(scores, name)
        theirs = scorer(y, p, labels=range(classes), average=None, zero_division=0)
        np.testing.assert_allclose(np.nan_to_num(ours), theirs)
        mean = scorer(y, p, labels=present, average="macro", zero_division=0)
        assert scores.mean(ours) == pytest.approx(mean)
    assert scores.mean(scores.iou) == pytest.approx(scores.mean_iou)
    assert scores.overall_accuracy == pytest.approx(sklearn.accuracy_score(y, p))
    np.testing.assert_array_equal(scores.support, np.bincount(y, minlength=classes))


@given(label_images())
@settings(deadline=None, max_examples=80)
def test_kappa_is_scikit_learns(images: tuple[int, Labels, Labels]) -> None:
    classes, truth, prediction = images
    y, p = counted(truth, prediction)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns where kappa has no meaning and returns nan, as we do
        expected = sklearn.cohen_kappa_score(y, p, labels=range(classes)) if y.size else np.nan
    np.testing.assert_allclose(scores_of(truth, prediction, classes).kappa, expected, atol=1e-12)


@given(label_images())
@settings(deadline=None, max_examples=30)
def test_iou_and_f1_are_torchmetrics(images: tuple[int, Labels, Labels]) -> None:
    classes, truth, prediction = images
    y, p = (torch.from_numpy(part).long() for part in counted(truth, prediction))
    assume(classes > 1 and len(y))  # its multiclass scores take neither one class nor no pixel
    scores = scores_of(truth, prediction, classes)
    options = {"num_classes": classes, "average": "none"}
    np.testing.assert_allclose(np.nan_to_num(scores.iou), torchmetrics.multiclass_jaccard_index(p, y, **options), 1e-5)
    np.testing.assert_allclose(np.nan_to_num(scores.f1), torchmetrics.multiclass_f1_score(p, y, **options), 1e-5)


@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(1, 200), st.floats(0.1, 30))
@settings(deadline=None, max_examples=40)
def test_calibration_error_is_torchmetrics(seed: int, classes: int, pixels: int, sharpness: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    probabilities = (torch.randn(pixels, classes, generator=generator) * sharpness).softmax(1)
    truth = torch.randint(0, classes, (pixels,), generator=generator)
    truth[torch.rand(pixels, generator=generator) < 0.2] = IGNORE
    confidence, prediction = probabilities.max(1)
    counter = ScoreCounter(ClassTable.build(range(1, classes + 1)))
    for part in torch.arange(pixels).split(17):  # batch by batch, as an evaluation adds them
        counter.add(truth[part][None], prediction[part][None], confidence[part][None])
    calibration = counter.result().calibration
    assert calibration is not None
    if (truth == IGNORE).all():
        assert np.isnan(calibration.expected_error)
        return
    expected = torchmetrics.multiclass_calibration_error(
        probabilities, truth, classes, n_bins=15, norm="l1", ignore_index=IGNORE
    )
    assert calibration.expected_error == pytest.approx(float(expected), abs=1e-5)
    assert calibration.pixels.sum() == (truth != IGNORE).sum()


def test_a_network_that_is_as_sure_as_it_is_right_has_no_calibration_error() -> None:
    counter = ScoreCounter(ClassTable.build([1, 2]))
    truth = torch.tensor([[0, 0, 0, 1]])
    counter.add(truth, torch.zeros_like(truth), torch.full(truth.shape, 0.75))
    calibration = counter.result().calibration
    assert calibration is not None
    assert calibration.expected_error == 0.0
    assert calibration.accuracy[11] == calibration.mean_confidence[11] == 0.75
    assert np.isnan(np.delete(calibration.accuracy, 11)).all()


def test_certainty_falls_into_the_last_bin() -> None:
    counter = ScoreCounter(ClassTable.build([1]))
    counter.add(torch.tensor([[0]]), torch.tensor([[0]]), torch.tensor([[1.0]]))
    calibration = counter.result().calibration
    assert calibration is not None
    assert calibration.pixels.tolist() == [0] * 14 + [1]


def test_by_hand() -> None:
    scores = matrix([3, 1, 0], [2, 4, 0], [0, 0, 0])
    np.testing.assert_allclose(scores.iou, [3 / 6, 4 / 7, np.nan])
    np.testing.assert_allclose(scores.precision, [3 / 5, 4 / 5, np.nan])
    np.testing.assert_allclose(scores.recall, [3 / 4, 4 / 6, np.nan])
    np.testing.assert_allclose(scores.f1, [6 / 9, 8 / 11, np.nan])
    assert scores.mean_iou == pytest.approx((3 / 6 + 4 / 7) / 2)
    np.testing.assert_allclose(scores.row_shares, [[0.75, 0.25, 0], [1 / 3, 2 / 3, 0], [np.nan] * 3])


def test_a_class_that_is_only_predicted_lowers_the_others_but_is_no_class_of_the_mean() -> None:
    scores = matrix([8, 2], [0, 0])
    np.testing.assert_allclose(scores.iou, [0.8, 0.0])
    assert scores.mean_iou == 0.8


def test_pooled_scores_and_the_mean_over_chips_differ_as_in_specdeepmap() -> None:
    """Its tester and its trainer gave one model two figures: each chip counts as much as all of its pixels."""
    counter = ScoreCounter(ClassTable.build([10, 20, 30]), per_chip=True)
    truth, prediction = torch.full((2, 10, 10), 255), torch.zeros(2, 10, 10, dtype=torch.uint8)
    truth[0] = 0  # 100 pixels of class 0, all right
    truth[1, 0, :2] = 1  # 2 pixels of class 1, both taken for class 0
    counter.add(truth, prediction)
    evaluation = counter.result()
    assert evaluation.chip_means is not None
    np.testing.assert_allclose(evaluation.pooled.iou, [100 / 102, 0.0, np.nan])
    np.testing.assert_allclose(evaluation.chip_means.iou, [(1 + 0) / 2, 0.0, np.nan])
    assert evaluation.chip_means.chips.tolist() == [2, 1, 0]
    assert evaluation.pooled.mean_iou == pytest.approx(50 / 102)
    assert evaluation.chip_means.mean_iou == 0.25


def test_the_mean_over_batches_is_that_of_each_batch_s_own_mean_weighted_by_its_chips() -> None:
    counter = ScoreCounter(ClassTable.build([10, 20, 30]), per_chip=True)
    right, wrong = torch.zeros(1, 2, 2, dtype=torch.uint8), torch.ones(1, 2, 2, dtype=torch.uint8)
    counter.add(torch.cat([right, right, wrong]), torch.cat([right, right, right]))  # 2/3 for class 10, 0 for 20
    counter.add(wrong, wrong)
    counter.add(torch.full((1, 2, 2), IGNORE, dtype=torch.uint8), wrong)  # nothing is known of it
    assert counter.result().batch_mean_iou == pytest.approx((3 * (2 / 3 + 0) / 2 + 1) / 4)
    assert ScoreCounter(ClassTable.build([1])).result().batch_mean_iou is None


def test_a_class_that_is_only_predicted_counts_in_the_mean_over_batches() -> None:
    counter = ScoreCounter(ClassTable.build([10, 20]), per_chip=True)
    counter.add(torch.tensor([[[0, 0]]]), torch.tensor([[[0, 1]]]))
    assert counter.result().batch_mean_iou == 0.25  # of 1/2 and 0


@pytest.mark.parametrize("together", [1, 2, 5])
def test_the_mean_over_batches_can_be_that_of_any_number_of_consecutive_chips(together: int) -> None:
    truth, prediction = torch.tensor([0, 0, 1, 0, 1]).reshape(-1, 1, 1), torch.tensor([0, 0, 0, 0, 1]).reshape(-1, 1, 1)
    counter = ScoreCounter(ClassTable.build([10, 20]), per_chip=True, batch_size=3)
    for start in range(0, 5, together):
        counter.add(truth[start : start + together], prediction[start : start + together])
    for _ in range(2):  # asking for them changes nothing
        assert counter.result().batch_mean_iou == pytest.approx((3 * (2 / 3 + 0) / 2 + 2 * 1) / 5)


@given(label_images())
@settings(deadline=None, max_examples=40)
def test_mean_over_chips_is_the_mean_of_scikit_learns_scores_of_each_chip(images: tuple[int, Labels, Labels]) -> None:
    classes, truth, prediction = images
    counter = ScoreCounter(ClassTable.build(range(1, classes + 1)), per_chip=True)
    counter.add(torch.from_numpy(truth), torch.from_numpy(prediction))
    means = counter.result().chip_means
    assert means is not None
    per_chip: list[list[float]] = [[] for _ in range(classes)]
    for chip_truth, chip_prediction in zip(truth, prediction, strict=True):
        y, p = counted(chip_truth, chip_prediction)
        for index in set(y.tolist()) | set(p.tolist()):
            per_chip[index].append(sklearn.jaccard_score(y, p, labels=[index], average=None, zero_division=0)[0])
    expected = [np.mean(values) if values else np.nan for values in per_chip]
    np.testing.assert_allclose(means.iou, expected)
    assert means.chips.tolist() == [len(values) for values in per_chip]


@given(label_images(), st.integers(1, 3))
@settings(deadline=None, max_examples=30)
def test_how_chips_are_batched_does_not_matter(images: tuple[int, Labels, Labels], size: int) -> None:
    classes, truth, prediction = images
    results = []
    for step in (size, len(truth)):
        counter = ScoreCounter(ClassTable.build(range(1, classes + 1)), per_chip=True)
        for start in range(0, len(truth), step):
            counter.add(*(torch.from_numpy(part[start : start + step]) for part in (truth, prediction)))
        results.append(counter.result())
    first, second = results
    np.testing.assert_array_equal(first.pooled.matrix, second.pooled.matrix)
    for metric in METRICS:
        np.testing.assert_allclose(getattr(first.chip_means, metric), getattr(second.chip_means, metric))


def test_pixels_that_are_not_a_chip_s_own_count_in_its_own_scores_only() -> None:
    counter = ScoreCounter(ClassTable.build([10, 20]), per_chip=True)
    truth = torch.tensor([[[0, 0, 1, IGNORE]]], dtype=torch.uint8)
    own = torch.tensor([[[True, False, True, True]]])
    counter.add(truth, torch.zeros_like(truth), torch.full(truth.shape, 0.9), own)
    found = counter.result()
    assert found.pooled.matrix.tolist() == [[1, 0], [1, 0]]
    assert found.calibration is not None
    assert (found.calibration.pixels.sum(), found.calibration.hits.sum()) == (2, 1)
    assert found.chip_means is not None
    assert found.chip_means.iou.tolist() == [2 / 3, 0]
    assert found.batch_mean_iou == 1 / 3


def test_counts_do_not_overflow() -> None:
    counter = ScoreCounter(ClassTable.build([1, 2]))
    counter._matrix[:] = 2**40
    assert counter.result().pooled.kappa == 0.0
    assert counter.result().pooled.overall_accuracy == 0.5
