"""Two processes work one study that stands in PostgreSQL; ``make test-postgres`` asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres import PROGRAMS, postgres
from tests.sweeping import check_sharing, stand_in

pytestmark = pytest.mark.skipif(
    "TEST_POSTGRES" not in os.environ or not PROGRAMS,
    reason="make test-postgres runs it, where PostgreSQL is installed (apt-get install postgresql)",
)


@pytest.fixture
def storage() -> Iterator[str]:
    with postgres() as url:
        yield url


def test_processes_share_a_study_in_postgresql_and_the_trial_of_a_killed_one_is_not_lost(
    storage: str, tmp_path: Path
) -> None:
    check_sharing(stand_in(tmp_path), storage, f"hydra.sweeper.storage={storage}")
