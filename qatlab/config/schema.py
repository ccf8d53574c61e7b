"""The schema of the configuration, and its resolvers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import MISSING, DictConfig, OmegaConf

from qatlab.config.folders import job_folder, override_list
from qatlab.config.places import own_targets
from qatlab.config.trust import check_stored
from qatlab.errors import ConfigError, wrong
from qatlab.errors.arguments import check_numbers
from qatlab.results.conditions import check_unchanged
from qatlab.results.record import CONFIG, check_run
from qatlab.system.files import read_yaml_mapping

LARGEST = 1 << 20  # bytes of the configuration of a run
LONGEST_NAME = 200  # bytes, of the folder of a job; file systems take 255
LONGEST_SWEEP_NAME = 80  # bytes, of the folder of a sweep, before its hash
# Of Hydra's own words, those that jobs depend on; how many trials of a search is no other search.
OF_SWEEPER = re.compile(
    r"hydra(/sweeper=(?!basic$)|\.sweeper\.(?!n_trials=|batch_size=|max_batch))"
)
HERE = "\x00"  # stands for the run's folder while paths are made relative to it


@dataclass
class QuantConfig:
    """``quant``: the two quantizers, null for float, and the rules by name, null for none.

    And whether there are sites in front of functions; runs of older versions do not say.
    """

    weight: Any = MISSING
    activation: Any = MISSING
    inputs_of_functions: Any = None  # true, false or null
    one_step_for_sums: bool = False
    rules: dict[str, Any] | None = field(default_factory=dict)


@dataclass
class ScheduleConfig:
    """``schedule``: epochs of each phase."""

    first_epochs: int | None = None  # those before quantization; the next two refer to it
    float_epochs: int = MISSING
    clamp_epochs: int = MISSING
    quantize_epochs: int = MISSING
    falling_bits: Any = None  # of phases before, a list
    falling_epochs: int = 4
    calibration_batches: int = MISSING


@dataclass
class SweepConfig:
    """``sweep``: what holds for all jobs of a sweep."""

    name: str | None = None
    fail_fast: Any = MISSING
    cache: str | None = MISSING


@dataclass
class TrainConfig:
    """What ``train.py`` accepts. Groups that others own are checked when they are made."""

    model: dict[str, Any] = MISSING
    data: dict[str, Any] = MISSING
    quant: QuantConfig = field(default_factory=QuantConfig)
    solver: dict[str, Any] = MISSING
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: dict[str, Any] = MISSING
    trainer: dict[str, Any] = MISSING
    logger: Any = MISSING
    callbacks: Any = MISSING
    name: str = MISSING
    seed: int = MISSING
    mode: str = MISSING
    sweep: SweepConfig = field(default_factory=SweepConfig)
    compile: Any = MISSING  # true or false, as OmegaConf would take any number for that
    channels_last: Any = MISSING
    memory: str = MISSING
    mixup: float = MISSING
    distill: Any = None
    target: Any = None
    rules: str | None = None
    allow: Any = None
    init_weights: str | None = None
    resume: str | None = None
    folder: str = MISSING


@dataclass
class TestConfig(TrainConfig):
    """What ``test.py`` accepts."""

    __test__ = False  # pytest: this is no test

    # It is merged over what an experiment says; what is missing here leaves that as it is.
    init_weights: str | None = MISSING
    resume: str | None = MISSING
    run: str | None = None
    checkpoint: str = MISSING
    save_outputs: str | None = None


def portable_yaml(cfg: DictConfig) -> str:
    """Return the resolved configuration, with paths into the run's folder left as ``${folder}``."""
    cfg = cfg.copy()
    cfg.folder = HERE
    content = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(content, dict)
    return OmegaConf.to_yaml({**_escaped(content), "folder": "."})


def _escaped(value: Any) -> Any:
    """Return a value whose texts are read back as they are, but for the run's folder."""
    if isinstance(value, str):
        return value.replace("${", "\\${").replace(HERE, "${folder}")
    if isinstance(value, dict):
        return {key: _escaped(inner) for key, inner in value.items()}
    return [_escaped(inner) for inner in value] if isinstance(value, list) else value


