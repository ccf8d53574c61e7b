"""Seconds per LeNet epoch on MNIST: a bare PyTorch loop, and this project around the same network.

    python benchmarks/epoch.py [--rounds 5] [--threads 2] [--steps 235]

All candidates train in one process in turn, so that the machine's speed of the moment is the same
for all; the ratios are medians over rounds of each candidate's CPU time to that of the first.
Memory and start-up are measured in processes of their own.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.nn import functional as F

from qatlab import config
from qatlab.quant import Phase, set_phase, start_quantizers
from qatlab.run.build import Built, build
from qatlab.run.trainer import module_of
from qatlab.training.data_module import DataModule

ROOT = Path(__file__).parents[1]
CANDIDATES = ("bare loop", "quant=none", "quant=sat_4bit, clamp", "quant=sat_4bit, quantize")
EPOCH_STEPS = 235  # 60,000 images in batches of 256
OVERRIDES = ["data.validation=0", "name=benchmark", "folder=unused"]

Times = tuple[float, float]  # CPU seconds of the process, wall seconds


class Clock(Callback):
    """Times one epoch from its start to its end, without what surrounds it once per run."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start."""
        self.start = _now()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop."""
        self.times = tuple(b - a for a, b in zip(self.start, _now(), strict=True))


class FirstStep(Callback):
    """Tells the time when the first training step begins, and ends the process."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """End."""
        print(time.time(), flush=True)
        os._exit(0)


def _now() -> Times:
    return time.process_time(), time.perf_counter()


def _built(quant: str) -> Built:
    cfg = compose("config", [f"quant={quant}", *OVERRIDES])
    built = build(cfg)
    built.data.setup("fit")
    return built


def candidate(name: str, steps: int) -> Callable[[], Times]:
    """Return what trains one epoch, or its first steps, of a candidate and tells the times."""
    built = _built("sat_4bit" if "sat" in name else "none")
    if name == CANDIDATES[0]:
        return _bare_loop(built, steps)
    phase = Phase(name.rpartition(" ")[2]) if "sat" in name else Phase.FLOAT
    if phase is Phase.QUANTIZE:
        start_quantizers(built.model, (next(iter(built.data.train_dataloader()))[0],))
    set_phase(built.model, phase)

    def epoch() -> Times:
        clock = Clock()
        trainer = Trainer(
            max_epochs=1,
            limit_train_batches=steps,
            accelerator="cpu",
            callbacks=[clock],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(module_of(built), datamodule=DataModule(built.data))
        return clock.times

    return epoch


def _bare_loop(built: Built, steps: int) -> Callable[[], Times]:
    loader = built.data.train_dataloader()
    images = loader.images
    labels = loader.labels
    batch = built.data.batch_size
    model = built.model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def epoch() -> Times:
        start = _now()
        order = torch.randperm(len(images))
        for first in range(0, len(images), batch)[:steps]:
            index = order[first : first + batch]
            loss = F.cross_entropy(model(images[index].float().mul_(1 / 255)), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        end = _now()
        return end[0] - start[0], end[1] - start[1]

    return epoch


def peak_memory(name: str) -> float:
    """Return the peak resident MB of a process that trains one epoch of a candidate."""
    command = [sys.executable, __file__, "--only", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return float(done.stdout.split()[-1])


def start_up() -> float:
    """Return the seconds from the command to the first training step."""
    step = "+callbacks.first={_target_: benchmarks.epoch.FirstStep}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", step, f"hydra.run.dir={folder}/run"]
        begin = time.time()
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment
        )
    return float(done.stdout.split()[-1]) - begin


def main() -> None:
    """Print the table."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--steps", type=int, default=EPOCH_STEPS, help="of each epoch, for a quick look"
    )
    parser.add_argument("--only", choices=CANDIDATES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        if arguments.only:
            candidate(arguments.only, arguments.steps)()
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            return
        epochs = {name: candidate(name, arguments.steps) for name in CANDIDATES}
    times: dict[str, list[Times]] = {name: [] for name in CANDIDATES}
    for number in range(arguments.rounds + 1):
        for name, epoch in epochs.items():
            measured = epoch()
            if number > 0:  # the first round warms up
                times[name].append(measured)
    print(
        f"torch {torch.__version__}, {arguments.threads} threads, {platform.machine()}, "
        f"{arguments.rounds} rounds\n\n"
        "| | wall s per epoch | images/s | CPU ratio to bare | to quant=none | peak MB |\n"
        "|---|---|---|---|---|---|"
    )
    for name in CANDIDATES:
        wall = statistics.median(t[1] for t in times[name]) * EPOCH_STEPS / arguments.steps
        ratios = [
            statistics.median(t[0] / o[0] for t, o in zip(times[name], times[other], strict=True))
            for other in CANDIDATES[:2]
        ]
        print(
            f"| {name} | {wall:.1f} | {60000 / wall:,.0f} | {ratios[0]:.2f} | {ratios[1]:.2f} "
            f"| {peak_memory(name):.0f} |"
        )
    starts = statistics.median(start_up() for _ in range(3))
    print(f"\nStart-up, from the command to the first training step: {starts:.1f} s")


if __name__ == "__main__":
    main()
