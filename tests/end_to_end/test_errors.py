"""Every mistake a user can make ends in one line that names it, and says what is accepted."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from killable_runs import start_forked
from mistakes import TINY, Told, check
from omegaconf import DictConfig, OmegaConf

from qatlab import config
from qatlab.cli import hydra_app
from qatlab.errors import ConfigError
from qatlab.models import LeNet
from qatlab.run import plan


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            "model=lenett",
            "model=lenett is unknown|Did you mean 'lenet'|Accepted: autoencoder, ds_cnn, "
            "googlenet, layer_graph, lenet",
        ),
        (
            "quant=sat_5bit",
            "quant=sat_5bit is unknown. Give quant=sat_4bit quant.weight.bits=5 "
            "quant.activation.bits=5.|none, pact_2bit, pact_3bit",
        ),
        ("data=mnst", "data=mnst is unknown|'mnist'|mnist, speech_commands, synthetic"),
        (
            "solver=sdg",
            "solver=sdg is unknown|adam, adamw, by_parameter, lsq, pact, sat, sgd_cosine",
        ),
        ("solver/lr_policy=stepp", "solver/lr_policy=stepp is|'step'|constant, cosine"),
        ("experiment=lenet", "experiment=lenet is unknown|lenet_sat_8bit"),
        ("logger=[csv,foo]", "logger=foo is unknown|Accepted: csv, mlflow, tensorboard, wandb"),
        ("callbacks=[emma]", "callbacks=emma is unknown|Did you mean 'ema'|default, ema"),
        ("experiment=_mobilenet_v1_sat", "experiment=_mobilenet_v1_sat is wrong|lenet_sat_8bit"),
        ("quant=_first_last", "quant=_first_last is wrong|Accepted: dorefa_2bit"),
        ("hydra.run.dir=", "hydra.run.dir='' is wrong|a folder"),
        ("logger=tensorbord", "logger=tensorbord is|'tensorboard'|csv, mlflow, tensorboard"),
        ("modell=lenet", "modell is unknown|Did you mean 'model'|model, data, quant"),
        ("solver/lr_polic=step", "solver.lr_polic is unknown|'lr_policy'|optimizer"),
        ("model@a=lenet", "Could not override 'model@a'. Did you mean to override model?"),
        ("model=null", "a group takes the name of one of its options"),
        ("~model", "model has no value|model=<"),
        ("quant.weight.bits=2,4", "quant.weight.bits=2,4 holds several|-m|[...]"),
        ("resume=nowhere", "nowhere is not the folder of a run|config.yaml"),
        ("experiment=lenet_sat_8bit", "init_weights has no value|init_weights=<folder of a lenet"),
        ("quant=none quant.weight.bits=3", "quant.weight.bits is unknown|quant.weight holds no"),
    ],
)
def test_what_hydra_cannot_compose(command: Told, overrides: str, words: str) -> None:
    check(command(*overrides.split()), tuple(words.split("|")))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            "quant.wieght.bits=3",
            "quant.wieght is unknown|'weight'|weight, activation, inputs_of_functions, "
            "one_step_for_sums, rules.",
        ),
        ("solver.optimiser.lr=1", "solver.optimiser|'optimizer'|groups, lr_policy, optimizer"),
        ("trainer.max_epoch=3", "trainer.max_epoch is|'max_epochs'|devices|+trainer.max_epoch=<"),
        ("quant.rules.frist.index=1", "quant.rules.frist|'first'|first, last, scaling"),
        # What other programs call our settings.
        ("epochs=3", "epochs is unknown. Give schedule.quantize_epochs, and schedule.first_epochs"),
        (
            "+epochs=3",
            "epochs is unknown. Give schedule.quantize_epochs, and schedule.first_epochs",
        ),
        ("lr=0.1", "lr is unknown. Give solver.optimizer.lr."),
        ("batch_size=64", "batch_size is unknown. Give data.batch_size."),
        ("bits=3", "bits is unknown. Give quant.weight.bits and quant.activation.bits."),
        ("momentum=0.9", "momentum is unknown. Give solver.optimizer.momentum."),
        ("sead=3", "sead is unknown|Did you mean 'seed'|model, data, quant, solver, schedule"),
        ("hydra.run.dirr=x", "hydra.run.dirr is unknown|'dir'"),
        ("seed=x", "seed=x is wrong|a whole number"),
        ("schedule.clamp_epochs=1.5", "schedule.clamp_epochs=1.5 is wrong|a whole number"),
        ("mode=null", "mode=null|any value but null"),
        ("quant.rules=3", "quant.rules=3|a mapping"),
        ("quant.rules.first={", "'quant.rules.first={' cannot be read|key=value|quotes"),
        ("quant sat_4bit", "'quant' has no =|group=option"),
        ("--quant sat_4bit", "--quant|group=option|--help"),
        ("--cfg jobs", "--cfg|'jobs'|'job'"),
        ("+seed=3", "+seed exists already|leave out the +"),
        ("~sead", "'sead' does not exist"),
        ("~schedule.clamp_epochs", "~schedule.clamp_epochs|needs this key"),
    ],
)
def test_what_is_no_setting(told: Told, overrides: str, words: str) -> None:
    check(told(*overrides.split()), tuple(words.split("|")))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        # Nothing that is added with + is dropped in silence.
        ("+foo=1", "foo is unknown|model, data, quant"),
        (
            "+quant.foo=1",
            "quant.foo is unknown|weight, activation, inputs_of_functions, one_step_for_sums, "
            "rules",
        ),
        ("+schedule.epochs=1", "schedule.epochs is unknown|'float_epochs'|quantize_epochs"),
        ("+model.droput=1", "model.droput is unknown|'dropout'|dropout, bias"),
        ("+model.num_classes=3", "model.num_classes is set by qatlab itself"),
        ("+data.valdation=0", "data.valdation is unknown|'validation'|batch_size"),
        ("+data.source.foo=3", "data.source.foo is unknown|training_images"),
        ("+trainer.max_epoch=3", "trainer.max_epoch is unknown|'max_epochs'|limit_train_batches"),
        ("+trainer.callbacks=[]", "trainer.callbacks is set by qatlab itself"),
        ("+trainer.logger=false", "trainer.logger is set by qatlab itself"),
        ("+solver.optimizer.momentun=3", "solver.optimizer.momentun|'momentum'|nesterov"),
        ("+solver.lr_policy.finl=0", "solver.lr_policy.finl is unknown|'final'"),
        ("+callbacks.foo=3", "callbacks.foo=3|_target_"),
        ("+callbacks.foo={_target_: torch.nn.ReLU}", "callbacks.foo|ReLU|Callback"),
        # The key that is wrong is named, not one that refers to it.
        ("seed=${foo}", "seed: Interpolation key 'foo' not found"),
        ("seed=???", "Error: seed has no value|seed=<"),
        ("~seed", "Error: seed has no value|seed=<"),
        (
            "data.transforms={a: {_target_: qatlab.data.transforms.Rescale, height: 3}}",
            "data.transforms.a.width has no value|data.transforms.a.width=<value>",
        ),
        ("name=${nam}", "name|'nam' not found"),
        ("quant.weight=null quant.activation=null", "quant.rules.first|quant.weight|null"),
        # Wrong types.
        ("data.batch_size=many", "data.batch_size|many|whole number of at least 1"),
        ("data.random_flip=maybe", "data.random_flip=maybe|true or false"),
        ("data.image_size=32", "data.image_size=32|a list"),
        ("data.source=null", "data.source=null|a mapping"),
        ("model.bias=1", "model.bias=1|true or false"),
        ("model.dropout=abc", "model.dropout=abc|a number"),
        ("solver.optimizer.lr=fast", "solver.optimizer.lr=fast|a number"),
        ("solver.optimizer.nesterov=maybe", "solver.optimizer.nesterov=maybe|true or false"),
        ("callbacks.checkpoint.every_n_steps=1.5", "callbacks.checkpoint.every_n_steps=1.5|whole"),
        ("trainer.deterministic=maybe", "trainer.deterministic=maybe|warn, true or false"),
        ("model._target_=qatlab.models.LeNett", "model._target_=qatlab.models.LeNett|'LeNet'"),
        ("~model._target_", "model=|_target_"),
        ("channels_last=2", "channels_last=2 is wrong|true or false"),
        ("compile=0", "compile=0 is wrong|true or false"),
        ("sweep.fail_fast=1", "sweep.fail_fast=1 is wrong|true or false"),
        ("trainer.accumulate_grad_batches=[1]", "trainer.accumulate_grad_batches=[1]|whole"),
        # Numbers that nothing can be computed with.
        ("solver.optimizer.lr=nan", "solver.optimizer.lr=nan is wrong|a finite number"),
        ("solver.optimizer.momentum=inf", "solver.optimizer.momentum=inf is|a finite number"),
        ("solver.groups.weights.lr=nan", "solver.groups.weights.lr=nan is wrong|a finite number"),
        ("trainer.gradient_clip_val=nan", "trainer.gradient_clip_val=nan is wrong|a finite number"),
        ("data.image_size=[nan,32]", "data.image_size[0]=nan is wrong|a finite number"),
        ("mixup=nan", "mixup=nan is wrong|a finite number"),
        (
            f"data.source.seed={1 << 80}",
            "data.source.seed=1208925819614629174706176 is wrong|63 bits",
        ),
        (f"schedule.clamp_epochs={1 << 80}", "schedule.clamp_epochs=1208925819614629174706176"),
        ("data.image_size=[1000000,1000000]", "data.image_size|at most 67,108,864 pixels"),
        ("data.source.num_classes=1000000000", "data.source.num_classes|at most 1,000,000"),
        # Wrong values.
        ("seed=-1", "seed=-1|from 0 to 2^32 - 1"),
        ("mode=plann", "mode=plann|train|plan"),
        ("model.dropout=2", "model.dropout=2|[0, 1)"),
        ("data.image_size=[8,8]", "data.image_size|(1, 1, 8, 8)"),
        ("schedule.clamp_epochs=0 schedule.quantize_epochs=0", "clamp_epochs and quantize_epochs"),
        ("schedule.clamp_epochs=-1", "schedule.clamp_epochs=-1 is wrong"),
        ("schedule.calibration_batches=0", "schedule.calibration_batches=0"),
        ("solver.optimizer.lr=-1", "solver.optimizer|learning rate: -1"),
        ("solver.warmup_epochs=1", "solver.warmup_epochs=1|less than the epochs of each phase"),
        ("solver.optimizer.lr=1e38", "the loss is nan|epoch 1|clamp phase|lower solver.optimizer"),
        # The trainer.
        (
            "trainer.max_epochs=3",
            "trainer.max_epochs=3|of 2 epochs|first_epochs|quantize_epochs inst",
        ),
        ("+trainer.max_steps=3", "trainer.max_steps=3|schedule.first_epochs"),
        ("+trainer.max_time=00:00:01:00", "trainer.max_time=00:00:01:00|schedule.first_epochs"),
        ("+trainer.fast_dev_run=true", "trainer.fast_dev_run=true|schedule.first_epochs"),
        ("+trainer.val_check_interval=2", "trainer.val_check_interval=2"),
        ("trainer.limit_train_batches=0", "trainer.limit_train_batches=0|above 0"),
        ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val=-1|above 0"),
        ("trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches=0|above 0"),
        ("+trainer.check_val_every_n_epoch=0", "trainer.check_val_every_n_epoch=0|above 0"),
        ("+trainer.min_epochs=9", "trainer.min_epochs=9 has no effect|schedule.first_epochs"),
        ("+trainer.log_every_n_steps=-1", "trainer.log_every_n_steps=-1 has no effect|an epoch"),
        ("+trainer.model_registry=a", "trainer.model_registry=a has no effect|the folder"),
        ("+trainer.overfit_batches=0.5", "trainer.overfit_batches=0.5|limit_train_batches"),
        (
            "model.dropout={_target_: pytorch_lightning.loggers.WandbLogger}",
            "model.dropout={|WandbLogger|Accepted: a number.",
        ),
        ("trainer.limit_train_batches=0.0001", "trainer: |0.0001|`limit_train_batches`"),
        ("trainer.precision=bf17", "trainer.precision=bf17|32-true, 64-true, bf16-mixed"),
        ("trainer.accelerator=tpu2", "trainer.accelerator=tpu2|auto|cpu"),
        ("trainer.accelerator=cpu trainer.devices=7", "trainer.devices=1|7 processes|trainer=ddp"),
        ("trainer.accelerator=cpu trainer.devices=0", "trainer.devices=0"),
        (
            "+callbacks.stop={_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: a}",
            "callbacks.stop|EarlyStopping|schedule.first_epochs",
        ),
        ("~callbacks.checkpoint", "callbacks|RunCheckpoint"),
    ],
)
def test_what_cannot_be_built(told: Told, overrides: str, words: str) -> None:
    parts = [overrides] if "{" in overrides else overrides.split()
    check(told(*parts), tuple(words.split("|")))


@pytest.mark.parametrize(
    ("environment", "told_of"),
    [
        ({"WORLD_SIZE": "2"}, "processes that torchrun starts need hydra.run.dir=<one folder"),
        ({"SLURM_STEP_ID": "3", "SLURM_JOB_ID": "17"}, "outputs/runs/lenet_sat_4bit/slurm_17.3"),
    ],
)
def test_processes_that_are_started_together_share_a_folder(
    command: Told, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], told_of: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    Path("outputs/runs/lenet_sat_4bit/slurm_17.3/checkpoints").mkdir(parents=True)
    check(command(*TINY), (told_of,))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    weights = LeNet(10, 1).state_dict()
    torch.save(weights, folder / "whole.pt")
    (folder / "cut.pt").write_bytes((folder / "whole.pt").read_bytes()[:1000])
    (folder / "text.pt").write_text("hello\n")
    torch.save(torch.nn.Linear(3, 3).state_dict(), folder / "foreign.pt")
    torch.save({**weights, "conv3.weight": torch.zeros(120, 8, 5, 5)}, folder / "other.pt")
    torch.save({**weights, "conv2.weight": torch.zeros(16, 6, 5, 5)}, folder / "zero.pt")
    torch.save({**weights, "bn1.running_var": -torch.ones(6)}, folder / "variance.pt")
    torch.save({"model": LeNet(10, 1), "args": argparse.Namespace(lr=0.1)}, folder / "pickled.pt")
    return folder


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.pt", "none.pt does not exist"),
        (".", "without checkpoints/last.ckpt|Accepted: the folder of a run, a checkpoint"),
        ("cut.pt", "cut.pt is truncated or no checkpoint"),
        ("text.pt", "text.pt is truncated or no checkpoint"),
        ("foreign.pt", "foreign.pt does not fit the model|20 values|conv1.weight"),
        ("other.pt", "other.pt does not fit the model|conv3.weight|(120, 8, 5, 5)|(120, 16, 5, 5)"),
        ("zero.pt", "conv2: all its weights are 0"),
        ("variance.pt", "variance.pt: bn1.running_var holds -1"),
        ("pickled.pt", "no weights|a pickled nn.Module of class qatlab.models.lenet.LeNet"),
    ],
)
def test_weights_that_do_not_fit(told: Told, files: Path, name: str, words: str) -> None:
    message = told(f"init_weights={files / name}")
    check(message, tuple(words.split("|")))
    assert name == "zero.pt" or f"init_weights={files / name}" in message


def test_float_weights_fit_a_quantized_model(command: Told, files: Path) -> None:
    # They do: only then does the trainer get to refuse its own argument.
    words = (*TINY, f"init_weights={files / 'whole.pt'}", "trainer.accelerator=none")
    check(command(*words), ("trainer.accelerator=none",))


def test_missing_and_damaged_data(command: Told, root: Path, tmp_path: Path) -> None:
    check(command("data.source.folder=empty"), ("data.source.folder", "'empty'", "MNIST/raw"))
    for file in (root / "data/MNIST/raw").glob("*.gz"):
        (tmp_path / file.name).write_bytes(file.read_bytes()[:5000])
    message = command(f"data.source.folder={tmp_path}")
    check(message, (str(tmp_path / "train-images-idx3-ubyte.gz"), "cannot be read"))


@pytest.mark.parametrize("folder", ["file/run", "/proc/self"])
def test_a_folder_that_cannot_be_written(command: Told, tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("")
    check(command(f"hydra.run.dir={folder}"), (f"cannot use {folder}", "hydra.run.dir=<folder>"))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("", "nothing to test|run=<folder of a run>|init_weights=<file>"),
        ("run=nowhere", "nowhere is not the folder of a run|config.yaml"),
        ("init_weights=x data=synthetic save_outputs=no/x.npz", "save_outputs=no/x.npz|folder"),
        ("rum=x", "rum is unknown|'run'"),
    ],
)
def test_mistakes_in_a_test(command: Told, overrides: str, words: str) -> None:
    check(command(*overrides.split(), script="test.py"), tuple(words.split("|")))


def test_a_checkpoint_that_a_run_does_not_have(
    command: Told, composed: DictConfig, tmp_path: Path
) -> None:
    run = tmp_path / "unfinished"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints/last.ckpt").write_bytes(b"")
    plain = OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"])
    plain.name, plain.folder = "unfinished", "."
    (run / "config.yaml").write_text(config.portable_yaml(plain))
    message = command(f"run={run}", script="test.py")
    check(message, ("checkpoint=best is wrong. Accepted: last.", f"in {run}"))


def test_tensorboard_that_is_not_installed(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"):
        monkeypatch.setattr(f"lightning_fabric.loggers.tensorboard.{name}", False)
    target = "pytorch_lightning.loggers.TensorBoardLogger"
    message = told(f"+logger.board={{_target_: {target}, save_dir: x, version: tensorboard}}")
    check(message, ("logger.board: ", "tensorboard", "install"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# @package _global_\nquant: {wieght: {bits: 3}}", "experiment/mine.yaml|quant.wieght is"),
        ("# @package _global_\nseed: x", "experiment/mine.yaml|seed=x|a whole number"),
        ("# @package _global_\nseed: [1", "mine.yaml:3|expected"),
        ("# @package _global_\nseed: 1\nseed: 2", "mine.yaml:3|duplicate key seed"),
        ("seed: 3", "experiment/mine.yaml|# @package _global_"),
        (
            "# @package _global_\ndefaults: [{override /model: lenett}]",
            "model=lenett is unknown|'lenet'",
        ),
        (
            "# mine\n# @package _global_\ndefaults: [{override /model: lenet}]",
            "experiment/mine.yaml: its first line must be '# @package _global_'",
        ),
        (
            "# @package _global_\ndefaults: [{override /dta: mnist}]",
            "experiment/mine.yaml: override dta is unknown. Did you mean 'data'|quant",
        ),
    ],
)
def test_mistakes_in_an_experiment(command: Told, tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "conf/experiment/mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(text + "\n")
    message = command("--config-dir", str(tmp_path / "conf"), "experiment=mine")
    check(message, tuple(words.split("|")))


@pytest.mark.parametrize(
    ("launcher", "of_plugin"), [("slurm", "submitit_slurm"), ("parallel", "joblib")]
)
def test_launchers_without_their_package_name_the_extra(
    command: Told, monkeypatch: pytest.MonkeyPatch, launcher: str, of_plugin: str
) -> None:
    Plugins.instance()  # they store their options when they are found
    stored = ConfigStore.instance().repo["hydra"]["launcher"]
    monkeypatch.delitem(stored, f"{of_plugin}.yaml")
    told = command("-m", f"hydra/launcher={launcher}", "seed=1,2")
    check(told, (f"hydra/launcher={launcher} needs", f"pip install 'qatlab[{launcher}]'"))


def test_the_launcher_that_no_test_environment_has(command: Told) -> None:
    told = command("-m", "hydra/launcher=ray", "seed=1,2")
    check(told, ("hydra/launcher=ray needs", "pip install 'qatlab[ray]'"))


def test_no_jobs_at_the_same_time_are_none(command: Told) -> None:
    told = command("-m", "hydra/launcher=parallel", "hydra.launcher.n_jobs=0", "seed=1,2")
    check(told, ("hydra.launcher.n_jobs=0 is wrong", "-1"))


def test_memory_that_is_not_there_is_reported(monkeypatch: pytest.MonkeyPatch, told: Told) -> None:
    def fill(cfg: DictConfig) -> None:
        torch.empty(1 << 50, dtype=torch.uint8)

    monkeypatch.setattr(plan, "build", fill)
    check(told(), ("not enough memory", "data.batch_size"))


def test_a_sweep_goes_on_after_a_job_that_failed(command: Told, tmp_path: Path) -> None:
    message = command("mode=plan", "-m", "quant.weight.bits=33,4")
    assert "Error in job 0 (mode=plan,quant.weight.bits=33): quant.weight (conv2)" in message
    assert message.endswith("\nError: 1 of the sweep's jobs failed; what was wrong stands above.\n")
    assert not list(tmp_path.rglob("*.*"))  # plans leave nothing, and so do those of a sweep


@pytest.mark.parametrize(
    ("bug", "error"),
    [
        (lambda cfg: int("a bug"), ValueError),
        (lambda cfg: Path("a_bug").read_bytes(), FileNotFoundError),
        (lambda cfg: cfg.a_bug, AttributeError),
    ],
)
def test_an_error_of_our_own_shows_where_it_was_raised(
    monkeypatch: pytest.MonkeyPatch, told: Told, bug: Callable[..., None], error: type[Exception]
) -> None:
    monkeypatch.setattr(plan, "build", bug)
    with pytest.raises(error, match=r"a.bug"):
        told()


def test_the_trace_is_shown_on_request(monkeypatch: pytest.MonkeyPatch, told: Told) -> None:
    monkeypatch.setattr(hydra_app, "FULL_TRACEBACK", True)
    with pytest.raises(ConfigError, match=r"model\.dropout=2"):
        told("model.dropout=2")


def test_a_reference_to_nothing_on_the_command_line_names_its_key(command: Told) -> None:
    check(command("data=synthetic", "seed=${foo}"), ("seed: Interpolation key 'foo' not found",))


def process(root: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "train.py"), *words]
    variables = {**os.environ, **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


def test_the_real_command_says_one_line_and_fails(root: Path) -> None:
    result = process(root, "data=synthetic", "quant.wieght.bits=3")
    assert result.returncode == 1
    assert result.stdout == ""
    check(result.stderr, ("quant.wieght",))


def test_a_command_that_fails_with_all_libraries_loaded_says_one_line(tmp_path: Path) -> None:
    words = ("data=synthetic", "quant.weight.bits=33", f"hydra.run.dir={tmp_path / 'run'}")
    ended = start_forked(tmp_path / "log", "train.py", *words)
    assert ended.code == 1
    check(ended.output, ("quant.weight",))


def test_the_real_command_shows_its_trace_on_request(root: Path) -> None:
    result = process(root, "quant.wieght.bits=3", HYDRA_FULL_ERROR="1")
    assert result.returncode == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert "Key 'wieght' not in 'QuantConfig'" in result.stderr


@pytest.mark.parametrize("words", [("--help",), ("--cfg", "job")])
def test_help_and_configuration_are_shown_without_torch(root: Path, words: tuple[str, ...]) -> None:
    result = process(root, *words, PYTHONPROFILEIMPORTTIME="1")
    assert result.returncode == 0
    assert "| torch\n" not in result.stderr
    assert "\x1b" not in result.stdout
    shown = "quant/weight" if words == ("--help",) else "quantize_epochs:"
    assert shown in result.stdout
    assert len(result.stdout.splitlines()) < (30 if words == ("--help",) else 200)


@pytest.mark.parametrize(
    ("words", "script"),
    [
        (("mode=plan", "quant.weight.bits=33"), "train.py"),
        (("quant.weight.bits=33",), "train.py"),
        (("epochs=3",), "train.py"),
        (("target=c", "model.dropout=2"), "train.py"),
        (("run=nowhere",), "test.py"),
        (("resume=nowhere",), "train.py"),
        (("quant.weight.bits=33", "hydra.run.dir=mine/run"), "train.py"),
    ],
)
def test_mistakes_leave_no_folders(
    command: Told, tmp_path: Path, words: tuple[str, ...], script: str
) -> None:
    check(command(*words, *(TINY if script == "train.py" else ()), script=script), ())
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_folder_writes_nothing_into_the_current_one(command: Told) -> None:
    for word in ("hydra.run.dir=", 'hydra.run.dir=""', "hydra.run.dir=''"):
        check(command("data=synthetic", word), ("hydra.run.dir='' is wrong. Accepted: the path",))
    assert list(Path().iterdir()) == []
