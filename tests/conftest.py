from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference files that are not part of the repository."""
    if not SHARED.is_dir():
        pytest.skip("the reference files of ../shared are not here")
    return SHARED
