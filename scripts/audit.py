"""Compare what is locked with published vulnerabilities, and say so where that cannot be done.

    python scripts/audit.py

Ends with 0 only if every package of requirements.lock was compared and none has a known vulnerability, with 1 if one
has, and with 2 where nothing can be said: pip-audit asks PyPI, and many mirrors of it have no such data.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.lock"
FINE, VULNERABLE, UNKNOWN = 0, 1, 2


def ask() -> tuple[str, str]:
    """Let pip-audit compare the lock; returns its JSON and what it said beside."""
    options = ["--disable-pip", "--require-hashes", "--progress-spinner", "off", "--format", "json"]
    command = [sys.executable, "-m", "pip_audit", *options, "-r", str(LOCK)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout, result.stderr


def judge(answer: str, said: str) -> tuple[int, list[str]]:
    """Put pip-audit's answer into lines.

    Args:
        answer: Its JSON.
        said: What it said on stderr.

    Returns:
        The exit code, and what to print.
    """
    try:
        packages: list[dict[str, Any]] = json.loads(answer)["dependencies"]
    except (ValueError, KeyError, TypeError):
        reason = next((line for line in reversed(said.splitlines()) if line.strip()), "no answer")
        return UNKNOWN, [f"Nothing was compared: pip-audit ended with: {reason.strip()}"]
    lines = [
        f"{package['name']} {package['version']}: {found['id']}, "
        + (f"mended in {', '.join(found['fix_versions'])}" if found["fix_versions"] else "no release mends it")
        for package in packages
        for found in package.get("vulns", ())
    ]
    skipped = [package for package in packages if "skip_reason" in package]
    if lines:
        vulnerable = sum(bool(package.get("vulns")) for package in packages)
        lines.append(f"{vulnerable} of {len(packages)} locked packages have known vulnerabilities. Run make lock.")
    if skipped:
        lines.append(
            f"{len(skipped)} of {len(packages)} locked packages were NOT compared, so nothing is known of them. The "
            f"first: {skipped[0]['name']}: {skipped[0]['skip_reason']} Run this where pypi.org itself can be reached."
        )
    if not lines and packages:
        return FINE, [f"All {len(packages)} locked packages were compared; none has a known vulnerability."]
    return (VULNERABLE if len(lines) > bool(skipped) else UNKNOWN), lines or ["The lock names no package."]


def main() -> None:
    """Ask, and answer."""
    code, lines = judge(*ask())
    print("\n".join(lines), file=sys.stderr if code else sys.stdout)
    sys.exit(code)


if __name__ == "__main__":
    main()
