"""What the jobs of a sweep train alike is trained once: all phases before the quantize phase.

The first job that needs them trains them and leaves its checkpoint in a folder that is named by a
hash of all they depend on; each further job begins with it, as a run that was killed at that point
and is resumed. Jobs that start together wait for the first one, which holds a lock.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import random
import shutil
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import torch
import yaml
from filelock import FileLock, Timeout
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from qatlab.config.targets import TARGET
from qatlab.errors import CheckpointError, ConfigError
from qatlab.quant import Phase, Quantizer
from qatlab.results.record import CHECKPOINTS
from qatlab.run.belonging import ORIGIN, SUMS, sum_of, sums_in
from qatlab.run.build import Built
from qatlab.run.environment import environment
from qatlab.system import files
from qatlab.system.terminal import say
from qatlab.training.checkpoint import load
from qatlab.training.csv_logger import FILE_NAME
from qatlab.training.torch_files import LAST

FACTS = "facts.json"  # all that they depend on, beside them: tells why two jobs share nothing
# What they do not depend on. Of quantizers only some facts count, of initial weights the values.
WITHOUT_EFFECT = ("folder", "init_weights", "logger", "mode", "name", "quant", "resume", "sweep")
WITHOUT_EFFECT_INSIDE = {
    "schedule": {
        "first_epochs",
        "quantize_epochs",
        "falling_bits",
        "falling_epochs",
        "calibration_batches",
    },
    "trainer": {"max_epochs"},
}


@contextmanager
def shared_phases(
    cache: Path, config: str, built: Built, trainer: Trainer, folder: Path
) -> Iterator[Path | None]:
    """Take over the phases that another job has trained, or leave them for others.

    Args:
        cache: where they are kept; may be deleted whenever no job runs.
        config: the resolved configuration of this job, as YAML.
        built: what will be trained.
        trainer: what will train it.
        folder: of this job.

    Yields:
        The checkpoint to start from; None if this job has to train from the start.

    Raises:
        ConfigError: if nothing can be kept in the cache.
    """
    first = [span for span in built.schedule.phases if span.phase is not Phase.QUANTIZE]
    if not first or len(first) == len(built.schedule.phases) or trainer.world_size > 1:
        yield None
        return
    names = " and ".join(span.name for span in first)
    facts = json.dumps(_facts(config, built), sort_keys=True, indent=1)
    key = hashlib.sha256(facts.encode()).hexdigest()[:24]
    lock = FileLock(cache / f"{key}.lock")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        say(f"waiting for another job of the sweep, which trains the same {names} phase")
        lock.acquire()
    except OSError as error:
        raise ConfigError(
            f"sweep.cache={cache} is wrong: {error.strerror} ({error.filename}). Accepted: a "
            "folder, or null, with which each job trains its own phases."
        ) from error
    try:
        if _is_valid(cache / key, facts):
            lock.release()
            _take(cache / key, folder)
            say(f"the {names} phase of {origin(folder)} is reused, as it is the same here")
            yield folder / CHECKPOINTS / LAST
        else:
            end = sum(span.epochs for span in first)
            # In front: the callback of the schedule writes about the next phase.
            trainer.callbacks.insert(0, _Leave(end, folder, cache / key, facts, lock))  # type: ignore[attr-defined]
            yield None
    finally:
        lock.release(force=True)


def origin(folder: Path) -> str | None:
    """Return the name of the job whose first phases a run has taken over, None for its own.

    A file that is damaged is reported; it decides nothing.
    """
    try:
        return _job_of(folder)
    except ConfigError as error:
        say(f"{error}; the job whose first phases are reused is unknown")
        return None


def _job_of(folder: Path) -> str | None:
    file = folder / ORIGIN
    if not file.exists():
        return None
    job = files.read_json(file).get("job")
    if not isinstance(job, str):
        raise ConfigError(f"cannot read {file}: it names no job")
    return job


class _Leave(Callback):
    """Leaves the phases for others when the next one begins."""

    def __init__(self, end: int, folder: Path, entry: Path, facts: str, lock: FileLock) -> None:
        self.end, self.folder, self.entry, self.facts, self.lock = end, folder, entry, facts, lock

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Copy checkpoints and metrics, which are those of the end of the last epoch."""
        if batch_idx > 0 or trainer.current_epoch != self.end:
            return
        if not self.entry.exists():
            for logger in trainer.loggers:
                logger.save()
            new = self.entry.with_name(f".{self.entry.name}.{os.getpid()}")
            shutil.rmtree(new, ignore_errors=True)
            _copy(self.folder, new)
            files.write_text(new / FACTS, self.facts)
            sums = {str(file.relative_to(new)): sum_of(file) for file in _shared(new)}
            files.write_json(new / ORIGIN, {"job": self.folder.name, SUMS: sums})
            os.replace(new, self.entry)
        self.lock.release(force=True)


