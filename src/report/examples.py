"""Which chips to show: the best and the worst, kept while an evaluation goes by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from src.labels import ClassTable
from src.report.blocks import Block, Legend, Strip, Strips, Text
from src.report.page import Section
from src.report.pictures import AGREEMENT, difference, painted, picture
from src.report.wording import counted, decimal, percent
from src.scores import Scores, confusion_matrix


@dataclass(frozen=True)
class Example:
    """One chip with what was mapped.

    Attributes:
        name: What to call it.
        image: Picture of it, H × W × 4.
        target: True class values, H × W; 0 where there is no label.
        mapped: Predicted class values, H × W; 0 where the image has no measurement.
        iou: Mean IoU over the classes in the chip's truth.
        accuracy: Share of its labelled pixels that are right.
    """

    name: str
    image: npt.NDArray[np.uint8]
    target: npt.NDArray[np.uint8]
    mapped: npt.NDArray[np.uint8]
    iou: float
    accuracy: float


@dataclass
class Extremes:
    """Keeps the chips with the highest and the lowest mean IoU; of equal ones those that came first.

    Attributes:
        classes: The class table.
        most: How many to keep of either kind.
        best: The best so far, best first.
        worst: The worst so far, worst first.
        seen: How many chips with labels have been offered.
    """

    classes: ClassTable
    most: int = 3
    best: list[Example] = field(default_factory=list)
    worst: list[Example] = field(default_factory=list)
    seen: int = 0

    def add(
        self,
        name: str,
        image: Callable[[], npt.NDArray[np.uint8]],
        target: npt.NDArray[np.uint8],
        mapped: npt.NDArray[np.uint8],
    ) -> None:
        """Offer a chip; one without a label is passed over.

        Args:
            name: What to call it.
            image: Makes a picture of it, H × W × 4; called only if the chip is kept.
            target: True class values, H × W; 0 is not counted.
            mapped: Predicted class values, H × W; 0 is not counted either.
        """
        truth, predicted = (torch.from_numpy(self.classes.encode(values)) for values in (target, mapped))
        matrix = confusion_matrix(truth, predicted, len(self.classes))
        if not matrix.any():
            return
        scores = Scores(matrix.numpy())
        iou = scores.mean_iou
        self.seen += 1
        among_best = len(self.best) < self.most or iou > self.best[-1].iou
        among_worst = len(self.worst) < self.most or iou < self.worst[-1].iou
        if among_best or among_worst:
            example = Example(name, image(), target.copy(), mapped.copy(), iou, scores.overall_accuracy)
            if among_best:
                self.best = sorted([*self.best, example], key=lambda e: -e.iou)[: self.most]
            if among_worst:
                self.worst = sorted([*self.worst, example], key=lambda e: e.iou)[: self.most]

    def distinct_worst(self) -> list[Example]:
        """The worst without those that are among the best, where there are few chips."""
        return [example for example in self.worst if not any(example is shown for shown in self.best)]


def strip(example: Example, classes: ClassTable) -> Strip:
    """Show a chip as image, label, prediction and where they differ."""
    name, target, mapped = example.name, example.target, example.mapped
    wrong = percent(1 - example.accuracy)
    return Strip(
        name,
        f"mean IoU {decimal(example.iou)}",
        (
            picture(example.image, f"Image of {name}", "Image"),
            painted(target, classes, f"Labels of {name}", "Label"),
            painted(mapped, classes, f"Prediction for {name}", "Prediction"),
            picture(
                difference(target, mapped),
                f"Where the map of {name} differs from its labels: {wrong} of the labelled pixels",
                f"Differs: {wrong}",
                drawn=True,
            ),
        ),
    )


def example_section(examples: Extremes) -> Section:
    """Show the best and the worst chips with a legend."""
    classes = examples.classes
    legend = (*zip(classes.names, classes.colors, strict=True), *AGREEMENT)
    worst = examples.distinct_worst()
    note = f"Chosen among {counted(examples.seen, 'chip')} by each one’s mean IoU. What has no label is left blank."
    blocks: list[Block] = [Text((note,)), Legend(legend)]
    for title, chosen in (("Best" if worst else "All", examples.best), ("Worst", worst)):
        if chosen:
            blocks.append(Strips(title, tuple(strip(example, classes) for example in chosen)))
    return Section("Chips", tuple(blocks))
