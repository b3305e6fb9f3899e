"""What was run and what it left: the end of every report, which lets somebody else do it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from src.foreign_text import in_a_line
from src.passwords import hide_passwords
from src.report.blocks import Facts, Files, Listing
from src.report.page import Section
from src.spec import NetworkSpec


@dataclass(frozen=True)
class Run:
    """One run of a command.

    Attributes:
        command: As typed, with every override.
        config: The whole composed configuration as YAML.
        finished: When the report is written.
        versions: Versions of the software, by name.
        revision: Git revision of the checkout, None outside one.
    """

    command: str
    config: str
    finished: datetime
    versions: dict[str, str] = field(default_factory=dict)
    revision: str | None = None

    @property
    def when(self) -> str:
        """Date and time as a reader writes them: 23 November 2026, 06:12."""
        return f"{self.finished.day} {self.finished:%B %Y, %H:%M}"


def closing_sections(run: Run, files: Sequence[tuple[Path, str]], *about: tuple[str, str]) -> tuple[Section, Section]:
    """End a report: what the run wrote, then what was run, on what, with which versions and settings.

    Args:
        run: The run.
        files: What the run wrote, each with what it is.
        about: What it was run with and on: what to call each, and which that is.
    """
    software = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    rows = (
        ("Command", run.command),
        *about,
        ("Finished", run.when),
        ("Software", software),
        ("Revision", run.revision or "not from a git checkout"),
    )
    return (
        Section("Files", (Files(tuple(files)),)),
        Section("What was run", (Facts(hide_passwords(rows)), Listing("The whole configuration", run.config))),
    )


def described_network(spec: NetworkSpec, called: str, checkpoint: Path) -> tuple[tuple[str, str], tuple[str, str]]:
    """Tell of a network for :func:`closing_sections`: what its checkpoint is called, and a line about itself."""
    return (called, str(checkpoint)), ("Network", _describe(spec))


def _describe(spec: NetworkSpec) -> str:
    bands = [band.name for band, used in zip(spec.bands, spec.normalization.used, strict=True) if used]
    width, height = spec.chip_size
    return (
        f"{spec.architecture} with encoder {spec.encoder}; {len(bands)} bands ({in_a_line(bands, counted=False)}); "
        f"trained on chips of {width} × {height} pixels"
    )