def _is_valid(entry: Path, facts: str) -> bool:
    """Tell whether there are phases to be taken over; damaged or other ones are removed."""
    if not os.path.lexists(entry):
        return False
    try:
        if files.read_text(entry / FACTS) != facts:
            raise ConfigError(f"{entry / FACTS} holds the facts of other phases")
        for file in _checkpoints(entry):
            load(file)
        _job_of(entry)
        sums = {str(file.relative_to(entry)): sum_of(file) for file in _shared(entry)}
        if sums != sums_in(entry):
            raise ConfigError(f"{entry} holds other files than {ORIGIN} tells")
    except (CheckpointError, ConfigError) as error:
        say(f"{error}; its phases are trained again")
        if entry.is_symlink() or not entry.is_dir():
            entry.unlink()
        else:
            shutil.rmtree(entry)
        return False
    return True


def _checkpoints(folder: Path) -> list[Path]:
    """Return those that jobs share; the last one comes last, as a resume looks for it."""
    best = sorted((folder / CHECKPOINTS).glob("best_*.ckpt"))
    return [*best, folder / CHECKPOINTS / LAST]


def _take(entry: Path, folder: Path) -> None:
    """Make a folder that of a run which was killed at the end of the phases."""
    _copy(entry, folder)
    files.write_bytes(folder / ORIGIN, (entry / ORIGIN).read_bytes())


def _shared(folder: Path) -> list[Path]:
    """Return metrics and checkpoints; ``logger=null`` writes no metrics."""
    return [file for file in (folder / FILE_NAME, *_checkpoints(folder)) if file.exists()]


def _copy(source: Path, target: Path) -> None:
    """Copy metrics and checkpoints."""
    for file in _shared(source):
        files.write_bytes(target / file.relative_to(source), file.read_bytes())


def _facts(config: str, built: Built) -> dict[str, Any]:
    """Return all that the phases before the quantize phase depend on."""
    settings: dict[str, Any] = yaml.safe_load(config)
    for key in WITHOUT_EFFECT:
        settings.pop(key, None)
    for key, inner in WITHOUT_EFFECT_INSIDE.items():
        settings[key] = {k: v for k, v in settings[key].items() if k not in inner}
    quantizers = {n: m for n, m in built.model.named_modules() if isinstance(m, Quantizer)}
    groups = built.solver.build(built.model).param_groups
    conditions = environment()
    for key in ("commit", "project_commit"):  # the sources count, committed or not
        conditions.pop(key, None)
    return {
        "settings": settings,
        "quantizers": [[n, type(q).__name__, q.clamp_facts()] for n, q in quantizers.items()],
        "solver": [
            {k: len(v) if k == "params" else repr(v) for k, v in group.items()} for group in groups
        ],
        "state": _digest_of_tensors(built.model.state_dict()),
        "network": str(getattr(built.model, "code", "")),
        "random": _digest_of_generators(),
        "sources": _digest_of_files(_sources(settings, built.model)),
        "environment": conditions,
    }


def _digest_of_tensors(state: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _digest_of_generators() -> str:
    numpy_state: Any = np.random.get_state()
    parts = (repr(random.getstate()), repr(numpy_state[1].tolist()), repr(numpy_state[2:]))
    digest = hashlib.sha256("".join(parts).encode())
    digest.update(torch.get_rng_state().numpy().tobytes())
    return digest.hexdigest()


def _digest_of_files(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _sources(settings: Any, model: nn.Module) -> list[Path]:
    """Return the files of qatlab, and those of the user's own functions and classes."""
    package = Path(__file__).parents[1]
    found = {file for pattern in ("*.py", "*.cpp") for file in package.rglob(pattern)}
    libraries = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
    used = [resolve_name(target) for target in _targets(settings)]
    used += [type(module) for module in model.modules()]
    for part in {base for one in used for base in getattr(one, "__mro__", (one,))}:
        try:
            file = Path(inspect.getfile(part))
        except (TypeError, OSError):
            continue  # built in, or made while running
        if file.exists() and not any(file.is_relative_to(place) for place in libraries):
            found.add(file)
    return sorted(found)


def _targets(settings: Any) -> Iterator[str]:
    """Yield what the nodes of a configuration make, at any depth."""
    if isinstance(settings, dict):
        if settings.get(TARGET) is not None:
            yield str(settings[TARGET])
        settings = list(settings.values())
    if isinstance(settings, list):
        for inner in settings:
            yield from _targets(inner)
