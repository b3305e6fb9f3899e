"""Which windows map a scene fastest: tried out on the machine, with the network, for the scene's size."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, product

import numpy as np
import numpy.typing as npt
import torch

from src.datamodules.batches import torch_type
from src.errors import UserError
from src.grid import Blend, window_count
from src.mapping.inference import Predictor
from src.mapping.plan import CELL, MapPlan, check_window, halo_pixels
from src.mapping.scene_reader import SceneReader
from src.memory import available_memory, peak_memory
from src.models.architectures import accepted_sizes
from src.models.locality import LOCAL, far_influence
from src.models.network import Network
from src.models.precision import precision_name
from src.spec import NetworkSpec

Size = tuple[int, int]
"""Height and width in pixels."""

SIDES = {"cpu": (256, 384, 512, 768), "cuda": (256, 512, 1024, 1536, 2048), "mps": (256, 512, 1024)}
"""About how large windows are tried, by device: the nearest multiple of the chip's side, or a window at most as large
that fits the scene better, whichever leaves fewer pixels to compute."""
BFLOAT16_SIDE = 1088
"""Tried too on CPUs that compute in bfloat16: 3072 px are 3 such windows or 5 of 704, which compute 13 or 31 % at their
edges. It takes 200 MB more with a U-Net/resnet18 and 3 % more of the time per pixel; in float32 350 MB and 20 %."""
BATCH_PIXELS = {"cpu": 2**17, "cuda": 2**22, "mps": 2**20}
"""Pixels that go through the network at once, about, on a CPU in each lane: more gains nothing."""
WORTH_PROBING = 2_000_000
"""Another window size than the chips' is looked for where windows of that size compute so many pixels together, or
more: with fewer, looking takes longer than a better size saves."""
WORTH_MEASURING = {"cpu": 24_000_000}
"""Pixels that all windows compute together, by device, from which on sizes are timed before one is chosen; with fewer
it is the one that leaves the fewest to compute. Many on CPUs, where hardly any size is a tenth faster than others."""
MEASURED_ANYWAY = 12_000_000
"""The same in pixels on every other device, where timing also tells which sizes fit into the device's memory."""
RUNS = 2
"""Runs by which windows are compared: the first warms up."""


@dataclass(frozen=True)
class Choice:
    """A plan, and one line that says why these windows."""

    plan: MapPlan
    reason: str


@dataclass(frozen=True)
class WindowRequest:
    """What was asked for: see :class:`~src.mapping.options.MapOptions`."""

    overlap: float
    window: int | None
    blend: Blend
    batch_size: int | None


def choose_plan(request: WindowRequest, predictor: Predictor, spec: NetworkSpec, reader: SceneReader) -> Choice:
    """Choose the windows for a scene.

    Raises:
        UserError: The overlap is impossible, or the network does not take the window that was asked for.
    """
    halo = halo_pixels(spec.chip_size, request.overlap)
    width, height = spec.chip_size
    plan = MapPlan(reader.info.height, reader.info.width, (height, width), halo, request.blend, 1)
    if request.batch_size is not None and request.batch_size < 1:
        raise UserError(f"batch_size={request.batch_size} is no number of windows; expected 1 or more, or null.")
    if request.window is not None:
        size = (request.window, request.window)
        check_window(size, halo, request.overlap)
        _check_accepted(size, predictor, spec)
        return Choice(_with_window(plan, size, request, predictor), "as asked for")
    check_window((height, width), halo, request.overlap)
    chip = _with_window(plan, (height, width), request, predictor)
    if chip.computed_pixels < WORTH_PROBING:
        return Choice(chip, "the training chips' size; the scene is too small to look for a faster one")
    sizes = _candidates(chip, predictor, reader)
    if len(sizes) == 1:
        return Choice(chip, "the training chips' size; no larger one fits the scene and the network")
    influence = far_influence(predictor.network.architecture, len(spec.bands), spec.chip_size, predictor.device)
    if influence is None or influence > LOCAL:
        return Choice(chip, "the training chips' size, since this network's answer depends on the window's size")
    plans = [_with_window(plan, size, request, predictor) for size in sizes]
    fewest = min(plans, key=lambda p: _cost(p.windows, p.window, _lanes(predictor, p.window)))
    if fewest.computed_pixels < WORTH_MEASURING.get(predictor.device.type, MEASURED_ANYWAY):
        return Choice(fewest, "the fewest pixels to compute; the scene is too small to measure")
    return _fastest(plans, predictor, spec, reader)


