"""A sweep on a real Ray cluster of two nodes, which this machine starts for itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from killable_runs import ROOT

SETTINGS = (
    *("data=synthetic", "data.source.test_images=100", "data.source.training_images=420"),
    *("data.validation=100", "data.batch_size=30", "trainer.accelerator=cpu"),
    *("schedule.clamp_epochs=1", "schedule.quantize_epochs=1", "seed=1,2"),
    *("hydra/launcher=ray", "+callbacks.where={_target_: where.Where}"),
)
WHERE = """
from pathlib import Path
import ray
from pytorch_lightning import Callback

class Where(Callback):
    def on_train_start(self, trainer, pl_module):
        node = ray.get_runtime_context().get_node_id()
        Path(trainer.default_root_dir, "node").write_text(node)
"""
NODE = {"num_cpus": 1, "object_store_memory": 100_000_000}  # bytes; a node takes one job

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (find_spec("ray") and find_spec("hydra_plugins.hydra_ray_launcher")),
        reason="extra `ray` is missing",
    ),
]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start a head and a second node; both find a callback that writes down where a job runs."""
    from ray.cluster_utils import Cluster

    (tmp_path / "where.py").write_text(WHERE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(tmp_path)]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    started = Cluster(True, head_node_args={**NODE, "include_dashboard": False})
    try:
        started.add_node(**NODE)
        yield started
    finally:
        started.shutdown()  # the processes of these two nodes only, as `ray stop` would not


def test_two_jobs_train_on_a_node_each(cluster: Any, tmp_path: Path) -> None:
    place = f"hydra.launcher.ray.init.address={cluster.address}"
    command = [sys.executable, str(ROOT / "train.py"), "-m", *SETTINGS, place]
    command += [f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = sorted(path.parent for path in (tmp_path / "sweep").glob("*/result.json"))
    results = [json.loads((job / "result.json").read_text()) for job in jobs]
    assert [result["seed"] for result in results] == [1, 2]
    assert all(result["test"]["images"] == 100 for result in results)
    assert len({(job / "node").read_text() for job in jobs}) == 2
    assert "validated against" not in done.stderr
