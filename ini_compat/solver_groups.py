"""The solvers of all parameters as ``solver.groups``: those with the same settings share one."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Sequence
from fnmatch import translate

from ini_compat.data.databases import SOME_IMAGES
from ini_compat.names import unique_key
from ini_compat.network import Cell, Network, Node
from ini_compat.quant_rules import one_or_list

MAIN = "main"  # which conf/solver/by_parameter.yaml has, too
NORMS = ("BatchNorm", "BatchNormalization")


def solver_groups(network: Network, epochs: int) -> Node:
    """Return the groups by name; the first one holds for all that no later one matches.

    Args:
        network: whose parameters are to be trained.
        epochs: that the schedule lasts.
    """
    groups: dict[str, list[str]] = {}  # settings as JSON, to the names of their parameters
    kinds: dict[str, str] = {}
    for cell in network.cells.values():
        for parameter, settings in cell.solvers.items():
            text = json.dumps(_settled(settings, epochs, network))
            groups.setdefault(text, []).append(parameter)
            kinds[parameter] = _kind(cell, parameter)

    def weights_first(item: tuple[str, list[str]]) -> tuple[int, int]:
        return -sum(kinds[p] == "weights" for p in item[1]), -len(item[1])

    nodes: Node = {}
    # The rate that is logged is that of the first group.
    for text, parameters in sorted(groups.items(), key=weights_first):
        if not nodes:
            nodes[MAIN] = {"parameters": "*", **json.loads(text)}
            continue
        name = unique_key("_and_".join(dict.fromkeys(kinds[p] for p in parameters)), nodes)
        globs = one_or_list(patterns(parameters, kinds))
        nodes[name] = {"parameters": globs, **json.loads(text)}
    return nodes


def _settled(settings: Node, epochs: int, network: Network) -> Node:
    """Let a decay that lasts as long as the schedule follow it, so that both can be changed.

    "As long" leaves the file the images that are missing in the last batch of each epoch: it counts
    images, or batches rounded down, where N2D2 completes that batch.
    """
    policy = settings.get("lr_policy")
    if not policy or policy.get("over") is None:
        return settings
    images, batch = network.data.training_images, network.data.batch_size * network.iteration_size
    updates = (images or SOME_IMAGES) / batch
    missing = math.ceil(updates) - updates if images else 0.0  # of a batch
    if abs(policy["over"] - epochs) * (updates + missing) <= missing * epochs + 1 + 1e-6:
        return {**settings, "lr_policy": {**policy, "over": None}}
    return settings


def _kind(cell: Cell, parameter: str) -> str:
    last = parameter.rpartition(".")[2]
    if last == "alpha":
        return "clip_values"
    if last == "step_size":
        return "steps"
    if cell.type in NORMS:
        return "norms"
    return "weights" if last == "weight" else "biases"


def patterns(wanted: Sequence[str], everything: Collection[str]) -> list[str]:
    """Return few globs that match all of ``wanted`` and nothing else of ``everything``."""
    rest = set(wanted)
    found: list[str] = []
    matched = {}
    for glob in _candidates(wanted):
        match = re.compile(translate(glob)).match
        names = {name for name in everything if match(name)}
        if names <= rest:
            matched[glob] = names
    while matched:
        best = max(matched, key=lambda glob: len(matched[glob] & rest))  # the first of equals
        if len(matched[best] & rest) < 2:
            break
        found.append(best)
        rest -= matched.pop(best)
    return [*found, *(name for name in wanted if name in rest)]


def _candidates(names: Sequence[str]) -> Iterable[str]:
    """Return globs that may describe several names of parameters, each once."""
    globs = ["*_qact.alpha", "*_qact.step_size", "*.weight_quantizer.step_size"]
    globs += ["*.bias", "*.weight"]
    for name in names:
        layer, dot, last = name.partition(".")
        last = dot + last
        globs += [re.sub(r"\d+", "*", layer) + last, re.sub(r"\d.*", "*", layer) + last]
        _, underscore, end = layer.rpartition("_")
        globs += [f"*_{end}{last}"] if underscore else []
    return dict.fromkeys(globs)
