"""Imported by the server that forks runs: each is born with all imports done and a first
composition behind it, which takes as long as the whole training of a test.
"""

from __future__ import annotations

import gc
import os
from importlib import import_module
from pathlib import Path

from hydra import compose, initialize_config_dir

from qatlab import config
from qatlab.sweep import search

for name in (
    *(
        "qatlab.cli.hydra_app",
        "qatlab.run.experiment",
        "qatlab.run.fit",
        "qatlab.training.quant_monitor",
    ),
    *("qatlab.models", "qatlab.deploy.onnx.qdq", "qatlab.deploy.onnx.integer"),
    *("qatlab.deploy.onnx.qonnx", "torch.utils.serialization.config"),
):
    import_module(name)
os.fsync = lambda fd: None  # as in conftest.py
config.register()
search.register()
with initialize_config_dir(str(Path(__file__).parents[2] / "conf"), version_base="1.3"):
    compose("config", ["folder=run"], return_hydra_config=True)
# No run walks over all that, and so copies it, when it collects its own garbage.
gc.collect()
gc.freeze()
