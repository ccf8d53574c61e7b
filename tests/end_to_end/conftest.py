"""Runs commands up to their error."""

from __future__ import annotations

import copy
import os
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from killable_runs import start_forked
from mistakes import FINISHED, TINY, Told
from omegaconf import DictConfig, open_dict

from qatlab import config
from qatlab.cli import hydra_app


@pytest.fixture(autouse=True)
def _as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)  # runs write to outputs/
    for name in (hydra_app.FULL_ERROR, "PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")  # set by a run; put back as it was
    monkeypatch.setattr(Hydra, "get_mode", lambda *args, **more: None)  # composes once more
    monkeypatch.setenv(hydra_app.USERS, "0")
    monkeypatch.delenv(hydra_app.USERS)
    monkeypatch.setattr(hydra_app, "FULL_TRACEBACK", False)
    yield
    GlobalHydra.instance().clear()
    HydraConfig.instance().cfg = None
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def command(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Told:
    """Runs a command in this process up to its error, and returns what is on stderr."""

    def run(*words: str, script: str = "train.py") -> str:
        monkeypatch.setattr(sys, "argv", [script, *words])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(root / script), run_name="__main__")
        assert caught.value.code == 1
        return capsys.readouterr().err

    return run


@pytest.fixture(scope="module")
def composed(root: Path) -> DictConfig:
    config.register()
    with initialize_config_dir(str(root / "conf"), version_base="1.3"):
        return compose("config", [*TINY, "folder=run"], return_hydra_config=True)


@pytest.fixture
def told(
    composed: DictConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Told:
    """Does as `command`, but takes the configuration of `composed`: composing costs most time."""

    def run(*overrides: str) -> str:
        def main() -> None:
            cfg = copy.deepcopy(composed)
            parsed = OverridesParser.create().parse_overrides(list(overrides))
            ConfigLoaderImpl._apply_overrides_to_config(parsed, cfg)
            HydraConfig.instance().set_config(cfg)
            with open_dict(cfg):
                del cfg["hydra"]
            hydra_app.checked("train", cfg)

        monkeypatch.setattr(sys, "argv", ["train.py", *overrides])
        with pytest.raises(SystemExit) as caught:
            hydra_app.start(main)
        assert caught.value.code == 1
        return capsys.readouterr().err

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of `FINISHED`, trained once for all processes that test."""
    place = tmp_path_factory.getbasetemp()
    place = place.parent if "PYTEST_XDIST_WORKER" in os.environ else place
    folder = place / "finished"
    with FileLock(place / "finished.lock"):
        if not (folder / "result.json").exists():
            ended = start_forked(
                place / "finished.log", "train.py", *FINISHED, f"hydra.run.dir={folder}"
            )
            assert ended.code == 0, ended.output
    return folder


@pytest.fixture(scope="module")
def finished(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished run, for the tests of one file, which leave it as it is."""
    return Path(shutil.copytree(trained, tmp_path_factory.mktemp("finished") / "run"))
