"""Work done ahead of whoever takes its results: in order, not too far, and over when it is closed."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest

from src.ahead import ahead


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("depth", [0, 1, 5, 100])
def test_results_come_in_order(depth: int, threads: int) -> None:
    def work(number: int) -> int:
        time.sleep(0.001 * (number % 3))
        return number**2

    assert list(ahead(work, range(20), depth, threads)) == [number**2 for number in range(20)]


def test_no_more_is_begun_than_the_depth_allows() -> None:
    begun: list[int] = []
    with closing(ahead(begun.append, range(100), depth=3)) as results:
        for taken, _ in enumerate(results, start=1):
            assert len(begun) <= taken + 3
            if taken == 10:
                break


def test_an_error_comes_where_its_result_would_have_and_ends_the_work() -> None:
    def work(number: int) -> int:
        return 6 // (3 - number)

    results = ahead(work, range(10), depth=4)
    assert [next(results) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


def test_closing_waits_for_what_is_being_done() -> None:
    """What the work reads may be closed right afterwards."""
    working = threading.Event()
    ended: list[int] = []

    def work(number: int) -> int:
        working.set()
        time.sleep(0.05)
        ended.append(number)
        return number

    with closing(ahead(work, range(100), depth=2)) as results:
        next(results)
        working.clear()
        working.wait(1)
    done = list(ended)
    time.sleep(0.15)
    assert ended == done
    assert len(done) <= 4
