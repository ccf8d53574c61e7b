"""Imported by the server that forks runs: each is born with all imports done and a first
composition behind it, which takes as long as the whole training of a test.
"""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize_config_dir

import qatlab.run.experiment  # noqa: F401
from qatlab import config
from qatlab.sweep import search

config.register()
search.register()
with initialize_config_dir(str(Path(__file__).parents[2] / "conf"), version_base="1.3"):
    compose("config", ["folder=run"], return_hydra_config=True)
