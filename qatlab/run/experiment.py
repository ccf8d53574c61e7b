"""What was asked for: to train, to go on, to test. All that can be wrong with it is found first.

What trains is imported behind that, in the functions: Lightning takes longer than all the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import DictConfig

from qatlab.config import apply_given, clear_initial_weights, in_sweep, portable_yaml, stored_config
from qatlab.deploy.integer.lowering import Obstacle
from qatlab.errors import ConfigError, wrong
from qatlab.results import record
from qatlab.results.compare import configuration, differences, flat
from qatlab.results.conditions import MOVABLE
from qatlab.run.belonging import check_own, own_checkpoint
from qatlab.run.build import INSTANTIATED, Built, build
from qatlab.run.plan import build_for_target
from qatlab.run.teacher import distillation_of, teacher_of
from qatlab.system.terminal import say

if TYPE_CHECKING:
    from qatlab.run.evaluation import Evaluation


def train(cfg: DictConfig) -> dict[str, Any]:
    """Train as configured and leave a report in ``cfg.folder``; see ``conf/config.yaml``.

    Returns:
        The content of ``result.json``.

    Raises:
        QatlabError: for anything the user can mend.
    """
    if cfg.resume is not None:
        return _resume(cfg)
    folder = Path(cfg.folder)
    if in_sweep() and (folder / record.CONFIG).exists():
        _check_same(cfg, folder)
        return _continue(cfg)
    built, found = _build(cfg)
    from qatlab.run.fit import fit_and_report

    return fit_and_report(cfg, built, found)


def _build(cfg: DictConfig) -> tuple[Built, dict[str, tuple[Obstacle, ...]]]:
    teacher = teacher_of(cfg)
    built, found = build_for_target(cfg)
    built.distillation = distillation_of(cfg, teacher, built)
    built.solver.build(built.model)  # arguments that the optimizer refuses are refused now
    return built, found


def _resume(given: DictConfig) -> dict[str, Any]:
    """Continue a run that was killed as if it had not been."""
    cfg = stored_config(record.find_run(Path(given.resume)), given.allow)
    apply_given(given, cfg, "resume", changeable=MOVABLE, also=("allow",))
    return _continue(cfg)


def _check_same(cfg: DictConfig, folder: Path) -> None:
    """Raise a ConfigError if the run in a sweep's folder was asked for with other settings."""
    now = dict(flat(yaml.safe_load(portable_yaml(cfg))))
    other = [
        f"{key} was {before} and is {after} now"
        for key, (before, after) in differences([configuration(folder), now]).items()
        # The first epochs are those of the phases, in which they count.
        if key not in (*MOVABLE, "folder", "schedule.first_epochs") and not key.startswith("sweep.")
    ]
    if other:
        raise ConfigError(
            f"{folder} holds a run of other settings: {'; '.join(other)}; delete it, or give the "
            "sweep another hydra.sweep.dir."
        )


def _continue(cfg: DictConfig) -> dict[str, Any]:
    """Train what is left of a run."""
    if (Path(cfg.folder) / record.RESULT).exists():
        try:
            result = record.read_result(Path(cfg.folder))
        except ConfigError as error:
            say(f"{error}; the network is tested again")
        else:
            say(f"{cfg.folder} is finished; there is nothing to resume.")
            return result
    from qatlab.run.fit import fit_and_report
    from qatlab.training.checkpoint import newest

    start_from, remark = newest(Path(cfg.folder) / record.CHECKPOINTS)
    if remark:
        say(remark)
    if start_from is not None:
        check_own(start_from, Path(cfg.folder))
        clear_initial_weights(cfg)
    built, found = _build(cfg)
    return fit_and_report(cfg, built, found, start_from)


def evaluate(cfg: DictConfig) -> Evaluation:
    """Measure a run, or initial weights, on the test set; see ``conf/test.yaml``."""
    save_outputs, run, name = cfg.save_outputs, cfg.run, cfg.checkpoint
    if cfg.resume is not None:
        raise ConfigError("resume= has no effect on a test; give run=<folder of a run>")
    if run is not None:
        run = record.find_run(Path(run))
        given, cfg = cfg, stored_config(run, cfg.allow, True, (*INSTANTIATED, "trainer"))
        also = ("checkpoint", "save_outputs", "allow")
        apply_given(given, cfg, "run", also=also, changeable=("data.*", "trainer.*"))
        clear_initial_weights(cfg)
        cfg.init_weights = str(own_checkpoint(run, name))
    elif cfg.init_weights is None:
        raise ConfigError("nothing to test: give run=<folder of a run> or init_weights=<file>")
    if save_outputs is not None and not Path(save_outputs).parent.is_dir():
        raise wrong("save_outputs", save_outputs, "a file in a folder that exists")
    if save_outputs is not None and Path(save_outputs).suffix != ".npz":
        raise wrong("save_outputs", save_outputs, "a file that ends in .npz")
    built = build(cfg, trained=True)
    from qatlab.run.fit import test

    return test(cfg, built, save_outputs)
