from __future__ import annotations

import gc
import multiprocessing
import os
from pathlib import Path

import pytest

# Before torch is imported, and for the processes that tests start: their tensors are small, and the
# other core has tests of its own.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# One server for all tests that fork: it imports once, and the last list of modules would win. Of
# what it is to import it looks for in its own path only.
PATH = [str(Path(__file__).parent / "end_to_end"), os.environ.get("PYTHONPATH")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, PATH))
multiprocessing.get_context("forkserver").set_forkserver_preload(["warm"])
os.fsync = lambda fd: None  # a kill loses nothing that was written, and no test cuts the power
gc.disable()  # what is collected stays; see below

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"


def pytest_collection_finish() -> None:
    """Keep the collector from walking over all imports and all tests again and again."""
    gc.collect()
    gc.freeze()
    gc.enable()


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
