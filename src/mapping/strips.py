"""Strips of a map: windows are read ahead, go through the network, are joined and written behind it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch

from src.ahead import ahead
from src.datamodules.batches import room
from src.grid import Span
from src.labels import UNCLASSIFIED, ClassTable
from src.mapping.cog import Layer
from src.mapping.inference import Predictor
from src.mapping.kept_rows import Patch
from src.mapping.plan import MapPlan
from src.mapping.scene_reader import SceneReader
from src.mapping.stitching import Stitcher
from src.mapping.strip_store import StripStore
from src.models.network import Network, most_likely

Probabilities = Literal["uint8", "float16"]
"""How probabilities and the uncertainty are stored."""

CLASSES, PROBABILITIES, UNCERTAINTY = "classes", "probabilities", "uncertainty"
"""Names of the layers."""

STEPS = 250
"""uint8 probabilities are stored as 0–250, so that the scale is a short number (0.004)."""
NO_PROBABILITY = {"uint8": 255.0, "float16": -1.0}
"""Marks pixels without a measurement in the probabilities and the uncertainty."""


@dataclass(frozen=True)
class Batch:
    """Neighbouring windows of one row of windows, in memory that a GPU can read by itself where there is one.

    Attributes:
        row: Index of their row.
        columns: Indices of their columns.
        image: B × C × H × W.
        valid: B × H × W; see :class:`~src.mapping.kept_rows.Patch`.
        fed: B × H × W.
        measured: Which windows have a measurement.
    """

    row: int
    columns: range
    image: torch.Tensor
    valid: torch.Tensor
    fed: torch.Tensor
    measured: list[int]


class Answers(NamedTuple):
    """What a batch was mapped as; its image, which nobody needs any more, is not held.

    Attributes:
        row: Index of its row of windows.
        columns: Indices of its columns.
        valid: B × H × W.
        probabilities: n × H × W of each window on the device, None for one without a measurement.
    """

    row: int
    columns: range
    valid: torch.Tensor
    probabilities: list[torch.Tensor | None]


def map_layers(classes: ClassTable, probabilities: Probabilities | None) -> list[Layer]:
    """Return the layers of a map: the classes and, if asked for, probabilities and the normalised entropy."""
    layers = [Layer(CLASSES, "uint8", ("class",), UNCLASSIFIED, classes=classes)]
    if probabilities is not None:
        half = probabilities == "float16"
        dtype, scale = ("float32", None) if half else ("uint8", 1 / STEPS)
        nodata = NO_PROBABILITY[probabilities]
        layers.append(Layer(PROBABILITIES, dtype, classes.names, nodata, scale, half))
        layers.append(Layer(UNCERTAINTY, dtype, ("normalised entropy",), nodata, scale, half))
    return layers


def map_strips(
    reader: SceneReader,
    predictor: Predictor,
    plan: MapPlan,
    strips: Sequence[int],
    store: StripStore,
    *,
    classes: ClassTable,
    probabilities: Probabilities | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Map some strips of a scene into a store.

    A strip's numbers depend on nothing but scene, network and plan: neither on which strips are mapped with it nor
    on what was mapped before.

    Args:
        reader: The open scene.
        predictor: The network.
        plan: Windows and strips.
        strips: Which strips, ascending.
        store: Takes the layers of :func:`map_layers`, and is told which strips are whole.
        classes: The class table.
        probabilities: How to store probabilities and uncertainty; None not to.
        advance: Called with the number of pixels after each block that is finished.

    Raises:
        UserError: The scene cannot be read, the store not written, the device has too little memory.
    """
    rows, columns = plan.rows, plan.columns
    stitcher = Stitcher(rows, columns, len(classes), predictor.device)
    finish = Finisher(classes, probabilities, predictor.device)
    schedule = _schedule(strips, stitcher)
    pinned = predictor.device.type == "cuda"
    jobs = _jobs(schedule, len(columns), plan.batch)
    lanes = predictor.lanes(plan.batch * plan.window[0] * plan.window[1], plan.threads)
    depth = 2 if lanes.count == 1 else 1  # else one more than there are lanes is taken anyway
    coming = ahead(lambda job: _read_batch(reader, plan, *job, pinned=pinned), jobs, depth)

    def predicted(network: Network, batch: Batch) -> Answers:
        return Answers(batch.row, batch.columns, batch.valid, _predict(predictor, network, batch))

    with BackgroundWriter(store) as writer, closing(coming) as batches, lanes.run(predicted, batches) as results:
        for row, across, valid, values in results:
            wanted, fresh = schedule[row]
            if fresh and across.start == 0:
                stitcher.reset()
            mask = valid.to(predictor.device, non_blocking=True)
            for position, column in enumerate(across):
                done = stitcher.add(row, column, values[position])
                if not wanted:
                    continue
                part = _part(mask[position], rows[row], columns[column])
                down, right = stitcher.block(row, column)
                writer.write(down.start, right.start, finish(done, part))
                advance(part.numel())
            if wanted and across.stop == len(columns):
                writer.finish(row)


