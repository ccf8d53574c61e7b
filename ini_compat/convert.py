"""A network that was understood as the content of one experiment."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

from ini_compat.cells.fillers import DEFAULT
from ini_compat.errors import Deviation, IniError
from ini_compat.keys import snake_case
from ini_compat.network import IMAGE, Cell, Network, Node, Target
from ini_compat.quant_rules import quant_node
from ini_compat.solver_groups import solver_groups

EPOCHS = 100  # of a file that does not tell
WEIGHTED = ("conv", "deconv", "linear")
IN_MEMORY = ("Mnist", "FashionMnist", "Cifar10", "Cifar100")
SCHEDULES = {"clamp": "clamp_only", "quantize": "quantize_only", "float": "float_then_quantize"}


def experiment(network: Network, epochs: int | None = None) -> Node:
    """Return what the experiment's YAML says, in its order.

    The network loses the cells that no target depends on.

    Args:
        network: without problems.
        epochs: N2D2's ``-learn-epoch``.

    Raises:
        IniError: for a network that mixes methods of quantization.
    """
    prune(network)
    outputs, loss = _outputs(network)
    quant, phase = quant_node(network)
    length = epochs or _length(network)
    _note_batches_of_one(network)
    node: Node = {
        "defaults": [
            {"override /model": "layer_graph"},
            {"override /data": _data_option(network)},
            {"override /quant": "none"},
            {"override /solver": "by_parameter"},
            {"override /schedule": SCHEDULES[phase]},
            {"override /loss": _loss_option(loss)},
        ],
        "name": network.name,
        "model": _model(network, outputs),
        "quant": quant,
        "solver": {"groups": solver_groups(network, length)},
        "schedule": {f"{phase}_epochs": length},
        "loss": loss,
        "data": network.data.node,
    }
    if phase == "float":
        node["schedule"]["quantize_epochs"] = 0
    if network.iteration_size > 1:
        node["trainer"] = {"accumulate_grad_batches": network.iteration_size}
    return {key: value for key, value in node.items() if value != {}}


def phase(content: Node) -> str:
    """Return the phase that an experiment ends in: ``float``, ``clamp`` or ``quantize``."""
    counts: dict[str, int] = content["schedule"]
    return next(key.removesuffix("_epochs") for key, count in counts.items() if count)


def prune(network: Network) -> None:
    """Leave out the cells that no target depends on."""
    cells = network.cells
    owners = {layer: name for name, cell in cells.items() for layer in cell.layers}
    wanted: set[str] = set()
    waiting = [target.cell for target in network.targets]
    while waiting:
        name = waiting.pop()
        if name not in wanted and name != IMAGE:
            wanted.add(name)
            waiting += cells[name].inputs
            # An unpooling also reads where its pool has found the values.
            waiting += [owners[n["pool"]] for n in cells[name].layers.values() if "pool" in n]
    for name in [name for name in cells if name not in wanted]:
        cell = cells.pop(name)
        reason = "no target depends on it"
        network.deviations.append(Deviation(cell.place, f"[{name}]", "ignored", reason))


def _length(network: Network) -> int:
    """Return for how many epochs the file trains, as far as it tells."""
    if network.epochs:
        return network.epochs
    network.notices.append(
        f"the file does not say how long to train: {EPOCHS} epochs are taken; --epochs N sets it"
    )
    return EPOCHS


def _note_batches_of_one(network: Network) -> None:
    """Note a normalisation that has a single number to normalise."""
    for cell in network.cells.values():
        norms = any(layer["type"] == "batch_norm" for layer in cell.layers.values())
        if norms and network.data.batch_size == 1 and cell.shape and cell.shape[1:] == (1, 1):
            network.notices.append(
                f"[{cell.name}] normalises one number in batches of one image, which torch does "
                "not train: data.batch_size=64"
            )
            return


def _outputs(network: Network) -> tuple[list[str], Node]:
    """Return the names of the outputs and ``loss``."""
    losses: dict[str, Node] = {}
    for target in network.targets:
        output = _output(network, target)
        if output in losses:
            reason = "another target has the same outputs"
            key = f"[{target.cell}.Target]"
            network.deviations.append(Deviation(target.place, key, "ignored", reason))
        else:
            losses[output] = target.loss
    if len(losses) == 1:
        return list(losses), next(iter(losses.values()))
    several = {"_target_": "qatlab.training.loss.Several", "losses": list(losses.values())}
    return list(losses), several


def _output(network: Network, target: Target) -> str:
    """Return the layer whose output the loss takes: of a softmax with loss, the one before it.

    The softmax itself is left out unless another layer reads it.
    """
    cell = network.cells[target.cell]
    output = cell.output
    if cell.with_loss != "softmax" or output not in cell.layers:
        return output  # or the softmax is gone, as an earlier target has it, too
    layer = cell.layers[output]
    if layer["type"] != "softmax" or "group_size" in layer:
        raise IniError(
            f"[{cell.name}] WithLoss=1 is supported for a softmax over all channels, with no "
            "function behind it",
            cell.place,
        )
    source: str = layer["input"]
    read = {name for c in network.cells.values() for name in _sources(c)}
    if output not in read:
        del cell.layers[output]
        cell.output = source
    return source


def _sources(cell: Cell) -> Iterable[str]:
    for layer in cell.layers.values():
        yield from [layer["input"]] if isinstance(layer["input"], str) else layer["input"]
        if "pool" in layer:
            yield layer["pool"]


def _model(network: Network, outputs: list[str]) -> Node:
    layers: Node = {}
    last = IMAGE
    initial = {key: _common_start(network, key) for key in ("weight_init", "bias_init")}
    for cell in network.cells.values():
        for name, layer in cell.layers.items():
            line = dict(layer)
            source = line.pop("input")
            for key, common in initial.items():
                own = _start(line, key)
                if own is None or own == common:
                    line.pop(key, None)
                else:
                    line[key] = own
            layers[name] = line if source == last else {**line, "input": source}
            last = name
    node: Node = {"input_shape": list(network.data.shape), **initial}
    return {**node, "outputs": outputs, "layers": layers}


def _start(layer: Node, key: str) -> Node | None:
    """Return what the weights or biases of a layer are drawn from; None if it has none."""
    if layer["type"] not in WEIGHTED or (key == "bias_init" and layer.get("bias") is False):
        return None
    start: Node = layer.get(key, DEFAULT)
    return start


def _common_start(network: Network, key: str) -> Node:
    """Return what most layers are drawn from."""
    layers = [layer for cell in network.cells.values() for layer in cell.layers.values()]
    starts = Counter(json.dumps(start) for layer in layers if (start := _start(layer, key)))
    common: Node = json.loads(starts.most_common(1)[0][0]) if starts else DEFAULT
    return common


def _data_option(network: Network) -> str:
    """Return the option whose source has no keys of its own that could show through."""
    source = network.data.node["source"]["_target_"].rpartition(".")[2]
    return "_images" if source in IN_MEMORY else "_image_files"


def _loss_option(loss: Node) -> str:
    return snake_case(str(loss["_target_"]).rpartition(".")[2])
