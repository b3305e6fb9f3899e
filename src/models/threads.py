"""How many threads PyTorch computes with, for as long as something lasts."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch


@contextmanager
def computing_with(threads: int) -> Generator[None, None, None]:
    """Let PyTorch compute with a number of threads within the context, in this thread and those that begin in it."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