def _schedule(strips: Sequence[int], stitcher: Stitcher) -> dict[int, tuple[bool, bool]]:
    """Return the rows of windows to run, in order: is its strip wanted, does a new sequence of rows begin with it?

    The rows above a wanted strip that contribute to it run too, where they have not just run anyway.
    """
    schedule: dict[int, tuple[bool, bool]] = {}
    previous = -1
    for strip in strips:
        first = max(stitcher.first_row_for(strip), previous + 1)
        for row in range(first, strip + 1):
            schedule[row] = (row == strip, row == first and first != previous + 1)
        previous = strip
    return schedule


def _jobs(rows: Iterable[int], columns: int, batch: int) -> Iterator[tuple[int, range]]:
    for row in rows:
        for first in range(0, columns, batch):
            yield row, range(first, min(first + batch, columns))


def _read_batch(reader: SceneReader, plan: MapPlan, row: int, columns: range, pinned: bool) -> Batch:
    image = room((len(columns), *reader.shape(plan.window)), reader.dtype, pinned)
    masks = room((2, len(columns), *plan.window), np.dtype(bool), pinned)
    for position, column in enumerate(columns):
        window = plan.at(plan.rows[row], plan.columns[column])
        reader.read_into(Patch(image[position].numpy(), *masks[:, position].numpy()), window)
    measured = np.flatnonzero(masks[0].numpy().any(axis=(1, 2))).tolist()
    return Batch(row, columns, image, masks[0], masks[1], measured)


def _predict(predictor: Predictor, network: Network, batch: Batch) -> list[torch.Tensor | None]:
    """Return the probabilities of each window, None for one without a measurement, which is not computed."""
    values: list[torch.Tensor | None] = [None] * len(batch.columns)
    if chosen := batch.measured:
        whole = len(chosen) == len(values)
        image, fed = (batch.image, batch.fed) if whole else (batch.image[chosen], batch.fed[chosen])
        for position, value in zip(chosen, predictor(image, fed, network), strict=True):
            values[position] = value
    return values


def _part(valid: torch.Tensor, row: Span, column: Span) -> torch.Tensor:
    """Cut what a window finishes out of its mask."""
    return valid[
        row.first - row.start : row.final - row.start, column.first - column.start : column.final - column.start
    ]


class Finisher:
    """Turns finished probabilities into the numbers of the layers."""

    def __init__(self, classes: ClassTable, probabilities: Probabilities | None, device: torch.device) -> None:
        self._values = torch.tensor(classes.values, dtype=torch.uint8, device=device)
        self._probabilities = probabilities

    @torch.inference_mode()
    def __call__(self, done: torch.Tensor, valid: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return a block per layer, H × W or H × W × bands, on the device.

        Args:
            done: n × H × W probabilities.
            valid: H × W, False for pixels without a measurement.
        """
        blocks = {CLASSES: torch.where(valid, self._values[most_likely(done, 0)], UNCLASSIFIED)}
        if self._probabilities is not None:
            blocks[PROBABILITIES] = self._stored(done.permute(1, 2, 0), valid[..., None])
            blocks[UNCERTAINTY] = self._stored(normalized_entropy(done), valid)
        return blocks

    def _stored(self, shares: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        assert self._probabilities is not None
        nodata = NO_PROBABILITY[self._probabilities]
        if self._probabilities == "uint8":
            stored = torch.where(mask, (shares * STEPS).round(), nodata).to(torch.uint8)
        else:
            stored = torch.where(mask, shares.half().float(), nodata)
        return stored.contiguous()


def normalized_entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """Return the entropy of n × … probabilities as a share of the largest possible: 0 certain, 1 no idea."""
    count = len(probabilities)
    if count == 1:
        return torch.zeros_like(probabilities[0])
    entropy: torch.Tensor = torch.special.entr(probabilities).sum(0)
    return (entropy / float(np.log(count))).clamp(0, 1)


class BackgroundWriter:
    """Writes blocks in a thread of its own, at most a few behind; errors surface at a later call or at the end.

    After an error nothing more is written: a strip must not be called whole when one of its blocks is missing.
    """

    def __init__(self, store: StripStore, depth: int = 8) -> None:
        self._store, self._depth = store, depth
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._pending: deque[Future[None]] = deque()
        self._stopped = False

    def write(self, row: int, column: int, blocks: dict[str, torch.Tensor]) -> None:
        """Write a block of every layer with its upper left pixel at (row, column).

        They are fetched from their device by the thread that writes: nobody else has to wait for it.
        """

        def job() -> None:
            for layer, block in blocks.items():
                self._store.write(layer, row, column, block.cpu().numpy())

        self._submit(job)

    def finish(self, strip: int) -> None:
        """Note that a strip is whole, after all that was written before."""
        self._submit(lambda: self._store.finish(strip))

    def _submit(self, job: Callable[[], None]) -> None:
        self._pending.append(self._pool.submit(self._run, job))
        while len(self._pending) > self._depth:
            self._pending.popleft().result()

    def _run(self, job: Callable[[], None]) -> None:
        if self._stopped:
            return
        try:
            job()
        except BaseException:
            self._stopped = True
            raise

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stopped = self._stopped or kind is not None
        try:
            while kind is None and self._pending:
                self._pending.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)