def stored_config(
    run: Path, allow: Any = None, trained: bool = False, called: Collection[str] | None = None
) -> DictConfig:
    """Read the configuration of a run; paths inside follow a folder that was moved.

    Args:
        run: its folder.
        allow: names of packages whose code it may call beside that which ``./conf`` of the
            current folder names, see :mod:`qatlab.config.trust`.
        trained: its weights are used as they are, which takes what they were trained with.
        called: the groups that objects are made of; by default all.

    Raises:
        ConfigError: if the folder holds no run, or names code that is not allowed; for a trained
            one, if the configuration is not the one that it was trained with.
    """
    check_run(run)
    file = run / CONFIG
    read_yaml_mapping(file, LARGEST)  # within bounds; OmegaConf reads numbers such as 1e-3 better
    stored = OmegaConf.load(file)
    content: Any = OmegaConf.to_container(stored)
    check_stored(file, content, allowed_names(allow), called, own_targets(run))
    if trained:
        check_unchanged(run)
    cfg = OmegaConf.merge(OmegaConf.structured(TrainConfig), stored)
    cfg.folder = str(run)
    assert isinstance(cfg, DictConfig)
    return cfg


def append_rules(cfg: DictConfig) -> None:
    """Put the rules of the file that ``rules`` names behind those of ``quant``, for good.

    Raises:
        ConfigError: if it cannot be read, or is no mapping of rules.
    """
    if cfg.get("rules") is None:
        return
    path = Path(cfg.rules)
    found = _escaped(read_yaml_mapping(path, LARGEST))  # nothing in it refers to anything
    for name, rule in found.items():
        if not isinstance(rule, dict):
            raise ConfigError(
                f"rules={path}: {name} is no rule. Accepted: a mapping, such as "
                "{name: conv1, weight: {bits: 4}}."
            )
    before = OmegaConf.to_container(cfg.quant.rules or OmegaConf.create())
    assert isinstance(before, dict)
    kept = {name: rule for name, rule in before.items() if name not in found}
    cfg.quant.rules = {**kept, **found}
    cfg.rules = None  # what the run writes down is whole without the file


def allowed_names(allow: Any) -> list[Any]:
    """Return the packages of ``allow``, which may be null, a name or a list of names."""
    if allow is None:
        return []
    return [allow] if isinstance(allow, str) else list(allow)


def clear_initial_weights(cfg: DictConfig) -> None:
    """Start from no weights but those of a checkpoint, so that the files of others may be gone."""
    cfg.init_weights = None
    if "weights" in cfg.model:
        cfg.model.weights = None


def apply_given(
    given: DictConfig,
    stored: DictConfig,
    source: str,
    changeable: tuple[str, ...],
    also: tuple[str, ...] = (),
) -> None:
    """Change the configuration of a run as the command line of this job says.

    Args:
        given: configuration of this job.
        stored: configuration of the run, which is changed.
        source: the key that names the run.
        changeable: keys, or patterns of keys, of the run that may be changed.
        also: other keys that this job reads itself.

    Raises:
        ConfigError: for any other key given, which would have no effect.
    """
    if not HydraConfig.initialized():
        return  # called from Python, without a command line
    overrides = OverridesParser.create().parse_overrides(
        override_list(HydraConfig.get().overrides.task)
    )
    for override in overrides:
        key = override.key_or_group
        if key == source or key in also:
            continue
        if override.is_delete() or not any(fnmatchcase(key, accepted) for accepted in changeable):
            raise ConfigError(
                f"{override.input_line} cannot be combined with {source}=, which takes all "
                f"settings from the run. Accepted: {', '.join((*also, *changeable))}."
            )
        OmegaConf.update(stored, key, OmegaConf.select(given, key), force_add=True)


