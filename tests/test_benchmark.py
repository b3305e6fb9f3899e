"""The accuracy benchmark: which pixels it learns from, how it counts, and that it finishes on small scenes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scripts import benchmark
from scripts.accuracy.classical import CLASSIFIERS, classify
from scripts.accuracy.results import Result, ious, mean_iou, overall_accuracy, write_results
from scripts.accuracy.scenes import HELD_OUT, SCENES, TEST, TRAIN, VALIDATION, Area, lay_out, read
from src.scores import Scores
from tests import rasters

SHARED = benchmark.ROOT.parent / "shared/data"
REAL = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")


@REAL
@pytest.mark.parametrize("name", SCENES)
def test_no_area_is_scored_on_what_it_learns_from(name: str) -> None:
    scene = SCENES[name]
    test = scene.area(SHARED, TEST)
    for place in (TEST, *scene.folds):
        area = scene.area(SHARED, place)
        learnt = np.isin(area.parts, (TRAIN, VALIDATION)) & (read(area.label)[0] > 0)
        assert learnt.any()
        assert (area.parts == VALIDATION).any()
        assert set(np.unique(area.held_label[area.held_label > 0])) <= set(range(1, len(scene.classes) + 1))
        if area.image == area.held_image:
            assert not (learnt & (area.held_label > 0)).any()
        if place != TEST:  # a fold knows nothing of the test area
            assert area.image == test.image
            assert not (np.isin(area.parts, (TRAIN, VALIDATION, HELD_OUT)) & (test.parts == HELD_OUT)).any()


@REAL
def test_folds_hold_each_labelled_pixel_of_the_training_area_out_once() -> None:
    for scene in SCENES.values():
        test = scene.area(SHARED, TEST)
        labelled = np.isin(test.parts, (TRAIN, VALIDATION)) & (read(test.label)[0] > 0)
        held = sum((scene.area(SHARED, fold).held_label > 0).astype(int) for fold in scene.folds)
        np.testing.assert_array_equal(held, labelled)


def two_halves(folder: Path) -> Area:
    """A scene whose class 2 is bright; its upper half trains."""
    rng = np.random.default_rng(0)
    label = rng.integers(1, 3, (8, 8)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    image = (rng.normal(1000, 20, (3, 64, 64)) + 500 * (label == 2)).astype(np.uint16)
    paths = rasters.write(folder / "image.tif", image, nodata=0), rasters.write(folder / "label.tif", label)
    parts = np.full((64, 64), TRAIN, np.uint8)
    parts[32:] = HELD_OUT
    return Area(*paths, parts, paths[0], np.where(parts == HELD_OUT, label, 0).astype(np.uint8))


@pytest.mark.parametrize("name", ["forest-3x3", "logistic"])
def test_a_classifier_learns_from_training_pixels_and_maps_the_others(name: str, tmp_path: Path) -> None:
    area = two_halves(tmp_path)
    matrix = benchmark.confusion(area.held_label, classify(CLASSIFIERS[name], area, 0), 2)
    assert matrix.sum() == 32 * 64
    assert overall_accuracy(matrix) > 0.9


def test_scores_are_pooled_and_what_the_map_leaves_empty_is_wrong() -> None:
    truth = np.array([[1, 1, 2, 2, 0]], np.uint8)
    matrix = benchmark.confusion(truth, np.array([[1, 0, 2, 1, 2]], np.uint8), 3)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(ious(matrix), [1 / 3, 1 / 2, np.nan])
    assert mean_iou(matrix) == pytest.approx(5 / 12)
    assert overall_accuracy(matrix) == 0.5


def test_a_whole_map_has_the_scores_of_eval_and_predict() -> None:
    matrix = np.random.default_rng(0).integers(0, 50, (4, 4))
    matrix[2] = 0  # the truth lacks it
    ours, expected = np.pad(matrix, ((0, 0), (1, 0))), Scores(matrix)
    np.testing.assert_array_equal(ious(ours), np.where(expected.support > 0, expected.iou, np.nan))
    assert (mean_iou(ours), overall_accuracy(ours)) == (expected.mean_iou, expected.overall_accuracy)


def test_results_go_between_the_marks_with_their_spread(tmp_path: Path) -> None:
    for seed, hits in ((1, 8), (2, 6)):
        row = {"scene": "havel", "area": "test", "run": "ours", "seed": seed, "cpu_seconds": 9.0, "wall_seconds": 5.0}
        matrix = np.pad(np.diag([hits] * 5), ((0, 0), (1, 0)))
        matrix[:, 0] = 10 - hits
        (tmp_path / f"{seed}.json").write_text(json.dumps(row | {"matrix": matrix.tolist()}))
    document = tmp_path / "results.md"
    document.write_text("before\n<!-- begin: test -->\nold\n<!-- end -->\nafter\n")
    write_results(tmp_path, document)
    text = document.read_text()
    assert text.startswith("before\n<!-- begin: test -->\n### Sentinel-2")
    assert text.endswith("<!-- end -->\nafter\n")
    assert "old" not in text
    assert "| experiment=small_scene | 0.700 ± 0.141 | 0.700 ± 0.141 | 2 | 9 | 5 |" in text
    assert "| forest | 10 | 0.70 |" in text


def test_levers_are_held_against_their_base_on_the_same_folds_with_the_same_seeds(tmp_path: Path) -> None:
    narrow: dict[str, dict[int, tuple[int, ...]]] = {"narrow-context": {42: (7, 5)}, "narrow-dice": {42: (4, 4)}}
    hits: dict[str, dict[int, tuple[int, ...]]] = narrow | {
        "ours": {42: (8, 6), 43: (7, 7)},
        "no-cutmix": {42: (9, 7), 43: (8, 8), 44: (5,)},
        "logistic": {42: (4, 4)},
    }
    for run, by_seed in hits.items():
        for seed, right in by_seed.items():
            for fold, number in enumerate(right):
                matrix = np.zeros((5, 6), int)
                matrix[0, 1], matrix[0, 0] = number, 10 - number  # of ten pixels the others are left empty
                row = {"scene": "havel", "area": f"fold-{fold}", "run": run, "seed": seed, "matrix": matrix.tolist()}
                path = tmp_path / f"{run}-{seed}-{fold}.json"
                path.write_text(json.dumps(row | {"cpu_seconds": 9.0, "wall_seconds": 5.0}))
    document = tmp_path / "results.md"
    document.write_text("<!-- begin: folds -->\n<!-- end -->\n")
    write_results(tmp_path, document)
    text = document.read_text()
    assert "| experiment=small_scene | 0.700 ± 0.000 |  | 0.700 ± 0.000 | 0: 0.750, 1: 0.650 | 2 | 9 |" in text
    assert "| no CutMix | 0.800 ± 0.000 | +0.100 ± 0.000 | 0.800 ± 0.000 | 0: 0.850, 1: 0.750 | 2 | 9 |" in text
    assert "| no CutMix | 0.500 |  | 0.500 | 0: 0.500 | 1 | 9 |" in text  # nothing to hold it against
    assert "| small_scene, dilations 1, 1, 1 | 0.600 | -0.100 | 0.600 | 0: 0.700, 1: 0.500 | 1 | 9 |" in text
    assert "| cross-entropy and Dice, dilations 1, 1, 1 | 0.400 | -0.200 | 0.400 | 0: 0.400, 1: 0.400 | 1 | 9 |" in text
    assert "| logistic regression, single pixels | 0.400 |  | 0.400 | 0: 0.400, 1: 0.400 | 1 | 9 |" in text


def test_a_run_that_has_a_result_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path)
    monkeypatch.setattr(benchmark, "prefers_bf16", lambda _: True)
    monkeypatch.setattr(benchmark, "measure", lambda run, _: print(run.path.relative_to(tmp_path)))
    monkeypatch.setattr(benchmark, "write_results", lambda *_: "written")
    there = tmp_path / "havel/test/ours-43.json"
    there.parent.mkdir(parents=True)
    there.touch()
    benchmark.main(["--source", str(tmp_path), "--scene", "havel", "--run", "ours"])
    assert capsys.readouterr().out.split() == ["havel/test/ours-42.json", "havel/test/ours-44.json", "written"]


def test_results_of_another_precision_or_device_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path)
    for bf16, name, accelerator, folder in (
        (True, "default", "cpu", "."),
        (False, "default", "cpu", "float32"),
        (False, "forest", "cpu", "."),
        (False, "default", "auto", "ablation"),
    ):
        monkeypatch.setattr(benchmark, "prefers_bf16", lambda _, bf16=bf16: bf16)
        run = benchmark.Run(SCENES["havel"], TEST, name, 42, accelerator)
        assert run.path == tmp_path / folder / f"havel/test/{name}-42.json"
        row = {"scene": "havel", "area": TEST, "run": name, "seed": 42, "cpu_seconds": 9.0, "wall_seconds": 5.0}
        matrix = np.pad(np.diag([10] * 5), ((0, 0), (1, 0))).tolist()
        run.path.parent.mkdir(parents=True, exist_ok=True)
        run.path.write_text(json.dumps(row | {"matrix": matrix if bf16 else (np.array(matrix) * 0 + 1).tolist()}))
    document = tmp_path / "results.md"
    document.write_text("<!-- begin: test -->\n<!-- end -->\n<!-- begin: float32 -->\n<!-- end -->\n")
    write_results(tmp_path, document)
    test, _, plain = document.read_text().partition("<!-- begin: float32 -->")
    assert "| train.py without further keys | 1.000 |" in test
    assert "| train.py without further keys | 0.100 |" in plain


def test_only_folds_that_a_scene_has_are_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(benchmark, "RESULTS", tmp_path)
    monkeypatch.setattr(benchmark, "prefers_bf16", lambda _: True)
    monkeypatch.setattr(benchmark, "measure", lambda run, _: made.append(f"{run.scene.experiment} {run.area}"))
    monkeypatch.setattr(benchmark, "write_results", lambda *_: "")
    asked = ["--source", str(tmp_path), "--run", "ours", "--folds", "--fold", "fold-1", "--fold", "fold-3"]
    benchmark.main(asked)
    assert made == [
        "havel fold-1",
        "havel fold-3",
        "indian_pines fold-1",
        "enmap_potsdam fold-1",
        "enmap_potsdam fold-3",
    ]
    with pytest.raises(SystemExit):
        benchmark.main([*asked, "--fold", "1"])


@REAL
def test_scenes_are_laid_out_for_the_recorded_experiments(tmp_path: Path) -> None:
    files = lay_out(SCENES["enmap_potsdam"], SHARED, tmp_path)
    assert all(path.is_file() for path in files)
    assert set(np.unique(read(tmp_path / "enmap_potsdam/parts.tif"))) == {0, TRAIN, VALIDATION, HELD_OUT}


def test_a_result_keeps_what_was_measured() -> None:
    row = {"run": "ours", "area": "test", "seed": 1, "matrix": [[0, 1]], "cpu_seconds": 2.0, "wall_seconds": 1.0}
    assert (result := Result.from_dict(row)).matrix.shape == (1, 2)
    assert (result.cpu, result.wall) == (2.0, 1.0)
