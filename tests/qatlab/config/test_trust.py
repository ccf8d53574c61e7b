"""What the folder of a run may call."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from qatlab import config
from qatlab.config.places import own_targets
from qatlab.config.trust import foreign
from qatlab.errors import ConfigError

HOSTILE: dict[str, Any] = {
    "a pickle by position": {"_target_": "joblib.load", "_args_": ["x.pkl"]},
    "a pickle by name": {"_target_": "torch.load", "f": "x.pt", "weights_only": False},
    "a command": {"_target_": "os.system", "command": "touch pwned"},
    "a command by another name": {"_target_": "posix.system", "command": "touch pwned"},
    "a process": {"_target_": "subprocess.Popen", "args": ["touch", "pwned"]},
    "Python": {"_target_": "builtins.eval", "expression": "1"},
    "a checkpoint of Lightning": {
        "_target_": "pytorch_lightning.LightningModule.load_from_checkpoint",
        "checkpoint_path": "x.ckpt",
        "weights_only": False,
    },
    "a command line": {"_target_": "pytorch_lightning.cli.LightningCLI", "args": ["fit"]},
    "a module inside of another": {"_target_": "torch.optim.sgd.torch.load", "f": "x.pt"},
    "numpy inside of ours": {"_target_": "qatlab.data.images.np.load", "file": "x.npy"},
    "our own compiler": {
        "_target_": "qatlab.system.native.compiled",
        "source": "x.cpp",
        "flags": [],
    },
    "our own writer": {"_target_": "qatlab.system.files.write_text", "path": "pwned", "text": ""},
    "a function of a room": {"_target_": "qatlab.training.torch_files.read", "path": "x"},
    "torch.hub": {"_target_": "torch.hub.load", "repo_or_dir": ".", "model": "evil"},
    "a module beside": {"_target_": "evil.Net"},
    "a partial": {"_target_": "functools.partial", "_args_": ["os.system", "touch pwned"]},
    "a name that is none": {"_target_": "os;system"},
    "a name that is a list": {"_target_": ["os", "system"]},
    "deeper": [{"a": [{"b": {"_target_": "shutil.rmtree", "path": "/"}}]}],
    "the environment": "${oc.env:HOME}",
    "a resolver": "x${oc.decode:'1'}",
    "a reference that is computed": "${${oc.env:HOME}}",
    "an escaped backslash": "\\\\${oc.env:HOME}",
    "a reference": "${seed}",
    "a method": {"_target_": "torchvision.models._api.WeightsEnum.get_state_dict"},
    "a class beside networks": {"_target_": "torchvision.models._api.Weights", "url": "x"},
    "a constructor": {"_target_": "torchvision.models.resnet.ResNet.__init__"},
    "a profiler": {"_target_": "pytorch_lightning.profilers.SimpleProfiler", "dirpath": "/"},
    "a network for segmentation": {"_target_": "torchvision.models.segmentation.fcn_resnet50"},
    "operators of torch": {"_target_": "torch.classes.foo.Bar"},
    "a partial that is a list": {"_target_": "torch.nn.ReLU", "_partial_": [1]},
    "a target by reference": {"_target_": "${seed}"},
}


def store(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"folder": ".", "seed": 1, **changes}))
    return folder


@pytest.mark.parametrize("node", HOSTILE.values(), ids=HOSTILE)
def test_stored_configurations_call_nothing_but_what_a_run_is_made_of(
    node: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "evil.py").write_text("open('pwned', 'w')\nclass Net: pass\n")
    config.register()
    store(tmp_path / "run", model={"_target_": "qatlab.models.LeNet", "a": {"size": node}})
    with pytest.raises(ConfigError, match=r"run/config\.yaml: model\.a\.size.* (is|holds|in) "):
        config.stored_config(tmp_path / "run")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "text", ["a: !!python/object/apply:os.system ['touch pwned']", "a: !!python/name:os.system"]
)
def test_tags_of_python_are_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml: tag:yaml.*is not a plain value"):
        config.stored_config(tmp_path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "target",
    [
        *("qatlab.models.LeNet", "qatlab.models.torchvision_model", "qatlab.data.Mnist"),
        *("qatlab.quant.SatWeight", "qatlab.training.lr_policy.cosine", "torch.optim.SGD"),
        *("torchvision.transforms.v2.ColorJitter", "torchvision.transforms.ToTensor"),
        *("torchvision.models.resnet18", "torch.nn.CrossEntropyLoss", "pytorch_lightning.Trainer"),
        *("pytorch_lightning.callbacks.LearningRateMonitor", "torchmetrics.Accuracy"),
        *(
            "pytorch_lightning.loggers.TensorBoardLogger",
            "pytorch_lightning.strategies.DDPStrategy",
        ),
        *(
            "pytorch_lightning.plugins.environments.SLURMEnvironment",
            "torch.optim.lr_scheduler.StepLR",
        ),
    ],
)
def test_what_runs_are_made_of_is_accepted(target: str, tmp_path: Path) -> None:
    config.register()
    stored = config.stored_config(store(tmp_path, model={"_target_": target, "inner": "\\${x:y}"}))
    assert stored.model["_target_"] == target
    assert stored.model.inner == "${x:y}"


def test_each_target_of_the_configurations_here_is_accepted(root: Path) -> None:
    for file in sorted((root / "conf").rglob("*.yaml")):
        if "hydra" not in file.parts and "hydra" not in file.read_text():
            found = set(foreign(yaml.safe_load(file.read_text())))
            assert found <= {"optuna"}, file


def test_the_users_own_code_is_called_once_it_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_net.py").write_text(
        "import os\nimport torch\nclass Net(torch.nn.Linear): pass\ndef net(): return Net(1, 1)\n"
    )
    config.register()
    run = store(tmp_path / "run", model={"_target_": "own_net.Net"})
    with pytest.raises(ConfigError, match=r"if you trust the code of own_net, add allow=own_net\."):
        config.stored_config(run)
    assert config.stored_config(run, "own_net").model["_target_"] == "own_net.Net"
    store(run, model={"_target_": "own_net.net"})
    assert config.stored_config(run, ["other", "own_net"]).model["_target_"] == "own_net.net"
    store(run, model={"_target_": "own_net.os.system"})
    with pytest.raises(ConfigError, match="is code of posix"):
        config.stored_config(run, ["own_net"])
    with pytest.raises(ConfigError, match=r"allow=own net is wrong\. Accepted: names of packages"):
        config.stored_config(run, ["own net"])


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of the user, who stands in it: `project_net.Net` is in its conf, `Other` is not."""
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/net.yaml").write_text("_target_: project_net.Net\n")
    (tmp_path / "project_net.py").write_text(
        "import torch\nopen('imported', 'w')\nclass Net(torch.nn.Linear): pass\nclass Other: pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    monkeypatch.delitem(sys.modules, "project_net", raising=False)
    config.register()
    return tmp_path


def test_what_the_users_conf_names_needs_no_allow(project: Path) -> None:
    run = store(project / "run", model={"_target_": "project_net.Net"})
    assert own_targets() == {"project_net.Net"}
    assert not (project / "imported").exists()  # known before anything is imported
    assert config.stored_config(run).model["_target_"] == "project_net.Net"
    store(run, model={"_target_": "project_net.Other"})
    with pytest.raises(ConfigError, match=r"add allow=project_net\."):
        config.stored_config(run)


def test_a_run_folder_with_a_project_inside_allows_itself_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(project, model={"_target_": "project_net.Net"})  # the project is a part of the run
    for run in (Path(), project):
        with pytest.raises(ConfigError, match="is refused"):
            config.stored_config(run)
    (project / "inner").mkdir()
    (project / "conf").rename(project / "inner/conf")
    (project / "project_net.py").rename(project / "inner/project_net.py")
    monkeypatch.chdir("inner")
    with pytest.raises(ConfigError, match="is refused"):
        config.stored_config(Path(".."))
    assert not list(project.rglob("imported"))


def test_code_from_elsewhere_is_not_the_projects(project: Path, tmp_path: Path) -> None:
    (project / "conf/model/other.yaml").write_text("a: [{_target_: shutil.rmtree}]\n")
    (project / "conf/model/broken.yaml").write_text("_target_: &x project_net.Other\nb: *x\n")
    (project / "conf/model/none.yaml").write_text("_target_: not_there.Net\n")
    installed = project / ".venv/installed_net.py"
    installed.parent.mkdir()
    installed.write_text("class Net: pass\n")
    sys.path.append(str(installed.parent))
    (project / "conf/model/installed.yaml").write_text("_target_: installed_net.Net\n")
    assert own_targets() == {"project_net.Net"}
    sys.path.remove(str(installed.parent))
    (project / "conf").rename(project / "conf_of_old")
    assert own_targets() == set()


def test_what_has_to_be_allowed_is_found() -> None:
    content = {
        "model": {"_target_": "own.Net"},
        "a": [{"_target_": "torch.nn.ReLU"}, {"_target_": "x.Y"}],
    }
    assert foreign(content) == ["own", "x"]
    assert foreign(content, {"own.Net"}) == ["x"]