def _with_window(plan: MapPlan, size: Size, request: WindowRequest, predictor: Predictor) -> MapPlan:
    fill = BATCH_PIXELS.get(predictor.device.type, BATCH_PIXELS["cpu"]) // (size[0] * size[1])
    across = len(replace(plan, window=size).columns)
    batch = min(across, request.batch_size or max(1, fill))
    return replace(plan, window=size, batch=batch, threads=predictor.lanes(batch * size[0] * size[1]).threads)


def _candidates(chip: MapPlan, predictor: Predictor, reader: SceneReader) -> list[Size]:
    """Return sizes that the network takes, none larger than the scene needs, the smallest first."""
    height, width = chip.window
    most_down, most_across = math.ceil(chip.height / height), math.ceil(chip.width / width)
    sides = SIDES.get(predictor.device.type, SIDES["cpu"])
    if predictor.device.type == "cpu" and precision_name(predictor.device, predictor.network) == "bfloat16":
        sides = (*sides, BFLOAT16_SIDE)
    pairs: list[tuple[Size, Size]] = []
    for side in sides:
        factor = max(1, round(side / max(height, width)))
        multiple = min(factor, most_down) * height, min(factor, most_across) * width
        pairs.append((multiple, _fitted(chip, side, _lanes(predictor, (side, side)))))
    possible = {
        s
        for s in (chip.window, *chain.from_iterable(pairs))
        if all(side > 2 * margin for side, margin in zip(s, chip.halo, strict=True))
    }
    architecture, bands = predictor.network.architecture, reader.shape((1, 1))[0]
    taken = {(h, w) for w, h in accepted_sizes(architecture, bands, [(w, h) for h, w in sorted(possible)])}
    better = [
        min(there, key=lambda s: _cost(replace(chip, window=s).windows, s, _lanes(predictor, s)))
        for pair in pairs
        if (there := [size for size in pair if size in taken])
    ]
    return sorted({*better, *({chip.window} & taken)}, key=lambda size: size[0] * size[1])


def _fitted(chip: MapPlan, side: int, lanes: int) -> Size:
    """Return the window of at most a side's pixels, not smaller than the chip, that the scene takes least time in.

    Height and width are multiples of CELL, as most encoders need them, and fit the scene each for itself: 3072 px are
    5 windows of 704 px or 6 of 672, which compute 31 % more along both axes together. Windows come in rounds of as many
    as there are lanes: 3 × 3 windows keep two lanes busy for as long as 10 would.
    """
    axes = []
    for length, own, halo in zip((chip.height, chip.width), chip.window, chip.halo, strict=True):
        sizes = [n for n in range(CELL, max(side, own) + 1, CELL) if n >= own and n > 2 * halo] or [own]
        axes.append([(size, window_count(length, size, halo, CELL)) for size in sizes])
    found = {(h, w): down * across for (h, down), (w, across) in product(*axes)}
    return min(found, key=lambda size: (_cost(found[size], size, lanes), _cost(found[size], size, 1)))


def _lanes(predictor: Predictor, size: Size) -> int:
    """Return how many windows of a size are computed at once, on a CPU."""
    return predictor.lanes(size[0] * size[1]).count


