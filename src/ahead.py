"""Work that threads do ahead of whoever takes its results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def ahead(
    work: Callable[[_Item], _Result], items: Iterable[_Item], depth: int, threads: int = 1
) -> Generator[_Result, None, None]:
    """Yield ``work(item)`` in order while threads do the next ``depth`` ones.

    Close the generator where it may be left early (``contextlib.closing``): else a thread would go on with what may be
    closed under it.

    Args:
        work: What is done with an item; what it raises comes out where its result would have.
        items: The items; they are taken by whoever takes the results, and as far ahead.
        depth: How far ahead at most.
        threads: How many items are worked on at once.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        pending: deque[Future[_Result]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > depth:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
