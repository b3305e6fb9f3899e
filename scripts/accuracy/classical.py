"""Classifiers of single pixels, the floor that a network has to beat: scikit-learn, as most papers use them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scripts.accuracy.scenes import TRAIN, VALIDATION, Area, read

Floats = npt.NDArray[np.float32]

PER_CLASS = 4000
"""Pixels of a class that are learnt from at most."""


@dataclass(frozen=True)
class Classifier:
    """A baseline.

    Attributes:
        title: What to call it.
        features: Turns an image C × H × W into features F × H × W.
        make: Makes the classifier from a seed.
    """

    title: str
    features: Callable[[Floats], Floats]
    make: Callable[[int], Any]


def bands(image: Floats) -> Floats:
    """Return the bands as they are."""
    return image


def neighbourhood(image: Floats) -> Floats:
    """Return mean and standard deviation of every band in the 3 × 3 pixels around each."""
    mean = _mean_3x3(image)
    deviation = np.sqrt(np.maximum(_mean_3x3(image * image) - mean * mean, 0))
    return np.concatenate([mean, deviation])


def _mean_3x3(image: Floats) -> Floats:
    """Return the mean of the 3 × 3 pixels around each; beyond the edge the nearest pixels count again."""
    _, height, width = image.shape
    wide = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="edge")
    total = sum(wide[:, i : i + height, j : j + width] for i in range(3) for j in range(3))
    return np.asarray(total / 9, np.float32)


def forest(seed: int) -> Any:
    """Return a random forest of 300 trees."""
    return RandomForestClassifier(300, random_state=seed, n_jobs=1)


def logistic(seed: int) -> Any:
    """Return a logistic regression on standardised features."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, random_state=seed))


CLASSIFIERS = {
    "forest": Classifier("random forest, single pixels", bands, forest),
    "forest-3x3": Classifier("random forest, 3 × 3 means and deviations", neighbourhood, forest),
    "logistic": Classifier("logistic regression, single pixels", bands, logistic),
}
"""The baselines by name."""


def classify(classifier: Classifier, area: Area, seed: int) -> npt.NDArray[np.uint8]:
    """Learn from an area's training pixels and return the map of its held-out scene, H × W class values.

    Training and validation pixels are learnt from, as in a refit; of the map only labelled pixels are filled.
    """
    image, values = area.image, read(area.label)[0]
    pixels, valid = _measured(str(image))
    known = np.isin(area.parts, (TRAIN, VALIDATION)) & (values > 0) & valid
    chosen = _draw(values * known, np.random.default_rng(seed))
    model = classifier.make(seed).fit(classifier.features(pixels)[:, chosen[0], chosen[1]].T, values[chosen])
    if area.held_image != image:
        pixels, valid = _measured(str(area.held_image))
    rows, columns = np.nonzero(area.held_label)
    found = np.zeros(area.held_label.shape, np.uint8)
    found[rows, columns] = model.predict(classifier.features(pixels)[:, rows, columns].T)
    return found


def _measured(path: str) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Read an image and tell which pixels are measured in every band; others are 0."""
    with rasterio.open(path) as dataset:
        image = dataset.read()
        valid = np.ones(image.shape[1:], bool)
        if dataset.nodata is not None:
            valid = (image != dataset.nodata).all(0)
    return np.where(valid, image, 0).astype(np.float32), valid


def _draw(values: npt.NDArray[np.uint8], rng: np.random.Generator) -> tuple[npt.NDArray[np.int64], ...]:
    """Draw at most PER_CLASS pixels of each class; return their rows and columns."""
    flat = values.ravel()
    chosen = [np.flatnonzero(flat == value) for value in np.unique(flat[flat > 0])]
    drawn = np.concatenate([rng.choice(p, PER_CLASS, replace=False) if len(p) > PER_CLASS else p for p in chosen])
    return np.unravel_index(drawn, values.shape)
