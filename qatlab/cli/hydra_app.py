"""What happens around a command: configuration errors and stops become one sentence."""

from __future__ import annotations

import os
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from qatlab import config, sweep
from qatlab.cli.messages import is_refusal, sentence
from qatlab.config import places
from qatlab.config.folders import check_unused, leave_nothing, lock_run, save_hydra_files
from qatlab.config.places import CONF, own_targets
from qatlab.config.trust import foreign
from qatlab.errors import ConfigError, plain, wrong
from qatlab.results.record import CONFIG, RESULT, find_run
from qatlab.sweep import launchers, search, together
from qatlab.system.terminal import is_first, logged

FULL_ERROR = "HYDRA_FULL_ERROR"
USERS = "QATLAB_FULL_ERROR"  # what the user has set it to, for processes that this one starts
FULL_TRACEBACK = os.environ.get(USERS, os.environ.get(FULL_ERROR, "0")) != "0"


@dataclass
class _Job:
    begun: bool = False  # whether the configuration was composed; later errors may be our own


_job = _Job()


def start(main: Callable[[], None]) -> None:
    """Run a Hydra main function; a user's mistake ends in a sentence and exit code 1."""
    _job.begun = False
    error: Exception | None = None
    # The plugin of Ray has a configuration of the same name, which ours is merged over.
    warnings.filterwarnings("ignore", "(?s).*validated against ConfigStore schema")
    try:
        config.register()
        places.register()
        search.register()
        together.register()
        launchers.register()
        launchers.follow_parent()
        os.environ[USERS] = "1" if FULL_TRACEBACK else "0"
        os.environ[FULL_ERROR] = "1"  # Hydra would print a stack trace, or its own words, and exit
        _check_options()
        main()
    except KeyboardInterrupt:
        _interrupted("")
    except Exception as raised:
        error = raised
    finally:
        notes = sweep.take_notes()  # of a sweep
        if notes:
            sweep.print_notes(notes)
    failed = sum(note.state == sweep.FAILED for note in notes)
    if error is not None and (FULL_TRACEBACK or not failed):
        _stop(_message_of(error))
    if failed:
        why = launchers.message_of(error) if error is not None else None
        _stop(f"{failed} of the sweep's jobs failed; {why or 'what was wrong stands above.'}")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def train(cfg: DictConfig) -> None:
    """Train as configured; to be given to :func:`start`."""
    checked("train", cfg)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="test")
def test(cfg: DictConfig) -> None:
    """Test as configured; to be given to :func:`start`."""
    checked("evaluate", cfg)


def checked(command: str, cfg: DictConfig) -> None:
    """Run a function of ``qatlab.run.experiment``. A sweep goes on after a job that failed."""
    _job.begun = True
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # data are in memory
    warnings.filterwarnings("ignore", ".*Total length of `list`.*zero.*")  # data.validation=0
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning uses torch's older name
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")  # we log per epoch
    warnings.filterwarnings("ignore", ".*sync_dist=True.*")  # what is logged is of all processes
    warnings.filterwarnings("ignore", ".*`srun` command is available.*")  # docs/scaling.md
    trains = command == "train" and cfg.mode != "plan"
    job = sweep.SweepJob(Path(cfg.folder), trains) if config.in_sweep() else None
    if cfg.resume:
        cfg.resume = str(find_run(Path(cfg.resume)))
    folder, opened = Path(cfg.resume or cfg.folder), ExitStack()
    try:
        if trains and (folder.exists() or not cfg.resume):
            opened.callback(lock_run(folder).release, force=True)
        _begin(trains, cfg, job is not None)
        if trains and folder.exists() and not (folder / RESULT).exists():
            opened.enter_context(logged(folder))
        config.append_rules(cfg)
        config.check(cfg)
        command = _function(command, cfg)
        # torch: a wrong key is refused before
        room = import_module("qatlab.run.plan" if command == "plan" else "qatlab.run.experiment")
        if job is not None and "n_jobs" in HydraConfig.get().launcher and cfg.trainer.devices == 1:
            gpus = import_module("torch").cuda.device_count()
            sweep.claim_gpu(Path(HydraConfig.get().sweep.dir), gpus)
        getattr(room, command)(cfg)
        if job is not None:
            job.succeeded()
    except KeyboardInterrupt:
        if job is not None:
            job.failed("interrupted; the sweep's command continues it")
        _interrupted(_how_to_continue(folder, cfg))
    except Exception as error:
        if job is None:
            words, hint = _message_of(error), _how_to_continue(folder, cfg)
            _stop(f"{words.removesuffix('.')}.{hint}" if hint and is_refusal(error) else words)
        message = sentence(error) or traceback.format_exc()
        job.failed(message)
        where = HydraConfig.get().job
        print(f"Error in job {where.num} ({where.override_dirname}): {message}", file=sys.stderr)
        if cfg.sweep.fail_fast or not is_first():
            # Hydra goes on after any other exception; and other processes would wait for this one.
            raise SystemExit(1) from error
        if FULL_TRACEBACK or not sweep.records_jobs():
            raise  # or nobody would know
    finally:
        opened.close()
        if job is None or not trains:
            leave_nothing(Path(cfg.folder))


