"""The page: what a report is made of, and how it becomes one HTML file that needs nothing but itself."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import jinja2

from src.atomic import write_text
from src.report.blocks import Block

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Section:
    """A titled part of a report."""

    title: str
    blocks: tuple[Block, ...]

    @property
    def anchor(self) -> str:
        """What links within the page call it."""
        return "-".join(self.title.casefold().split())


@dataclass(frozen=True)
class Report:
    """A whole page.

    Attributes:
        kind: Which task made it, as a word above the title.
        title: What it is about.
        subtitle: Where and when, in a line.
        lead: What it says, in sentences.
        sections: In reading order.
    """

    kind: str
    title: str
    subtitle: str
    lead: tuple[str, ...]
    sections: tuple[Section, ...] = field(default_factory=tuple)

    @property
    def anchors(self) -> tuple[str, ...]:
        """What links within the page call each section: its anchor, numbered where one before it has the same."""
        taken: dict[str, None] = {}  # in order
        for section in self.sections:
            numbered = (f"{section.anchor}-{number}" for number in itertools.count(2))
            taken[next(name for name in itertools.chain([section.anchor], numbered) if name not in taken)] = None
        return tuple(taken)


def write_report(path: str | Path, report: Report) -> Path:
    """Write a report as one HTML file that opens from disk and offline, whole or not at all.

    Args:
        path: Where to; links to files are relative to its folder.
        report: What to write.

    Returns:
        The path.
    """
    path = Path(path)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["link"] = lambda file: _link(file, path.parent)
    environment.globals["size"] = file_size
    html = environment.get_template("report.html.j2").render(
        report=report, anchors=report.anchors, style=(TEMPLATES / "style.css").read_text(encoding="utf-8")
    )
    write_text(path, html)
    return path


def _link(file: Path, folder: Path) -> str:
    """Relative URL of a file, so that a folder can be moved or sent as a whole."""
    return quote(Path(os.path.relpath(file.absolute(), folder.absolute())).as_posix())


def file_size(file: Path) -> str:
    """How large a file is, or what else can be said: ``3.4 MB``, ``folder``, ``missing``."""
    if file.is_dir():
        return "folder"
    if not file.exists():
        return "missing"
    size = float(file.stat().st_size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit in ("bytes", "kB") or size >= 100 else f"{size:.1f} {unit}"
