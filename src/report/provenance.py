"""What was run: the part of a report that lets somebody else do it again."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from src.report.blocks import Block, Facts, Listing
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


def run_section(run: Run, facts: tuple[tuple[str, str], ...]) -> Section:
    """Say what was run, on what, with which versions and settings.

    Args:
        run: The run.
        facts: What it was given: data, checkpoint, network …
    """
    software = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    blocks: tuple[Block, ...] = (
        Facts(
            (
                ("Command", run.command),
                *facts,
                ("Finished", run.when),
                ("Software", software),
                ("Revision", run.revision or "not from a git checkout"),
            )
        ),
        Listing("The whole configuration", run.config),
    )
    return Section("What was run", blocks)


def network_fact(spec: NetworkSpec) -> tuple[str, str]:
    """Describe a network in a line."""
    bands = [band.name for band, used in zip(spec.bands, spec.normalization.used, strict=True) if used]
    names = ", ".join(bands) if len(bands) <= 13 else f"{', '.join(bands[:3])} … {bands[-1]}"
    width, height = spec.chip_size
    return (
        "Network",
        f"{spec.architecture} with encoder {spec.encoder}; {len(bands)} bands ({names}); "
        f"trained on chips of {width} × {height} pixels",
    )
