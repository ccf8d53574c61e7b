"""Every YAML under conf/ composes, resolves and fits what it configures."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from functools import cache
from itertools import cycle, islice
from pathlib import Path

import pytest
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from qatlab import config
from qatlab.config.targets import TARGET, check_node
from qatlab.errors import ConfigError
from qatlab.quant import Phase
from qatlab.run.build import build

CONF = Path(__file__).parents[2] / "conf"
FILES = sorted(path.relative_to(CONF).with_suffix("") for path in CONF.rglob("*.yaml"))
FILES = [file for file in FILES if file.parts[0] != "hydra"]  # no groups of ours
OPTIONS = [f for f in FILES if f.parent != Path() and not f.name.startswith("_")]
PARTS = [f for f in FILES if f.name.startswith("_")]
PRESETS = [f.name for f in OPTIONS if str(f.parent) == "quant"]
QUANTIZED = [name for name in PRESETS if name != "none"]
# What the command line has to give: of a layer graph, all its layers (an experiment does).
LIBRARIES = {"torchvision": "mobilenet_v2", "timm": "mobilenetv2_050"}
MODELS = [
    f.name
    for f in OPTIONS
    if str(f.parent) == "model" and f.name not in {"layer_graph", *LIBRARIES}
]


def together() -> list[tuple[str, ...]]:
    """Return what to compose: an experiment alone; of other groups an option of each at once.

    Groups inside groups are for themselves, as options of the outer group may do without them.
    """
    groups: dict[str, list[str]] = {}
    for file in OPTIONS:
        groups.setdefault(str(file.parent), []).append(f"{file.parent}={file.name}")
    alone = [(option,) for option in groups.pop("experiment")]
    inner = [of for group, of in groups.items() if "/" in group]
    outer = [of for group, of in groups.items() if "/" not in group]
    return [*alone, *_side_by_side(inner), *_side_by_side(outer)]


def _side_by_side(groups: list[list[str]]) -> Iterator[tuple[str, ...]]:
    count = max(map(len, groups))
    return zip(*(islice(cycle(group), count) for group in groups), strict=True)


def with_hydra(*overrides: str, name: str = "config") -> DictConfig:
    words = ["hydra.runtime.output_dir=run", *overrides]
    return compose(name, overrides=words, return_hydra_config=True)


@cache
def _composed(name: str, overrides: tuple[str, ...]) -> tuple[DictConfig, DictConfig | None]:
    """Return a configuration without and with nothing but its part ``hydra``."""
    cfg = with_hydra(*overrides, name=name)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg, HydraConfig.instance().cfg


def composed(*overrides: str, name: str = "config") -> DictConfig:
    """Return the configuration as a command gets it."""
    cfg, HydraConfig.instance().cfg = _composed(name, overrides)
    return copy.deepcopy(cfg)


def with_groups(cfg: DictConfig, *overrides: str) -> DictConfig:
    """Put groups of another composition in; composing takes longer than what is tested."""
    other = composed(*overrides)
    for word in overrides:
        group = word.partition("=")[0]
        if group in other:
            cfg[group] = other[group]
    return cfg


def check_targets(node: DictConfig, key: str = "") -> int:
    """Locate all targets and check their arguments; return how many there are."""
    if TARGET in node:
        check_node(key, node)
        return 1
    children = [(k, child) for k, child in node.items() if isinstance(child, DictConfig)]
    return sum(check_targets(child, f"{key}.{k}".lstrip(".")) for k, child in children)


@pytest.mark.parametrize("options", together(), ids=" ".join)
def test_every_option_composes_resolves_and_finds_its_targets(options: tuple[str, ...]) -> None:
    model = next((o for o in options if o.startswith("model=")), "").removeprefix("model=")
    named = [f"model.name={LIBRARIES[model]}"] if model in LIBRARIES else []
    cfg = composed(*options, *named)
    chosen = HydraConfig.get().runtime.choices
    assert dict(option.split("=") for option in options).items() <= chosen.items()
    if options[0].startswith("experiment="):
        cfg.init_weights = "file"  # which some demand
    config.check(cfg)
    assert check_targets(cfg) >= 6  # model, data, two quantizers, solver, trainer, logger, ...


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_every_part_is_used_by_what_lies_beside_it(part: Path) -> None:
    siblings = [OmegaConf.load(file) for file in (CONF / part).parent.glob("*.yaml")]
    assert any(part.name in sibling.get("defaults", ()) for sibling in siblings)


def test_there_are_no_other_files_than_those_tested_here() -> None:
    assert [str(f) for f in FILES if f.parent == Path()] == ["config", "test"]
    assert len(FILES) == len(OPTIONS) + len(PARTS) + 2


def test_the_configuration_of_a_test_composes() -> None:
    cfg = composed(name="test")
    config.check(cfg)
    assert {"run", "checkpoint", "save_outputs"} <= set(cfg)


@pytest.mark.parametrize("name", [f.name for f in OPTIONS if str(f.parent) == "experiment"])
def test_what_an_experiment_says_holds(name: str) -> None:
    said = OmegaConf.load(CONF / f"experiment/{name}.yaml")
    assert isinstance(said, DictConfig)
    defaults = said.pop("defaults")
    choices = [next(iter(e.items())) for e in defaults if isinstance(e, DictConfig)]
    cfg = composed(f"experiment={name}")
    for group, option in choices:
        assert HydraConfig.get().runtime.choices[group.removeprefix("override /")] == option
    assert OmegaConf.merge(cfg, said) == cfg


@pytest.mark.parametrize(
    ("preset", "model"),
    # Each on one network, and each network with one; those of the manual with LSQ, too.
    [(preset, "lenet") for preset in PRESETS]
    + [
        # These three are longer than one that is here.
        pytest.param("sat_4bit", model, marks=pytest.mark.slow)
        if model in {"resnet32", "resnet34", "resnet56"}
        else ("sat_4bit", model)
        for model in MODELS
    ]
    + [("lsq_2bit", "mobilenet_v1")]
    + [pytest.param("lsq_2bit", m, marks=pytest.mark.slow) for m in ("mobilenet_v2", "resnet18")],
)
def test_every_preset_builds_on_every_model(preset: str, model: str) -> None:
    loss = "reconstruction" if model == "autoencoder" else "cross_entropy"
    groups = ("data=synthetic", f"model={model}", f"loss={loss}")
    built = build(with_groups(composed(f"quant={preset}"), *groups))
    weights = [layer for layer in built.table.layers if layer.part == "weight"]
    if preset == "none":
        assert {layer.bits for layer in built.table.layers} == {None}
    else:
        bits = int(re.findall(r"(\d+)bit", preset)[0])  # what its name promises
        assert {layer.bits for layer in weights[1:-1]} == {bits}
        assert [weights[0].bits, weights[-1].bits] == [8, 8]
        sites = [layer for layer in built.table.layers if layer.part == "activation"]
        assert {layer.bits for layer in sites} == {bits}


@pytest.mark.parametrize("preset", PRESETS)
def test_one_solver_by_parameter_serves_every_preset(preset: str) -> None:
    learned = "+solver.groups.learned={parameters: ['*.alpha', '*.step_size', '*.offset'], lr: 0.1}"
    groups = ("data=synthetic", "solver=by_parameter", learned)
    built = build(with_groups(composed(f"quant={preset}"), *groups))
    groups = built.solver.build(built.model).param_groups
    learns = preset != "none" and not preset.startswith("dorefa")  # whose clip value is fixed
    assert [group["lr"] for group in groups] == [0.01, 0.1][: 1 + learns]


@pytest.mark.parametrize("preset", PRESETS)
def test_methods_without_a_clamp_phase_choose_a_schedule_without_one(preset: str) -> None:
    clamps = preset.startswith("sat") or preset == "none"
    chosen = "clamp_then_quantize" if clamps else "float_then_quantize"
    cfg = composed(f"quant={preset}")
    assert HydraConfig.get().runtime.choices.schedule == chosen
    assert cfg.schedule == OmegaConf.load(CONF / f"schedule/{chosen}.yaml")


@pytest.mark.parametrize(
    "words",
    [("quant=lsq_4bit", "schedule=quantize_only"), ("schedule=clamp_only", "quant=pact_2bit")],
)
def test_the_command_line_wins_over_the_schedule_of_a_preset(words: tuple[str, str]) -> None:
    cfg = composed(*words)
    (chosen,) = (word.removeprefix("schedule=") for word in words if "schedule" in word)
    assert HydraConfig.get().runtime.choices.schedule == chosen
    assert cfg.schedule == OmegaConf.load(CONF / f"schedule/{chosen}.yaml")


@pytest.mark.parametrize("preset", [name for name in QUANTIZED if name.startswith("pact")])
def test_the_clip_values_of_pact_decay_as_in_the_paper(preset: str) -> None:
    # Choi et al. 2018: L2 regularization of alpha, 2e-4 for CIFAR-10.
    built = build(with_groups(composed(f"quant={preset}"), "data=synthetic"))
    (group,) = (
        g for g in built.solver.build(built.model).param_groups if g["name"] == "quantizers"
    )
    assert group["weight_decay"] == 2e-4
    names = [n for n, p in built.model.named_parameters() if any(p is q for q in group["params"])]
    assert names
    assert all(name.endswith(".alpha") for name in names)
    other = composed(f"quant={preset}", "solver=sgd_step").solver  # the command line wins
    assert other.groups.quantizers.weight_decay is None


@pytest.mark.parametrize("preset", [name for name in QUANTIZED if name.endswith("_4bit")])
def test_a_preset_has_the_phases_of_its_schedule(preset: str) -> None:
    cfg = with_groups(composed(f"quant={preset}"), "data=synthetic")
    phases = [span.phase for span in build(cfg).schedule.phases]
    if preset.startswith("sat"):
        assert phases == [Phase.CLAMP, Phase.QUANTIZE]
        return
    assert phases == [Phase.FLOAT, Phase.QUANTIZE]
    cfg.schedule.clamp_epochs = 8
    told = r"^schedule\.clamp_epochs=8 cannot be combined with .* no clamp phase; choose schedule="
    with pytest.raises(ConfigError, match=told):
        build(cfg)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name.endswith(("_4bit", "none"))])
def test_first_epochs_are_those_of_the_phase_before_quantization(preset: str) -> None:
    words = (f"quant={preset}", "schedule.first_epochs=3", "schedule.quantize_epochs=2")
    cfg = with_groups(composed(*words), "data=synthetic")
    before = Phase.CLAMP if preset.startswith("sat") else Phase.FLOAT
    spans = [(span.phase, span.epochs) for span in build(cfg).schedule.phases]
    assert spans == ([(before, 5)] if preset == "none" else [(before, 3), (Phase.QUANTIZE, 2)])
    assert cfg.trainer.max_epochs == 5


@pytest.mark.parametrize("schedule", ["sat", "lsq", "clamp_only"])
def test_recipes_and_experiments_take_other_first_epochs(schedule: str) -> None:
    of = composed(f"schedule={schedule}", "schedule.first_epochs=3").schedule
    assert of.float_epochs + of.clamp_epochs == 3
    experiment = ("experiment=mlperf_tiny_ic", "quant=sat_4bit")
    assert composed(*experiment).schedule.clamp_epochs == 400
    assert composed(*experiment, "schedule.first_epochs=3").schedule.clamp_epochs == 3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("schedule.first_epochs=4", "schedule.clamp_epochs=3"),
            r"^schedule\.first_epochs=4 contradicts schedule\.float_epochs=0 and "
            r"schedule\.clamp_epochs=3: give only one of them",
        ),
        (("schedule=quantize_only", "schedule.first_epochs=4"), "choose a schedule with a phase"),
        (("schedule.first_epochs=-1",), r"^schedule\.first_epochs=-1 is wrong\. Accepted: a whole"),
    ],
)
def test_first_epochs_that_contradict_those_of_a_phase(words: tuple[str, ...], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build(with_groups(composed("quant=sat_4bit", *words), "data=synthetic"))


@pytest.mark.parametrize("preset", QUANTIZED)
def test_a_sweep_over_presets_composes_with_the_keys_they_share(preset: str) -> None:
    keys = [f"{part}.{k}" for part in ("weight", "activation") for k in ("bits", "n_steps")]
    keys += [f"rules.{rule}.weight.bits" for rule in ("first", "last")]
    cfg = composed(f"quant={preset}")
    for key in keys:
        OmegaConf.update(cfg.quant, key, 3)  # an error where there is no such key
    assert all(OmegaConf.select(cfg.quant, key) == 3 for key in keys)


def test_presets_of_one_method_have_the_same_keys() -> None:
    def keys(node: DictConfig) -> set[str]:
        inner = {k: keys(v) for k, v in node.items() if isinstance(v, DictConfig)}
        return {str(k) for k in node} | {f"{k}.{x}" for k, found in inner.items() for x in found}

    methods: dict[str, list[set[str]]] = {}
    for preset in QUANTIZED:
        quant = composed(f"quant={preset}").quant
        methods.setdefault(quant.weight[TARGET] + quant.activation[TARGET], []).append(keys(quant))
    for found in methods.values():
        assert all(other == found[0] for other in found)


def test_a_slurm_job_gets_a_task_for_each_process() -> None:
    words = ("hydra/launcher=slurm", "trainer=ddp", "trainer.devices=4", "trainer.num_nodes=3")
    launcher = with_hydra(*words).hydra.launcher
    assert launcher._target_.endswith("SlurmLauncher")
    assert (launcher.nodes, launcher.tasks_per_node, launcher.gpus_per_node) == (3, 4, 4)


@pytest.mark.parametrize("name", ["config", "test"])
def test_the_help_names_every_option_and_no_part(name: str) -> None:
    text = with_hydra(name=name).hydra.help.template
    lines = {line.split()[0]: line for line in text.splitlines() if line}
    for option in OPTIONS:
        assert re.search(rf"\b{option.name}\b", lines[str(option.parent)])
    assert not {part.name for part in PARTS} & {*re.findall(r"\w+", text)}
