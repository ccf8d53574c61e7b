"""What a user reads of a mistake: one sentence, also where Hydra or OmegaConf has many lines."""

from __future__ import annotations

import errno
import os
import re
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)
from yaml import YAMLError

from qatlab.config.places import CONF, PROJECT, project_conf
from qatlab.errors import QatlabError, did_you_mean, unknown, wrong
from qatlab.system.files import final

# What a disk or its owner can refuse at any time; no mistake of the program looks like these.
REFUSALS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.EPIPE),
}
NO_MEMORY = re.compile(
    r"^(?:torch\.)?(?:MemoryError|OutOfMemoryError)"
    r"|can't allocate memory:|Storage size calculation overflowed"
)
LIGHTNINGS = "MisconfigurationException"  # about arguments of its trainer
NO_JOBS = "n_jobs == 0 in Parallel has no meaning"  # joblib's words
CANNOT_USE = "cannot use"
NO_PACKAGE = "its first line must be '# @package _global_'."  # of a file in conf/experiment/
NO_SLURM = "are you indeed on a slurm cluster"  # what the launcher of Slurm jobs asks
NO_PLUGIN = "Unknown plugin class : "
CONNECTION_LOST = re.compile(  # torch's words
    r"gloo.*Connection (closed|reset)|DistBackendError", re.DOTALL
)
# Options of other packages, and our presets that are made of them: named as the extra.
LAUNCHERS = {"hydra/launcher/submitit_slurm": "slurm", "hydra/launcher/joblib": "parallel"}
# What other programs call our settings; names that end a key of ours are found without a table.
ELSEWHERE = {
    **dict.fromkeys(
        ("epochs", "max_epochs", "num_epochs", "n_epochs"),
        "schedule.quantize_epochs, and schedule.first_epochs before quantization",
    ),
    **dict.fromkeys(("learning_rate", "base_lr"), "solver.optimizer.lr"),
    **dict.fromkeys(("bs", "batch"), "data.batch_size"),
    **dict.fromkeys(("num_workers",), "data.workers"),
    **dict.fromkeys(("gpus", "num_gpus", "ngpus"), "trainer.devices"),
    **dict.fromkeys(("dataset", "data_dir", "root"), "data.source.folder"),
    **dict.fromkeys(
        ("bits", "nbits", "n_bits", "bit_width"), "quant.weight.bits and quant.activation.bits"
    ),
    **dict.fromkeys(("wbits", "w_bits", "weight_bits"), "quant.weight.bits"),
    **dict.fromkeys(("abits", "a_bits", "activation_bits"), "quant.activation.bits"),
    **dict.fromkeys(("method", "preset"), "quant"),
    **dict.fromkeys(("arch", "network"), "model"),
}
DEEPEST_KEY = 3  # parts of a key that stands for its last one
TYPES = {
    "Integer": "a whole number",
    "Float": "a number",
    **dict.fromkeys(("Boolean", "bool"), "true or false"),  # OmegaConf has two words for it
}


def sentence(error: BaseException, composing: bool = False) -> str | None:
    """Return what to tell the user, or None if the error is none of the user's.

    Args:
        error: what was raised.
        composing: the run has not begun; then all errors of values and files are the user's.
    """
    users = isinstance(error, (QatlabError, HydraException, OmegaConfBaseException, YAMLError))
    if isinstance(error, ConfigAttributeError) and not composing:
        users = False  # code has asked for a key that no configuration has
    if isinstance(error, OSError) and error.errno in REFUSALS:
        users = True
    if CONNECTION_LOST.search(repr(error)):
        return "another process of this run has ended; its own message says why."
    if composing and (
        isinstance(error, (OSError, ValueError))
        or any(words in str(error) for words in (NO_SLURM, NO_PLUGIN))
    ):
        users = True
    if NO_MEMORY.search(f"{type(error).__name__}: {error}"):
        return (
            "there is not enough memory; lower data.batch_size, data.eval_batch_size or "
            "data.image_size, or take a smaller network."
        )
    if type(error).__name__ == LIGHTNINGS:
        return f"trainer: {' '.join(str(error).split())}."
    if not users:
        return None
    words = _words(error)
    if composing and words.startswith(CANNOT_USE):
        words += " Choose another folder: hydra.run.dir=<folder>, or hydra.sweep.dir of a sweep."
    return " ".join(words.split())  # one line, whatever it quotes


def is_refusal(error: BaseException) -> bool:
    """Tell whether an error comes from a disk or its owner, in whatever words."""
    return any(isinstance(x, OSError) and x.errno in REFUSALS for x in _chain(error))


