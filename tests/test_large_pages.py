from __future__ import annotations

import os

import pytest

from src import large_pages


@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("0", "0")])
def test_large_pages_are_asked_for_unless_somebody_has_chosen(
    before: str | None, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(large_pages.VARIABLE, before or "")
    if before is None:
        monkeypatch.delenv(large_pages.VARIABLE)
    large_pages.use_large_pages()
    assert os.environ[large_pages.VARIABLE] == after
