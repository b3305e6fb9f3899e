"""Which control groups this process is in: what containers and schedulers (Docker, SLURM) bound it with on Linux."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def control_groups(controller: str) -> Iterator[Path]:
    """Yield the folders of the groups that bound this process, of either version, from its own up to the root.

    Args:
        controller: ``cpu`` or ``memory``.
    """
    yield from (CGROUPS, CGROUPS / controller)
    try:
        lines = _OWN_GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" or controller in controllers.split(","):
            root = CGROUPS / controller if controllers else CGROUPS
            own = root / path.strip("/")
            yield from (group for group in (own, *own.parents) if group.is_relative_to(root) and group != root)
