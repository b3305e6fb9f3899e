"""The processes that Lightning starts beside the first one of a training: if one of them fails, all of them end."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from lightning.pytorch.strategies.launchers import subprocess_script

from src.errors import UserError

log = logging.getLogger(__name__)

PAUSE = 1.0
"""Seconds between two looks at the other processes."""
PATIENCE = 5.0
"""Seconds that the first process has to find out by itself, or to make the same mistake, before it is told."""
GRACE = 60.0
"""Seconds that a process which has been told, or whose training is over, has to end."""
INTERRUPTED = (130, -signal.SIGINT)
"""What a process ends with after Ctrl-C, which the first one has had too."""
TOLD = getattr(signal, "SIGALRM", None)
"""The signal by which the first process is told; Windows has none."""


@contextmanager
def ending_together() -> Iterator[None]:
    """Let none of the other processes that a training within the context starts outlive it.

    Lightning kills the first process, and with it the whole of a sweep, when another one fails, and leaves the others
    on their GPUs when the first one does. Where that cannot be told (one that fails before all have met leaves it
    waiting, and nothing interrupts that), it is killed here too.

    Raises:
        UserError: Another process has failed.
    """
    launching: Any = subprocess_script
    watch = _Watch(can_tell=TOLD is not None and threading.current_thread() is threading.main_thread())
    lightnings, before = launching._launch_process_observer, watch.listen()
    launching._launch_process_observer = watch.begin
    try:
        yield
    except BaseException as error:
        unclear = isinstance(error, Exception) and not isinstance(error, UserError)  # as of a connection that is gone
        failure = watch.failure(PATIENCE) if unclear else None
        watch.kill()
        if failure is not None:
            raise (KeyboardInterrupt() if watch.interrupted else UserError(failure)) from error
        raise
    finally:
        launching._launch_process_observer = lightnings
        watch.end()
        if TOLD is not None and watch.can_tell:
            signal.signal(TOLD, before)


class _Watch(threading.Thread):
    """Looks after the other processes, in the place of Lightning's observer.

    Args:
        can_tell: Whether a signal reaches the thread that trains.
    """

    def __init__(self, *, can_tell: bool) -> None:
        super().__init__(daemon=True, name="other-processes")
        self.can_tell = can_tell
        self.over = threading.Event()
        self._processes = list[subprocess.Popen[Any]]()
        self._failure: str | None = None
        self.interrupted = False
        self._killed = False

    def listen(self) -> Any:
        """Let the first process be one that can be told; returns what the signal meant before."""
        return (signal.signal(TOLD, self._tell) or signal.SIG_DFL) if TOLD is not None and self.can_tell else None

    def begin(self, processes: list[subprocess.Popen[Any]]) -> None:
        """Look after processes that were just started."""
        self._processes = processes
        self.start()

    def run(self) -> None:
        """Look until the training is over; if one has failed, end the others and tell the first one."""
        while self.failure() is None:
            if self.over.wait(PAUSE):
                return
        if self.over.wait(PATIENCE):
            return
        if TOLD is not None and self.can_tell:
            signal.pthread_kill(threading.main_thread().ident or 0, TOLD)
        self.kill()
        if not self.over.wait(GRACE):
            log.error("%s The first one cannot be told, and is killed too.", self._failure)
            os.kill(os.getpid(), signal.SIGTERM if TOLD is None else signal.SIGKILL)

    def failure(self, seconds: float = 0) -> str | None:
        """Say in one line which process has failed by itself; None where none does so within so many seconds."""
        until = time.monotonic() + seconds
        while self._failure is None and not self._killed:
            for rank, process in enumerate(self._processes, 1):
                if code := process.poll():
                    self.interrupted = code in INTERRUPTED
                    self._failure = _described(rank, len(self._processes) + 1, code)
            if time.monotonic() >= until or all(process.returncode is not None for process in self._processes):
                break
            time.sleep(PAUSE / 10)
        return self._failure

    def kill(self) -> None:
        """End the others, and what the first one waits for them with."""
        self._killed = True
        for process in self._processes:
            process.kill()
        if self._processes:
            _abort()

    def end(self) -> None:
        """Wait for the others, which have as little left to do as the first one; whoever does not end is killed."""
        self.over.set()
        if not self._processes:
            return
        self.join(PATIENCE)
        self._wait(GRACE)
        for process in self._processes:
            process.kill()
        self._wait(PATIENCE)

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))

    def _tell(self, *_: Any) -> None:
        if self._failure is not None and not self.over.is_set():
            raise KeyboardInterrupt if self.interrupted else UserError(self._failure)


def _described(rank: int, number: int, code: int) -> str:
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return (
        f"Process {rank} of a training of {number} {how}; expected all of them to go on. See what it said; if that is "
        "nothing, the memory was not enough: give a smaller batch_size or fewer devices."
    )


def _abort() -> None:
    """Let exchanges between GPUs fail, which would wait for a process that is gone; others notice by themselves."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_backend() == "nccl":
        with suppress(Exception):  # another thread may do the same
            distributed.distributed_c10d._abort_process_group()