def _words(error: BaseException) -> str:
    chain = _chain(error)
    for cause in chain:
        if isinstance(cause, QatlabError):  # may be a resolver's, inside of OmegaConf's
            return str(cause)
    for cause in chain:
        missing = [name for path, name in LAUNCHERS.items() if f"{path}'" in str(cause)]
        if isinstance(cause, MissingConfigException) and missing:
            return _needs(missing[0])
        if isinstance(cause, MissingConfigException) and cause.missing_cfg_file:
            options = cause.options or _options(cause.missing_cfg_file, str(cause))
            if options:
                return _unknown_option(cause.missing_cfg_file, options)
        if isinstance(cause, OverrideParseException):
            return _no_setting(cause)
        if isinstance(cause, OmegaConfBaseException) and cause.full_key:
            return _file(error) + _about_key(cause, str(error))
        if isinstance(cause, YAMLError):
            mark = getattr(cause, "problem_mark", None)
            return f"{mark.name}:{mark.line + 1}: {cause.problem}." if mark else str(cause)
        if isinstance(cause, UnicodeDecodeError):
            return f"{_file_of(cause)}it is not UTF-8 text (byte {cause.start})."
        if isinstance(cause, BrokenPipeError):  # as with | head
            return "cannot write to a pipe: the program that reads it has ended."
        if isinstance(cause, OSError) and cause.strerror:
            name = "a file" if cause.filename is None else final(Path(str(cause.filename)))
            return f"{CANNOT_USE} {name}: {cause.strerror}."
    return _hydras(str(error))


def _no_setting(error: OverrideParseException) -> str:
    word = str(error.override)
    fault = "has no =" if "EQUAL" in error.message else "cannot be read"
    if Path(word).is_dir():
        meant = f"a run is given as run={word} to qatlab test, and resume={word} to qatlab train"
        return f"{word!r} {fault}: {meant}."
    return (
        f"{word!r} {fault}: write group=option, key=value, +key=value or ~key, in quotes if it "
        "holds brackets or spaces."
    )


def _file_of(error: UnicodeDecodeError) -> str:
    """Return the configuration file that Hydra was reading, which the error does not name."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "load_config" and "full_path" in frame.f_locals:
            return f"cannot read {frame.f_locals['full_path']}: "
    return ""


def _chain(error: BaseException | None) -> list[BaseException]:
    """Return an error and what led to it."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _options(path: str, message: str) -> list[str]:
    """Return the options of a group by what Hydra says of where it has looked for one of them."""
    folders = [Path(found) / path for found in re.findall(r"path=file://(\S+)", message)]
    return sorted(file.stem for folder in folders for file in folder.parent.glob("*.yaml"))


def _unknown_option(path: str, options: Sequence[str]) -> str:
    group, _, name = path.rpartition("/")
    options = [option for option in options if not option.startswith("_")]
    hint = _other_bits(group, name, options) or _elsewhere(path) or did_you_mean(name, options)
    return f"{group}={name} is unknown.{hint} Accepted: {', '.join(options)}."


def _elsewhere(path: str) -> str:
    """Return in which folder near the current one a project has an option, or ""."""
    if project_conf() is not None:
        return ""
    here, file = Path.cwd(), f"{PROJECT}/{path}.yaml"
    below = sorted(here.glob(f"*/{file}"))
    for found in [*below, *(folder / file for folder in here.parents)]:
        project = found.parents[path.count("/") + 1]
        if found.is_file() and found.parents[path.count("/")].resolve() != CONF.resolve():
            folder = os.path.relpath(project, here)
            return f" The project in '{folder}' has it: change into that folder."
    return ""


def _other_bits(group: str, name: str, options: Sequence[str]) -> str:
    """Return how a method is asked for with bits that no preset has, or ""."""
    found = re.fullmatch(r"(\w+)_(\d+)bits?", name) if group == "quant" else None
    of_method = [option for option in options if found and option.startswith(f"{found[1]}_")]
    if not found or not of_method:
        return ""
    bits, preset = str(found[2]), f"{found[1]}_4bit"
    preset = preset if preset in of_method else of_method[0]
    return f" Give quant={preset} quant.weight.bits={bits} quant.activation.bits={bits}."


def _file(error: BaseException) -> str:
    """Return the configuration file that Hydra names, but not where the command line is meant."""
    match = re.match(r"In '(.*)': \w+ raised while composing", str(error))
    return f"{match[1]}.yaml: " if match else ""


