"""Files that several threads read and write at places of them."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from src.positioned import PositionedFile


def test_threads_write_and_read_at_their_own_places(tmp_path: Path) -> None:
    count, size = 64, 1000
    with PositionedFile((tmp_path / "numbers").open("w+b", buffering=0)) as file, ThreadPoolExecutor(8) as threads:
        file.resize(count * size)
        assert file.read_at(0, count * size) == bytes(count * size)

        def both(number: int) -> bool:
            content = bytes([number]) * size
            file.write_at(number * size, content)
            return file.read_at(number * size, size) == content

        assert all(threads.map(both, list(range(count)) * 20))
        file.to_disk()
    numbers = np.fromfile(tmp_path / "numbers", np.uint8).reshape(count, size)
    assert (numbers == np.arange(count)[:, None]).all()


def test_all_is_written_where_the_system_takes_it_in_pieces() -> None:
    class Slow(io.BytesIO):
        def write(self, content: bytes | memoryview) -> int:  # type: ignore[override]
            return super().write(content[:7])

    slow = Slow()
    PositionedFile(slow).write_at(3, np.arange(10, dtype=np.uint16))
    assert slow.getvalue() == b"\0\0\0" + np.arange(10, dtype=np.uint16).tobytes()


def test_at_the_end_less_is_read() -> None:
    assert PositionedFile(io.BytesIO(b"abc")).read_at(1, 10) == b"bc"
