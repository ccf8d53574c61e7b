"""The folder of a run: made for one run only, locked while that trains, and never written over."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from qatlab.errors import ConfigError
from qatlab.results.conditions import FILE as CONDITIONS
from qatlab.results.record import CHECKPOINTS, CONFIG, LATEST, RESULT, SWEEP, check_run, find_run
from qatlab.system.files import read_yaml, temporary_of, write_text
from qatlab.system.terminal import LOG, is_first

FILES = (CONFIG, "layers.json", CONDITIONS, "metrics.csv", "weights.safetensors", RESULT)
MOST_AT_ONCE = 1000  # runs that start in one second
HYDRA_FOLDER = ".hydra"  # what was asked for, under Hydra's own names

_named_by_time: set[str] = set()


def job_folder(name: str, resume: str | None) -> str:
    """Return the folder of this job: a new run, or a log folder inside the run it resumes.

    Raises:
        ConfigError: for processes that were started together, but share no name for it.
    """
    place = f"outputs/runs/{name}"
    if resume is not None:
        run = find_run(Path(resume))
        check_run(run)  # now, or Hydra would make the folder
        place = f"{run}/resumed"
    step = os.environ.get("SLURM_STEP_ID")  # of srun
    if step is not None:
        return f"{place}/slurm_{os.environ['SLURM_JOB_ID']}.{step}"
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:  # of torchrun
        raise ConfigError("processes that torchrun starts need hydra.run.dir=<one folder for all>.")
    folder = f"{place}/{datetime.now():%Y-%m-%d_%H-%M-%S}"
    _named_by_time.add(folder)
    return folder


class OwnFolder(Callback):
    """Gives runs that start in the same second a folder each; see ``hydra.callbacks``."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the folder, with a number behind its name if another run has that one."""
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(config)  # which the name of the folder is made of
        try:
            _make_own(config)
        except (OmegaConfBaseException, OSError):
            return  # Hydra meets the same, and reports it
        finally:
            HydraConfig.instance().cfg = before


def _make_own(config: DictConfig) -> None:
    first = str(config.hydra.run.dir)
    for number in range(2, MOST_AT_ONCE):
        if first not in _named_by_time:
            return  # the user's own choice
        try:
            Path(config.hydra.run.dir).mkdir(parents=True)
        except FileExistsError:
            with read_write(config.hydra.run):
                config.hydra.run.dir = f"{first}-{number}"
            _named_by_time.add(f"{first}-{number}")
        else:
            return


def lock_run(folder: Path) -> FileLock:
    """Keep other processes from training in a folder, such as those a killed sweep left behind.

    Returns:
        What keeps them off: until it is released, or this process ends, in whatever way.

    Raises:
        ConfigError: if one of them is at work, or the folder cannot be written to.
    """
    lock = FileLock(folder / ".lock", is_singleton=True)
    if not is_first():
        return lock  # the first of several processes does so for all
    for own in (".lock", CHECKPOINTS, "figures", HYDRA_FOLDER):
        if (folder / own).is_symlink():
            raise ConfigError(
                f"{folder / own} is a link, which the folder of a run must not contain."
            )
    for own in FILES:
        if (folder / own).is_dir():
            raise ConfigError(f"{folder / own} is a folder, where a run has a file; move it away.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        Path(lock.lock_file).open("a").close()  # or the lock takes what is refused for taken
        lock.acquire(blocking=False)
    except Timeout:
        raise ConfigError(
            f"{folder} is being trained by another process; wait for it or stop it, then run the "
            "command again."
        ) from None
    except OSError as error:
        raise ConfigError(
            f"cannot use {folder}: {error.strerror}. Runs are written to hydra.run.dir=<folder>, "
            "jobs of a sweep below hydra.sweep.dir=<folder>."
        ) from error
    return lock


def unlock_run(folder: Path) -> None:
    """Let another process have what this one has locked; see :func:`lock_run`."""
    FileLock(folder / ".lock", is_singleton=True).release(force=True)


def check_unused(folder: Path, trains: bool) -> None:
    """Raise a ConfigError if a folder holds a run that a command would write over.

    Args:
        folder: where the command would write.
        trains: a run that was killed before its first checkpoint is begun anew.
    """
    if not is_first():
        return
    holds = (folder / RESULT).exists() or (folder / CHECKPOINTS).exists()
    if holds or (not trains and (folder / CONFIG).exists()):
        other = f"continue it with resume={folder}, delete it, or " if trains else ""
        raise ConfigError(
            f"{folder} already holds a run: {other}write to another folder with hydra.run.dir="
        )
    for outer in [*folder.absolute().parents][:2]:
        if (outer / CONFIG).is_file() and (outer / "layers.json").is_file():
            raise ConfigError(
                f"hydra.run.dir={folder} lies in the folder of another run; choose another one."
            )


def leave_nothing(folder: Path) -> None:
    """Remove the folder of a command that has left no run in it, but not the files of others.

    Also the folders around it, up to the current one, that are empty then.
    """
    if not is_first() or (folder / CONFIG).exists() or (folder / RESULT).exists():
        return
    for name in ("config", "hydra", "overrides"):
        (folder / HYDRA_FOLDER / f"{name}.yaml").unlink(missing_ok=True)
    if any(path.is_dir() and path.name != HYDRA_FOLDER for path in folder.glob("*")):
        return  # the jobs of a sweep
    for name in (".lock", LOG, SWEEP, "multirun.yaml"):
        (folder / name).unlink(missing_ok=True)
    here = Path.cwd()
    with suppress(OSError):  # where it is not empty
        if (folder / HYDRA_FOLDER).exists():
            (folder / HYDRA_FOLDER).rmdir()
        for place in (folder, *folder.parents):
            if here not in place.absolute().parents:
                return
            place.rmdir()


def name_latest(folder: Path) -> None:
    """Let ``latest`` beside the folder of a run that is named by its time be that run."""
    if str(folder) not in _named_by_time and os.path.relpath(folder) not in _named_by_time:
        return
    link = folder.parent / LATEST
    temporary = temporary_of(link)
    with suppress(OSError, ConfigError):  # a run needs no name for it
        temporary.unlink(missing_ok=True)
        try:
            temporary.symlink_to(folder.name, target_is_directory=True)
            os.replace(temporary, link)
        except OSError:  # a file system, or a user, without links
            temporary.unlink(missing_ok=True)
            write_text(link, f"{folder.name}\n")


def save_hydra_files(cfg: DictConfig) -> None:
    """Write down what was asked for, as Hydra would do before anything could be checked."""
    if not HydraConfig.initialized() or not is_first():
        return
    hydra, folder = HydraConfig.get(), Path(cfg.folder) / HYDRA_FOLDER
    whole = OmegaConf.create({"hydra": hydra})
    write_text(folder / "config.yaml", OmegaConf.to_yaml(cfg))
    write_text(folder / "hydra.yaml", OmegaConf.to_yaml(whole))
    write_text(folder / "overrides.yaml", OmegaConf.to_yaml(hydra.overrides.task))


def override_list(words: Any) -> list[str]:
    """Return words of a command line, a ``ListConfig``; what they refer to is not looked up."""
    given: Any = OmegaConf.to_container(words)
    return list(given)


def own_words(run: Path) -> list[str]:
    """Return the words of the command line that a run was started with; [] if they are unknown."""
    file = run / ".hydra" / "overrides.yaml"
    found = read_yaml(file) if file.is_file() else []
    return [str(word) for word in found] if isinstance(found, list) else []
