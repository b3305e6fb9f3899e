"""Text out of other people's files: names of classes, bands and files are shown, and steer nothing that shows them."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

_STEERS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, ends of lines and paragraphs, turns of the writing direction, and halves of characters."""
_LAYOUT = "\n\t"
"""Control characters of our own lines."""
_MOST = 13
"""Names that a line gives in full, at most: as many as Sentinel-2 has bands."""


def steers(text: str) -> bool:
    """Tell whether a name holds characters that a terminal or a text's layout obeys instead of showing them."""
    return _STEERS.search(text) is not None


def shown(text: str) -> str:
    r"""Write what a terminal would obey (colours, hidden text) as what it is: ``\x1b[31m``. Lines stay lines."""
    return _STEERS.sub(lambda found: found[0] if found[0] in _LAYOUT else _escaped(found[0]), text)


def cell(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula; numbers stay what they are."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") and not _is_number(text) else text


def in_a_line(names: Sequence[str], *, counted: bool = True) -> str:
    """Name things that have an order, bands or classes: all, or of many the first three, the last and their number.

    Args:
        names: Their names.
        counted: Whether to give the number, ``B1, B2, B3 … B20 (20)``: not where it is said before.
    """
    if len(names) <= _MOST:
        return ", ".join(names)
    return f"{', '.join(names[:3])} … {names[-1]}{f' ({len(names)})' if counted else ''}"


class ShownRecord(logging.LogRecord):
    """A log record for terminals and files whose message is :func:`shown`; a factory for all of a process."""

    def getMessage(self) -> str:  # noqa: N802  # logging's name
        """Put the arguments into the message."""
        return shown(super().getMessage())


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