def job_name(overrides: str) -> str:
    """Return the name of a job's folder: its overrides, as far as a file system takes them.

    Of too long ones the keys lose the front parts that do not tell them apart, and the end is left
    out; a hash tells apart what then looks the same.
    """
    name = overrides.replace("/", "_")
    if len(name.encode()) <= LONGEST_NAME:
        return name
    key = re.compile(r"(?:(?<=^)|(?<=,))[\w@]+(?:\.[\w@]+)*(?==)")
    brief = key.sub(lambda found: _end(found[0], set(key.findall(name))), name)
    digest = hashlib.sha256(overrides.encode()).hexdigest()[:12]
    return f"{brief.encode()[:LONGEST_NAME].decode(errors='ignore')},{digest}"


def sweep_name(given: str | None) -> str:
    """Return the name of a sweep's folder, which tells it apart from other sweeps.

    It is made of what is swept, and of a hash of all words that the jobs depend on, in any order.
    So the same command finds its folder again, with other launchers and more trials, too.

    Args:
        given: the user's own name; null for one that is made.
    """
    if given is not None or not HydraConfig.initialized():
        return given or "sweep"
    hydra = HydraConfig.get()
    words = [word for word in override_list(hydra.overrides.task) if not word.startswith("sweep.")]
    sweeper = [word for word in override_list(hydra.overrides.hydra) if OF_SWEEPER.match(word)]
    loader = GlobalHydra.instance().config_loader()
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(words)
    swept = list(dict.fromkeys(o.key_or_group for o in parsed if o.is_sweep_override()))
    chosen = [hydra.runtime.choices.get(group) for group in ("experiment", "model")]
    named = [str(x) for x in chosen if x and not {"experiment", "model"} & set(swept)][:1]
    ends = [_end(key, set(swept)).replace("/", "-").lstrip("+~") for key in swept]
    digest = hashlib.sha256("\n".join(sorted(words) + sorted(sweeper)).encode()).hexdigest()[:6]
    name = "_".join([*named, *ends]).encode()[:LONGEST_SWEEP_NAME].decode(errors="ignore")
    return f"{name}_{digest}"


def _end(key: str, keys: set[str]) -> str:
    """Return the shortest end of a dotted key that no other one has."""
    end = key.rpartition(".")[2]
    while end != key and sum(f".{other}".endswith(f".{end}") for other in keys) > 1:
        end = ".".join(key.split(".")[-end.count(".") - 2 :])
    return end


def in_sweep() -> bool:
    """Tell whether this is one of several jobs that a single process runs."""
    return HydraConfig.initialized() and not OmegaConf.is_missing(HydraConfig.get().job, "num")


def required(key: str, what: str) -> None:
    """Stand for a value that the command line has to give; null would be taken as one.

    Raises:
        ConfigError: whenever it is read.
    """
    raise ConfigError(f"{key} has no value; give {key}=<{what}>.")


def check(cfg: DictConfig) -> None:
    """Raise for what has no effect or no value.

    Raises:
        ConfigError: for a group chosen in vain, see :func:`_check_choices`, and for values that
            nothing can be done with; OmegaConf's own error for a key that was added with ``+`` and
            nobody reads, and for a missing value.
    """
    _check_choices()
    schema = OmegaConf.structured(OmegaConf.get_type(cfg))
    for key in schema:
        if key not in cfg:
            raise ConfigError(f"{key} has no value; give {key}=<value>.")
    OmegaConf.merge(schema, OmegaConf.to_container(cfg))
    for name in cfg:
        if not OmegaConf.is_config(cfg._get_node(name)):
            _ = cfg[name]  # in front of the groups, which refer to it and would be blamed
    for key in ("compile", "channels_last", "sweep.fail_fast"):
        if type(value := OmegaConf.select(cfg, key)) is not bool:
            raise wrong(key, value, "true or false")
    check_numbers("", OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True))