def _function(command: str, cfg: DictConfig) -> str:
    if command == "train" and cfg.mode not in ("train", "plan"):
        raise wrong("mode", cfg.mode, ("train", "plan"))
    return "plan" if command == "train" and cfg.mode == "plan" and cfg.resume is None else command


def _begin(trains: bool, cfg: DictConfig, is_job: bool) -> None:
    """Write down what was asked for, unless that would change a run that is there.

    Raises:
        ConfigError: if the folder holds a run; the job of a sweep goes on with it.
    """
    folder = Path(cfg.folder)
    if not is_job and cfg.resume is None:
        check_unused(folder, trains)
    if trains and (not is_job or not (folder / CONFIG).exists()):
        save_hydra_files(cfg)


def resume_command(run: Path, cfg: DictConfig) -> str:
    """Return what to type to resume a run of a configuration."""
    allow = (
        config.allowed_names(cfg.allow)
        if cfg.resume
        else foreign(OmegaConf.to_container(cfg), own_targets())
    )
    words = [sweep.resume_override(run), *([f"allow=[{','.join(allow)}]"] if allow else [])]
    is_script = Path(sys.argv[0]).name == "train.py"
    return shlex.join([*(["python", "train.py"] if is_script else ["qatlab", "train"]), *words])


def _how_to_continue(run: Path, cfg: DictConfig) -> str:
    is_run = (run / CONFIG).exists() and not (run / RESULT).exists()
    return f" To continue: {resume_command(run, cfg)}" if is_run else ""


def _interrupted(hint: str) -> None:
    print(f"\nInterrupted.{hint}")
    raise SystemExit(130) from None  # as a shell reports SIGINT


def _message_of(error: Exception) -> str:
    """Return what to tell the user; raise the error again if it needs its stack trace."""
    words = None
    if not FULL_TRACEBACK:
        words = launchers.message_of(error) or sentence(error, composing=not _job.begun)
    if words is None:
        raise error
    return words


def _stop(words: str) -> NoReturn:
    print(f"Error: {plain(words)}", file=sys.stderr)
    raise SystemExit(1)


def _check_options() -> None:
    """Refuse what argparse would refuse, in one line; allow -m behind the settings, too."""
    file = next((word for word in sys.argv[1:] if sweep.is_file(word)), None)
    sys.argv[1:] = sweep.expanded(sys.argv[1:])
    # The key is there, which Hydra's + would refuse; those who add rules think of it so.
    sys.argv[1:] = [re.sub(r"^\+(?=rules=)", "", word) for word in sys.argv[1:]]
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; settings are written group=option or key=value; see --help.")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    given = parser.parse_args()
    if file is not None and not given.multirun:
        raise ConfigError(f"{file} has no effect without -m, which starts a sweep.")
    if given.cfg is None and given.info is None:
        sweep.check_overrides(given.overrides, given.multirun)
