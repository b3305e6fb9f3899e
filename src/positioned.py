"""A file that several threads read and write at places of it; Windows has no ``os.pread`` and ``os.pwrite``."""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import IO


class PositionedFile:
    """An open file, without a buffer, that is closed with this object.

    Args:
        file: Opened for reading and writing bytes, with ``buffering=0``.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._at_work = threading.Lock()  # nobody may move between a seek and what follows it

    def write_at(self, offset: int, content: bytes | memoryview) -> None:
        """Write all of the content, from the byte ``offset`` on.

        Raises:
            OSError: The disk is full.
        """
        left = memoryview(content).cast("B")
        with self._at_work:
            self._file.seek(offset)
            while left:
                left = left[self._file.write(left) :]

    def read_at(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset`` on; fewer at the end of the file."""
        with self._at_work:
            self._file.seek(offset)
            return self._file.read(size)

    def resize(self, size: int) -> None:
        """Cut the file to ``size`` bytes, or let it grow to them, in zeros."""
        self._file.truncate(size)

    def to_disk(self) -> None:
        """Return when what was written is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> PositionedFile:
        """Give itself; leaving closes the file."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
