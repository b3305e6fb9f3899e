"""What people open after an evaluation: files with the promised columns, and numbers that agree among them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from src import figures
from src.atomic import whole_file
from src.labels import ClassTable
from src.score_files import ALL_PIXELS, score_table, write_score_files
from src.score_lines import MEAN_OVER_CHIPS, format_scores
from src.scores import Evaluation, ScoreCounter, Scores

CLASSES = ClassTable.build([1, 4, 200, 7], {1: "water", 4: "forest, dense"})


def evaluation(per_chip: bool = True) -> Evaluation:
    generator = torch.Generator().manual_seed(0)
    counter = ScoreCounter(CLASSES, per_chip=per_chip)
    truth = torch.randint(0, 3, (5, 8, 8), generator=generator)  # class 200 is nowhere
    prediction = torch.where(torch.rand(5, 8, 8, generator=generator) < 0.7, truth, 0)
    counter.add(truth, prediction, torch.rand(5, 8, 8, generator=generator))
    return counter.result()


def test_iou_csv_has_specdeepmaps_columns_and_last_row(tmp_path: Path) -> None:
    scores = evaluation()
    write_score_files(tmp_path, scores, {})
    lines = (tmp_path / "iou.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "Class,IoU"
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "4", "7", "200", "Mean IoU"]
    assert lines[4] == "200,"
    assert float(lines[-1].split(",")[1]) == pytest.approx(scores.pooled.mean_iou, abs=1e-6)
    assert scores.chip_means is not None
    last = (tmp_path / "iou_mean_over_chips.csv").read_text(encoding="utf-8").splitlines()[-1]
    assert last == f"Mean IoU,{scores.chip_means.mean_iou:.6f}"


def test_scores_csv_labels_every_row_as_what_it_is(tmp_path: Path) -> None:
    scores = evaluation()
    write_score_files(tmp_path, scores, {})
    table = pd.read_csv(tmp_path / "scores.csv", keep_default_na=False, na_values=[""])
    assert list(table["Aggregation"]) == [ALL_PIXELS] * 5 + [MEAN_OVER_CHIPS] * 5
    assert list(table["Class"]) == ["1", "4", "7", "200", "Mean"] * 2
    pooled = table[table["Aggregation"] == ALL_PIXELS].set_index("Class")
    assert pooled.loc["4", "Name"] == "forest, dense"
    assert pooled.loc["4", "F1"] == pytest.approx(scores.pooled.f1[1], abs=1e-6)
    assert scores.pooled.precision[0] != pytest.approx(scores.pooled.recall[0], abs=0.01)
    assert pooled.loc["1", "Precision"] == pytest.approx(scores.pooled.precision[0], abs=1e-6)
    assert pooled.loc["1", "Recall"] == pytest.approx(scores.pooled.recall[0], abs=1e-6)
    assert pooled["Support"].tolist() == [*scores.pooled.support, 320]
    assert scores.calibration is not None
    mean = pooled.loc["Mean"]
    assert mean["Overall accuracy"] == pytest.approx(scores.pooled.overall_accuracy, abs=1e-6)
    assert mean["Cohen's kappa"] == pytest.approx(scores.pooled.kappa, abs=1e-6)
    assert mean["Expected calibration error"] == pytest.approx(scores.calibration.expected_error, abs=1e-6)


def test_a_scene_has_no_mean_over_chips(tmp_path: Path) -> None:
    paths = write_score_files(tmp_path, evaluation(per_chip=False), {}, prefix="scene_")
    assert not any("chips" in path.name for path in paths)
    assert "Chips" not in score_table(evaluation(per_chip=False))
    assert {path.name for path in paths} == {path.name for path in tmp_path.iterdir()}
    assert all(path.name.startswith("scene_") for path in paths)


def test_scores_json_is_strict_json_with_everything(tmp_path: Path) -> None:
    scores = evaluation()
    write_score_files(tmp_path, scores, {"checkpoint": "Wälder.ckpt"})
    content = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert content["checkpoint"] == "Wälder.ckpt"
    assert content["all_pixels"]["iou"][3] is None
    assert content["all_pixels"]["mean"]["iou"] == scores.pooled.mean_iou
    assert scores.pooled.precision[0] != scores.pooled.recall[0]
    assert content["all_pixels"]["precision"][0] == scores.pooled.precision[0]
    assert content["all_pixels"]["recall"][0] == scores.pooled.recall[0]
    assert content["mean_over_chips"]["chips"] == [5, 5, 5, 0]
    assert content["confusion_matrix"]["counts"] == scores.pooled.matrix.tolist()
    assert len(content["calibration"]["pixels"]) == 15
    assert [entry["value"] for entry in content["classes"]] == [1, 4, 7, 200]


def test_confusion_csvs_name_rows_and_columns(tmp_path: Path) -> None:
    scores = evaluation()
    write_score_files(tmp_path, scores, {})
    counts = pd.read_csv(tmp_path / "confusion.csv", index_col="truth \\ prediction")
    shares = pd.read_csv(tmp_path / "confusion_normalized.csv", index_col="truth \\ prediction")
    assert list(counts.columns) == list(map(str, counts.index)) == ["1 water", "4 forest, dense", "7", "200"]
    np.testing.assert_array_equal(counts.to_numpy(), scores.pooled.matrix)
    np.testing.assert_allclose(shares.sum(axis=1).to_numpy(), [1, 1, 1, 0], atol=1e-5)


def test_terminal_lines_have_each_score_in_its_column() -> None:
    heading, _, first, second = format_scores(Evaluation(ClassTable.build([1, 2]), Scores(np.array([[3, 1], [2, 4]]))))[
        1:5
    ]
    assert heading.split() == ["class", "IoU", "F1", "Precision", "Recall", "pixels"]
    assert first.split() == ["1", "0.5000", "0.6667", "0.6000", "0.7500", "4"]
    assert second.split() == ["2", "0.5714", "0.7273", "0.8000", "0.6667", "6"]


def test_terminal_lines_say_which_figure_is_which() -> None:
    scores = evaluation()
    lines = format_scores(scores)
    assert "over all pixels" in lines[0]
    assert "mean over chips" in lines[0]
    assert scores.chip_means is not None
    water = next(line for line in lines if line.startswith("1 water"))
    assert water.split()[2] == f"{scores.pooled.iou[0]:.4f}"
    assert water.split()[-1] == f"{scores.chip_means.iou[0]:.4f}"
    assert f"Overall accuracy {scores.pooled.overall_accuracy:.4f}" in lines[-4]
    assert len({len(line) for line in lines[:-4]}) == 1
    means = (scores.pooled.mean_iou, scores.chip_means.mean_iou, scores.batch_mean_iou)
    for line, words, mean in zip(
        lines[-3:], ("all pixels", "mean over chips", "mean over batches"), means, strict=True
    ):
        assert words in line
        assert line.endswith(f": {mean:.4f}")


@pytest.mark.parametrize("classes", [1, 5, 25])
def test_pictures_are_drawn_for_any_number_of_classes(tmp_path: Path, classes: int) -> None:
    matrix = np.diag(np.arange(classes)) * 10**7
    shares = np.full((classes, classes), np.nan)
    figures.draw_confusion(tmp_path / "a.png", [f"class {i}" for i in range(classes)], matrix, shares)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_names_of_any_length_stay_inside_the_picture(tmp_path: Path) -> None:
    """The word "truth" lost its left half."""
    corine = "Land principally occupied by agriculture, with significant areas of natural vegetation"
    for titles in (
        ["forest", "grassland", "farmland", "residential", "water"],
        ["a", "b"],
        ["1 water", "2 forest"],
        [f"{n} {corine}" for n in range(5)],  # once they left no room for the matrix
        ["1 森林", "2 🌲"],  # and these came with a page of warnings
    ):
        matrix = np.full((len(titles),) * 2, 200)
        figures.draw_confusion(tmp_path / "a.png", titles, matrix, matrix / matrix.sum(1, keepdims=True))
        picture = matplotlib.image.imread(tmp_path / "a.png")
        for edge in (picture[:2], picture[-2:], picture[:, :2], picture[:, -2:]):
            assert edge.min() == 1.0  # white


class Pen:
    """Takes down what is written into a picture."""

    def __init__(self) -> None:
        self.words: list[str] = []

    def text(self, _: tuple[float, float], words: str, *__: Any, **___: Any) -> None:
        self.words.append(words)


@pytest.mark.parametrize(("classes", "numbered"), [(24, True), (25, False)])
def test_the_picture_promises_no_numbers_that_it_does_not_have(
    monkeypatch: pytest.MonkeyPatch, classes: int, numbered: bool
) -> None:
    drawn, pen = list[Figure](), Pen()
    monkeypatch.setattr(figures, "FigureCanvasAgg", lambda figure: drawn.append(figure) or FigureCanvasAgg(figure))
    monkeypatch.setattr(figures.ImageDraw, "Draw", lambda _: pen)
    matrix = np.full((classes, classes), 7)
    figures.confusion_picture([str(n) for n in range(classes)], matrix, matrix / matrix.sum(1, keepdims=True), 50)
    assert bool(pen.words) == drawn[0].axes[0].get_title().endswith("and pixels") == numbered


def test_the_picture_rounds_no_error_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """300 of 100 000 pixels wrong read 100 % right and 0 % wrong."""
    pen = Pen()
    monkeypatch.setattr(figures.ImageDraw, "Draw", lambda _: pen)
    scores = Scores(np.array([[99_700, 300], [0, 8]]))
    figures.confusion_picture(["a", "b"], scores.matrix, scores.row_shares, 50)
    assert pen.words == [">99%", "99.7k", "<1%", "300", "100%", "8"]


def test_the_picture_is_laid_out_once_and_matplotlib_writes_no_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every epoch waits for it: with 16 classes it took 5 seconds."""
    drawn: list[Figure] = []
    draw = Figure.draw
    monkeypatch.setattr(Figure, "draw", lambda self, renderer: drawn.append(self) or draw(self, renderer))
    scores = Scores(np.full((16, 16), 9))
    picture = figures.confusion_picture([str(n) for n in range(16)], scores.matrix, scores.row_shares, 50)
    (figure,) = drawn
    assert not figure.axes[0].texts
    assert picture.shape[2] == 3


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (9999, "9,999"), (12_345, "12.3k"), (999_400, "999k"), (4_567_890, "4.57M")]
)
def test_counts_are_shortened(count: int, text: str) -> None:
    assert figures._short(count) == text


def test_a_file_that_fails_half_way_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("old")

    def write_half() -> None:
        with whole_file(path) as partial:
            partial.write_text("half")
            raise OSError(28, "no space")

    with pytest.raises(OSError, match="no space"):
        write_half()
    assert [entry.name for entry in tmp_path.iterdir()] == ["scores.csv"]
    assert path.read_text() == "old"
