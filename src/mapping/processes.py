"""The strips of one scene divided between processes, each with a network and, where there are, a GPU of its own."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import torch

from src.errors import UserError
from src.mapping.inference import Predictor
from src.mapping.network_file import load_same
from src.mapping.plan import MapPlan
from src.mapping.scene_reader import open_scene, scene_decoding
from src.mapping.strip_store import StripStore
from src.mapping.strips import Probabilities, map_layers, map_strips
from src.models.precision import arrange_memory

KILLED = -getattr(signal, "SIGKILL", 9)
"""How a process ends that the system kills, as it does when memory runs out; Windows has no such signal."""


@dataclass(frozen=True)
class StripJob:
    """What a process needs to map strips.

    Attributes:
        checkpoint: The network.
        fingerprint: SHA-256 of its file.
        image: The scene.
        plan: Windows and strips.
        folder: The store's folder.
        device: ``cpu``, ``cuda`` or ``mps``.
        average_turns: Average over flips and rotations.
        probabilities: How to store probabilities; None not to.
        processes: How many share the machine.
    """

    checkpoint: Path
    fingerprint: str
    image: str
    plan: MapPlan
    folder: Path
    device: str
    average_turns: bool
    probabilities: Probabilities | None
    processes: int


def check_processes(count: int, device: torch.device) -> None:
    """Raise UserError if there are not as many processes possible on this kind of device."""
    if count < 1:
        raise UserError(f"devices={count} is no number of processes; expected 1 or more.")
    if device.type == "cuda" and count > torch.cuda.device_count():
        raise UserError(
            f"devices={count}, but this machine has {torch.cuda.device_count()} GPUs; expected at most as many. Lower "
            "devices, or use accelerator=cpu."
        )


def map_in_processes(
    job: StripJob, strips: Sequence[int], count: int, advance: Callable[[int], None] = lambda _: None
) -> None:
    """Map strips in several processes, a run of neighbouring ones in each; the result is that of one process.

    Raises:
        Exception: What a process raised; the others are stopped then.
        UserError: A process ended without a word.
    """
    context = multiprocessing.get_context("spawn")
    news: Any = context.Queue()
    threads = max(1, torch.get_num_threads() // count)
    shares = [part.tolist() for part in np.array_split(np.array(strips), count) if len(part)]
    workers = [
        context.Process(target=_work, args=(job, share, rank, threads, news), daemon=True)
        for rank, share in enumerate(shares)
    ]
    started: list[Any] = []
    try:
        with _interrupts_waiting():
            for worker in workers:
                worker.start()
                started.append(worker)
        _listen(workers, news, advance)
    finally:
        for worker in started:
            worker.terminate()
            worker.join()


@contextmanager
def _interrupts_waiting() -> Iterator[None]:
    """Let Ctrl-C wait; for processes that are started within the context, until they are ended by this one.

    It goes to all of them at once, and each would print its own traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _listen(workers: Sequence[Any], news: Any, advance: Callable[[int], None]) -> None:
    """Pass on what the processes say until all are done."""
    running = len(workers)
    while running:
        try:
            kind, content = news.get(timeout=1.0)
        except queue.Empty:
            if ends := [worker.exitcode for worker in workers if worker.exitcode not in {None, 0}]:
                how = "was killed, which the system does when memory runs out" if KILLED in ends else _ending(ends[0])
                raise UserError(
                    f"A process that maps strips {how}; expected it to end well. Use fewer devices or a smaller "
                    "window; finished strips are kept."
                ) from None
            continue
        if kind == "pixels":
            advance(content)
        elif kind == "done":
            running -= 1
        else:
            raise content


def _ending(code: int) -> str:
    """Say how a process ended that said nothing itself."""
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with the exit code {code}"


def _work(job: StripJob, strips: list[int], rank: int, threads: int, news: Any) -> None:
    """Map strips in a process of its own."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    try:
        torch.set_num_threads(threads)
        device = torch.device(job.device, rank) if job.device == "cuda" else torch.device(job.device)
        arrange_memory(device)
        network, spec = load_same(job.checkpoint, job.fingerprint)
        layers = map_layers(spec.classes, job.probabilities)
        with (
            scene_decoding(job.device, job.processes),
            open_scene(job.image, spec, job.folder) as reader,
            StripStore(job.folder, layers, job.plan.height, job.plan.width) as store,
        ):
            map_strips(
                reader,
                Predictor(network, device, job.average_turns, spec.chip_size, job.processes),
                job.plan,
                strips,
                store,
                classes=spec.classes,
                probabilities=job.probabilities,
                advance=lambda pixels: news.put(("pixels", pixels)),
            )
        news.put(("done", None))
    except Exception as error:  # noqa: BLE001  the process that started this one says what it means
        news.put(("error", _sendable(error)))


def _sendable(error: Exception) -> Exception:
    """Return an error as another process can raise it, with where it happened; one that cannot be sent, in words."""
    where = f"In a process that maps strips:\n{traceback.format_exc()}"
    try:
        sent = pickle.loads(pickle.dumps(error))
        same = type(sent) is type(error) and str(sent) == str(error)
    except Exception:  # noqa: BLE001  whatever classes of other packages provoke
        same = False
    found = error if same else RuntimeError(f"{type(error).__name__}: {error}")
    found.add_note(where)
    return found


def _leave_with_parent() -> None:
    """End this process when the one that started it is gone, however it went."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