def _check_choices() -> None:
    """Raise for a part of options that was chosen as one, and for a folder without a name.

    Also for a group on the command line that an experiment's own nodes would hide.

    What stands in an experiment is merged over the groups. One that says a ``_target_`` itself, as
    imported ones do, would keep it, whatever option is chosen.
    """
    if not HydraConfig.initialized():
        return
    config = HydraConfig.get()
    for override in OverridesParser.create().parse_overrides(override_list(config.overrides.hydra)):
        key = override.key_or_group
        if key in ("hydra.run.dir", "hydra.sweep.dir") and not override.value():
            raise wrong(key, "", "the path of a folder")
    given = OverridesParser.create().parse_overrides(override_list(config.overrides.task))
    for override in given:
        group, option = override.key_or_group, override.value()
        for part in option if isinstance(option, list) else [option]:
            if group in config.runtime.choices and str(part).startswith("_"):
                raise wrong(group, part, options_of(group))
    experiment = config.runtime.choices.get("experiment")
    files = [
        Path(s.path) / "experiment" / f"{experiment}.yaml" for s in config.runtime.config_sources
    ]
    found = [file for file in files if file.is_file()]
    if not found:
        return
    content = OmegaConf.load(found[0])
    for override in given:
        group = override.key_or_group
        node = OmegaConf.select(content, group) if group in config.runtime.choices else None
        if group == "experiment" or not isinstance(node, DictConfig):
            continue
        inner = [str(key) for key, value in node.items() if isinstance(value, DictConfig)]
        own = [group] if "_target_" in node else []
        own += [f"{group}.{key}" for key in inner if "_target_" in node[key]]
        if own:
            float_network = "quant.weight=null quant.activation=null quant.rules=null, "
            raise ConfigError(
                f"{override.input_line} has no effect: experiment={experiment} has its own "
                f"{' and '.join(own)}; give single keys, such as "
                f"{float_network if group == 'quant' else ''}{own[0]}.<key>=<value>, or take "
                f"'{group}:' out of {found[0].name}."
            )


def options_of(group: str) -> list[str]:
    """Return the options of a group; names with ``_`` are parts of others."""
    options = GlobalHydra.instance().config_loader().get_group_options(group)
    return [option for option in options if not option.startswith("_")]


def groups() -> str:
    """Return the groups with their options, a line each."""
    loader = GlobalHydra.instance().config_loader()
    names = [name for name in loader.list_groups("") if name != "hydra"]
    lines = []
    for name in names:
        lines.append(f"  {name:<17} {', '.join(options_of(name))}")
        names += [f"{name}/{inner}" for inner in loader.list_groups(name)]
    return "\n".join(sorted(lines))


def _falling(bits: Any, epochs: Any) -> int:
    """Return the epochs of all phases of falling bits; what is no list is refused later."""
    return len(bits) * epochs if isinstance(bits, Sequence) and not isinstance(bits, str) else 0


def _gpus_of_node(accelerator: str, devices: object) -> object:
    """Return how many GPUs a task of a cluster takes: none if the trainer is to use none."""
    return None if accelerator == "cpu" else devices


def _first(given: Any, otherwise: Any) -> Any:
    """Return a value, or another one where it is null."""
    return otherwise if given is None else given


def register() -> None:
    """Make the schema and the resolvers known to Hydra; to be called before it composes."""
    store = ConfigStore.instance()
    store.store(name="schema", node=TrainConfig)
    store.store(name="test_schema", node=TestConfig)
    OmegaConf.register_new_resolver("qatlab.add", lambda *numbers: sum(numbers), replace=True)
    OmegaConf.register_new_resolver("qatlab.falling", _falling, replace=True)
    OmegaConf.register_new_resolver("qatlab.gpus", _gpus_of_node, replace=True)
    OmegaConf.register_new_resolver("qatlab.first", _first, replace=True)
    OmegaConf.register_new_resolver("qatlab.job_folder", job_folder, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("qatlab.job_name", job_name, replace=True)
    # With a cache, which jobs take over: their own words are others.
    OmegaConf.register_new_resolver("qatlab.sweep_name", sweep_name, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("qatlab.required", required, replace=True)
    OmegaConf.register_new_resolver("qatlab.groups", groups, replace=True)
