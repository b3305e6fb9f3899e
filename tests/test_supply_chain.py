"""What is installed is what was meant: bounds with reasons, a lock with digests, no known-malicious release."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from scripts.audit import FINE, UNKNOWN, VULNERABLE, judge

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENTS = [
    Requirement(text)
    for text in [*PROJECT["dependencies"], *(r for extra in PROJECT["optional-dependencies"].values() for r in extra)]
]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
MALICIOUS = {"lightning": ("2.6.2", "2.6.3"), "pytorch-lightning": ("2.6.2", "2.6.3")}


def pins() -> dict[str, list[str]]:
    """Every version of every package in the lock; some differ between Pythons."""
    found: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==([^\s;\\]+)", LOCK, re.MULTILINE):
        found.setdefault(name.lower().replace("_", "-"), []).append(version)
    return found


def test_malicious_releases_are_out_of_bounds_and_not_locked() -> None:
    lightning = next(requirement for requirement in REQUIREMENTS if requirement.name == "lightning")
    for name, versions in MALICIOUS.items():
        for version in versions:
            assert name != "lightning" or not lightning.specifier.contains(version)
            assert version not in pins().get(name, [])


def test_every_pin_has_a_digest_and_no_address() -> None:
    blocks = re.split(r"\n(?=\w)", LOCK)
    pinned = [block for block in blocks if re.match(r"[\w.-]+(\[[\w,-]+\])?==", block)]
    assert len(pinned) > 100
    assert all("--hash=sha256:" in block for block in pinned)
    assert len(pinned) == sum(map(len, pins().values()))
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links", LOCK)


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda requirement: requirement.name)
def test_what_is_required_has_a_lower_bound_and_is_locked_within_its_bounds(requirement: Requirement) -> None:
    assert any(bound.operator in (">=", "==") for bound in requirement.specifier)
    versions = pins().get(requirement.name.lower().replace("_", "-"), [])
    if requirement.name != "hydra-ray-launcher":  # an extra that the lock leaves out
        assert versions
    assert all(requirement.specifier.contains(version, prereleases=True) for version in versions)


def test_installing_takes_the_lock_with_its_digests_and_nothing_that_builds() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "--only-binary :all: --require-hashes -r requirements.lock" in makefile
    assert "scripts/audit.py" in makefile


WHOLE = {"name": "a", "version": "1", "vulns": []}
SKIPPED = {"name": "b", "skip_reason": "Dependency not found on PyPI."}
BAD = {"name": "c", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}


@pytest.mark.parametrize(
    ("packages", "code", "words"),
    [
        ([WHOLE], FINE, ["All 1 locked packages were compared; none"]),
        ([WHOLE, SKIPPED], UNKNOWN, ["1 of 2 locked packages were NOT compared", "b: Dependency not found"]),
        ([WHOLE, BAD], VULNERABLE, ["c 2: CVE-1, mended in 3", "1 of 2 locked packages have known", "make lock"]),
        ([BAD, SKIPPED], VULNERABLE, ["c 2: CVE-1", "1 of 2 locked packages were NOT compared"]),
        ([], UNKNOWN, ["no package"]),
    ],
)
def test_an_audit_claims_no_more_than_it_has_seen(packages: list[object], code: int, words: list[str]) -> None:
    found, lines = judge(json.dumps({"dependencies": packages, "fixes": []}), "")
    assert found == code
    assert all(word in "\n".join(lines) for word in words)


def test_an_audit_without_an_answer_says_so() -> None:
    code, (line,) = judge("", "ERROR:pip_audit: no connection\n")
    assert code == UNKNOWN
    assert "no connection" in line