def _about_key(error: OmegaConfBaseException, outer: str) -> str:
    key, first = str(error.full_key), str(error).splitlines()[0]
    if key == "experiment" and outer.startswith("In 'experiment/"):
        return NO_PACKAGE
    if isinstance(error, (ConfigKeyError, ConfigAttributeError)) and error.parent_node is not None:
        return _unknown_key(key, error.parent_node)
    if isinstance(error, MissingMandatoryValue):
        return f"{key} has no value; give {key}=<value>."
    if match := re.search(r"(?:could not be converted to|is not a valid) (\w+)", first):
        wanted = TYPES.get(match[1], match[1])
        return str(wrong(key, error.value, wanted))
    if re.match(r"Cannot assign .* to Dict", first):
        return str(wrong(key, error.value, "a mapping"))
    if "is not Optional" in first:
        return str(wrong(key, None, "any value but null"))
    override = outer.partition("Error merging override ")[2]
    if "does not support deletion" in first:
        return f"{override}: a run needs this key."
    return f"{override or key}: {first}."


def _unknown_key(key: str, node: Any) -> str:
    if "/" in key:  # a group that does not exist: it may be nearly one of a group that does
        parent = OmegaConf.select(node, key.rpartition("/")[0].replace("/", "."))
        node, key = (node, key) if parent is None else (parent, key.replace("/", "."))
    parent, _, name = key.rpartition(".")
    if meant := "" if parent else _meant(name, node):
        return f"{key} is unknown. Give {meant}."
    if not isinstance(node, DictConfig) or node._is_none() or not node:
        return f"{key} is unknown: {parent} holds no keys."
    words = unknown(key, [str(name) for name in node if name != "hydra"])
    target = str(node.get("_target_", ""))
    if OmegaConf.get_type(node) is dict and not target.startswith("qatlab."):
        words += f" New ones need a +: +{key}=<value>."
    return words


def _meant(name: str, root: Any) -> str:
    """Return the keys that a name at the root may stand for, or ""."""
    if name in ELSEWHERE:
        return ELSEWHERE[name]
    found = [key for key in _keys(root) if key.rpartition(".")[2] == name]
    highest = min((key.count(".") for key in found), default=0)
    return " or ".join(key for key in found if key.count(".") == highest)


def _keys(node: Any, parent: str = "") -> Iterator[str]:
    """Yield all dotted keys of a configuration, to some depth."""
    if not isinstance(node, DictConfig) or parent.count(".") >= DEEPEST_KEY - 1 or node._is_none():
        return
    names = [key for key in map(str, node) if key != "hydra"]
    inner = [(f"{parent}.{name}".lstrip("."), name) for name in names]
    yield from (path for path, name in inner if parent and not name.startswith("_"))
    for path, name in inner:
        yield from _keys(node._get_node(name), path)


def _groups() -> list[str]:
    """Return the groups that are chosen once each."""
    folders = [CONF, *([project] if (project := project_conf()) else [])]
    return sorted({path.name for folder in folders for path in folder.iterdir() if path.is_dir()})


def _needs(launcher: str) -> str:
    return f"hydra/launcher={launcher} needs another package: pip install 'qatlab[{launcher}]'."


def _hydras(message: str) -> str:
    """Return what is left to be put into other words, and else Hydra's own."""
    if match := re.match(r"Ambiguous value for argument '(.*)'", message):
        return f"{match[1]} holds several values: add -m to run each, or write [...] for a list."
    if match := re.match(r"Could not append to config. An item is already at '(.*)'", message):
        return f"+{match[1]} exists already: leave out the +."
    if match := re.match(r"(.*) appears more than once", message):
        return f"{match[1]} is chosen already: leave out the +."
    if match := re.match(rf"{NO_PLUGIN}'hydra_plugins\.hydra_(\w+)_launcher\.", message):
        return _needs(match[1])
    if NO_SLURM in message:
        return "hydra/launcher=slurm: there is no Slurm here, as the command srun is missing."
    if NO_JOBS in message:
        jobs = "a number of jobs at the same time, or -1 for one on each core"
        return str(wrong("hydra.launcher.n_jobs", 0, jobs))
    if match := re.match(r"In '(.*)': Could not override '([^'@]+)(@experiment)?", message):
        if match[3]:  # where a file without that line would put the group
            return f"{match[1]}.yaml: {NO_PACKAGE}"
        return f"{match[1]}.yaml: override " + unknown(match[2], _groups())
    if message.startswith("Config group override must be"):
        return "a group takes the name of one of its options, not null or a number; see --help."
    return re.split(r"Config search path|To append to your", message)[0]