def _cost(windows: int, size: Size, lanes: int) -> int:
    """Return the pixels that one lane has to compute while all of a scene's windows are."""
    return _rounds(windows, lanes) * size[0] * size[1]


def _rounds(windows: int, lanes: int) -> int:
    return -(-windows // lanes)


def _fastest(plans: Sequence[MapPlan], predictor: Predictor, spec: NetworkSpec, reader: SceneReader) -> Choice:
    """Run one batch of each plan, on CPUs one window, and return the one that would be done first."""
    seconds: dict[Size, float] = {}
    failed: UserError | None = None
    for plan in plans:
        try:
            growth = _measure_memory(plan, predictor, spec, reader, seconds)
        except UserError as error:  # the device's memory does not take it
            growth, failed = math.inf, error
        larger = next((p for p in plans if p.window not in seconds), None)
        if larger is None or (predictor.device.type == "cpu" and _too_large(growth, plan, larger)):
            break
    if failed is not None and not seconds:
        raise failed
    best = min((plan for plan in plans if plan.window in seconds), key=lambda plan: seconds[plan.window])
    rates = ", ".join(f"{w} px {plan_rate(plans, (h, w), seconds):.2f}" for h, w in seconds)
    return Choice(best, f"the fastest here ({rates} Mpx/s of map)")


def plan_rate(plans: Sequence[MapPlan], size: Size, seconds: dict[Size, float]) -> float:
    """Return megapixels of map per second for a window that was measured."""
    plan = next(p for p in plans if p.window == size)
    return plan.height * plan.width / seconds[size] / 1e6


def _measure_memory(
    plan: MapPlan, predictor: Predictor, spec: NetworkSpec, reader: SceneReader, seconds: dict[Size, float]
) -> float:
    """Note how many seconds the whole scene would take; return by how many bytes the peak of memory has grown."""
    before = peak_memory()
    count = 1 if predictor.device.type == "cpu" else plan.batch  # CPUs gain nothing by larger batches
    image = torch.zeros((count, len(spec.bands), *plan.window), dtype=torch_type(reader.dtype))
    fed = torch.ones((count, *plan.window), dtype=torch.bool).numpy()
    times = [_seconds(predictor, image, fed) for _ in range(RUNS)]  # of a batch in each lane
    seconds[plan.window] = min(times) * _rounds(plan.windows, _lanes(predictor, plan.window)) / count
    return (peak_memory() - before) * plan.batch / count


def _seconds(predictor: Predictor, image: torch.Tensor, fed: npt.NDArray[np.bool_]) -> float:
    """Time a batch in each lane."""
    lanes = predictor.lanes(image.shape[-2] * image.shape[-1])

    def answer(network: Network, _: int) -> float:
        return float(predictor(image, fed, network)[0, 0, 0, 0])

    began = time.perf_counter()
    with lanes.run(answer, range(lanes.count)) as answers:
        for _ in answers:
            pass
    return time.perf_counter() - began


def _too_large(growth: float, plan: MapPlan, larger: MapPlan) -> bool:
    share = larger.batch * larger.window[0] * larger.window[1] / (plan.batch * plan.window[0] * plan.window[1])
    return growth * share > available_memory() / 2


def _check_accepted(size: Size, predictor: Predictor, spec: NetworkSpec) -> None:
    height, width = size
    architecture, bands = predictor.network.architecture, len(spec.bands)
    if accepted_sizes(architecture, bands, [(width, height)]):
        return
    others = [(n, n) for n in range(max(1, width - 64), width + 65)]
    near = sorted(accepted_sizes(architecture, bands, others), key=lambda s: abs(s[0] - width))[:2]
    chip = " × ".join(map(str, spec.chip_size))
    options = " or ".join(str(side) for side, _ in sorted(near)) or f"none but the training chips' {chip}"
    raise UserError(
        f"window={width} is not taken by {spec.title}; it takes {options} px. Give window such a "
        "number, or null for the fastest."
    )
