"""Turns a float network into one that is trained with quantization."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from qatlab.errors import ConfigError, QuantRuleError
from qatlab.errors.arguments import check_arguments
from qatlab.quant.costs import Costs
from qatlab.quant.layers import QuantConv2d, QuantLinear, trained_weight
from qatlab.quant.learned import ActivationQuantizer, LearnedQuantizer, share_step
from qatlab.quant.memory import add, add_inplace, note_copies
from qatlab.quant.ops import WEIGHT_LAYERS, kind_of
from qatlab.quant.quantizer import Quantizer
from qatlab.quant.rules import Decision, Rule, Target, resolve
from qatlab.quant.sites import Site, find_sites, weight_layer_names
from qatlab.quant.table import LayerRecord, ModelTable
from qatlab.quant.trace import OWN_WEIGHTS, compute_out_of_place, measure, trace

Factory = Callable[..., Quantizer]
IMAGE_SHAPE = "image_shape"  # key of a network's meta
BITS_IN_FRONT = 8  # of a site in front of a function, which a table of 256 codes then computes


def quantize(
    model: nn.Module,
    weight: Factory | None,
    activation: Factory | None,
    rules: Sequence[Rule],
    example_input: Tensor,
    inputs_of_functions: bool = False,
    one_step_for_sums: bool = False,
) -> tuple[nn.Module, ModelTable]:
    """Give every weight layer a weight quantizer and every site an activation quantizer.

    The network is traced, so that an activation module that is called twice becomes two sites.
    Parameters keep their names: a float checkpoint of ``model`` fits the result.

    Args:
        model: float network; its parameters are shared with the result.
        weight: makes a weight quantizer, called with the changes of the rules; None: all float.
        activation: makes an activation quantizer, likewise, and with ``activation`` (the float
            activation function at the site) and ``signed``; None: all float.
        rules: in order; see :func:`qatlab.quant.rules.resolve`.
        example_input: ``(1, C, H, W)``, for the shapes in the table.
        inputs_of_functions: what an activation function reads that whole numbers have as a table
            only, such as SiLU, is a site, too: of 8 bits, unless a rule says otherwise; and so is
            what is multiplied by another tensor, with bits as any other.
        one_step_for_sums: sites that an addition adds up learn one step, whatever their bits.

    Returns:
        The network to train, and the table of its layers and sites.

    Raises:
        QuantRuleError: for a rule that matches nothing or an argument that is not accepted.
        ConfigError: for a network that cannot be traced, or not computed with such images, and for
            a layer whose weights are made anew in each pass.
    """
    traced = trace(model)
    measures = measure(traced, example_input)
    compute_out_of_place(traced, activation is not None, measures.others)
    names = weight_layer_names(traced)
    sites = find_sites(traced, measures, inputs_of_functions)
    layers = [_target(name, traced) for name in names]
    for part, factory in (("weight", weight), ("activation", activation)):
        _check_arguments(part, factory, rules)
    weight_decisions = resolve("weight", layers, rules)
    site_decisions = resolve("activation", [Target(s.name, s.type) for s in sites], rules)

    order = {node: i for i, node in enumerate(traced.graph.nodes)}
    rank = {str(n.target).removesuffix(".weight"): i for n, i in reversed(order.items())}
    rank |= {site.name: order[site.node] for site in sites}

    costs = Costs(traced.graph, sites, measures)  # before nodes are replaced

    made = [
        _at_site(site, activation, decision)
        for site, decision in zip(sites, site_decisions, strict=True)
    ]
    if one_step_for_sums:
        _share_steps(sites, made)
    records: dict[str, LayerRecord] = {}
    for site, decision, quantizer in zip(sites, site_decisions, made, strict=True):
        if isinstance(quantizer, ActivationQuantizer):
            _insert(traced, site, quantizer)
        elif site.node.op == "call_module" and site.replaces and site.name != site.node.target:
            # Another call of the module, whose path may become that of a quantizer.
            traced.add_submodule(site.name, copy.copy(site.activation))
            site.node.target = site.name
        target = Target(site.name, site.type)
        records[site.name] = LayerRecord.of(
            target, "activation", measures.shapes[site.node], quantizer, decision.rules
        )
    for target, decision in zip(layers, weight_decisions, strict=True):
        layer = traced.get_submodule(target.name)
        of_weight = _make("weight", weight, decision, target.name, {}, {})
        if of_weight is not None:
            of_weight.fit(_checked_weight(layer, target))
            _replace(traced, target.name, _quant_layer(layer, of_weight))
        own: Any = layer.weight  # a parameter, or what is computed of others
        shape = tuple(own.shape)
        records[target.name] = LayerRecord.of(target, "weight", shape, of_weight, decision.rules)
    _prepare_memory(traced)
    traced.meta[IMAGE_SHAPE] = tuple(example_input.shape)
    traced.graph.lint()
    traced.recompile()
    rows = sorted(records.values(), key=lambda record: rank[record.name])
    rows += _other_weights(traced, records)
    return traced, ModelTable.of(traced, rows, costs)


def float_table(model: nn.Module, example_input: Tensor) -> ModelTable:
    """Return the table of a network that stays float."""
    return quantize(model, None, None, (), example_input)[1]


def _other_weights(traced: nn.Module, records: Container[str]) -> list[LayerRecord]:
    """Return rows for the weights that stay float, as no quant layer exists for their layers."""
    rows = []
    for path, module in traced.named_modules():
        if path in records or isinstance(module, Quantizer):
            continue
        for name, parameter in module.named_parameters(path, recurse=False):
            if parameter.ndim > 1:
                target = Target(path if name.endswith(".weight") else name, type(module).__name__)
                rows.append(LayerRecord.of(target, "weight", tuple(parameter.shape), None, ()))
    return rows


def _check_arguments(part: str, factory: Factory | None, rules: Sequence[Rule]) -> None:
    """Check what rules say to a quantizer, by the signature of its class."""
    for rule in rules:
        change = rule.changes.get(part)
        key = f"quant.rules.{rule.key}.{part}"
        if change is not None and factory is None:
            raise QuantRuleError(
                f"{key} changes a quantizer, but quant.{part} is null; "
                f"choose one, such as quant/{part}=sat"
            )
        if change is not None and factory is not None:
            check_arguments(key, factory, change, taken=("activation", "signed"))


def _at_site(site: Site, factory: Factory | None, decision: Decision) -> Quantizer | None:
    extra = {"activation": site.activation, "signed": site.signed}
    usual = {"bits": BITS_IN_FRONT, "n_steps": None} if site.in_front else {}
    return _make("activation", factory, decision, site.name, extra, usual)


def _share_steps(sites: Sequence[Site], made: Sequence[Quantizer | None]) -> None:
    """Give the sites that additions add up one step."""
    summed: defaultdict[str, list[LearnedQuantizer]] = defaultdict(list)
    for site, quantizer in zip(sites, made, strict=True):
        if not site.summed_with or quantizer is None:
            continue
        if not (isinstance(quantizer, LearnedQuantizer) and quantizer.parameter.requires_grad):
            raise QuantRuleError(
                f"quant.one_step_for_sums: {site.name} is quantized by "
                f"{type(quantizer).__name__}, which learns no step that sites could share; use "
                "sat, lsq, lsq_plus or pact, or false"
            )
        summed[site.summed_with].append(quantizer)
    groups = [quantizers for quantizers in summed.values() if len(quantizers) > 1]
    if not groups:
        raise QuantRuleError(
            "quant.one_step_for_sums=true has no effect: no addition adds up two quantized sites"
        )
    for quantizers in groups:
        share_step(quantizers)


def _make(
    part: str,
    factory: Factory | None,
    decision: Decision,
    name: str,
    extra: Mapping[str, Any],
    usual: Mapping[str, Any],
) -> Quantizer | None:
    if factory is None or decision.arguments is None:
        return None
    try:
        quantizer = factory(**{**usual, **decision.arguments, **extra})
    except QuantRuleError as error:
        by_rules = [f"quant.rules.{key}.{part}" for key in decision.rules]
        argument = str(error).partition("=")[0]
        if argument.isidentifier():  # the preset's own, unless a rule has changed it
            by_preset = argument not in decision.arguments
            keys = [f"quant.{part}"] if by_preset else by_rules
        else:
            keys = [f"quant.{part}", *by_rules]
        raise QuantRuleError(f"{' and '.join(keys)} ({name}): {error}") from error
    quantizer.layer = name
    return quantizer


def _checked_weight(layer: nn.Module, target: Target) -> nn.Parameter:
    """Return the weight of a layer that is to be quantized, where it computes with it as it is."""
    weight = trained_weight(layer) if isinstance(layer, WEIGHT_LAYERS) else None
    if weight is None or (layer.bias is not None and "bias" not in layer._parameters):
        part = "bias" if weight is not None else "weight"
        raise ConfigError(
            f"{target.name} ({target.type}) computes its {part} anew in each pass "
            "(parametrization, weight norm, pruning of a bias, or a forward of its own), which "
            "cannot be quantized: make it a plain parameter, for example with "
            "remove_parametrizations() or prune.remove(), or keep it in float by a rule, such as "
            f"'+quant.rules.float={{name: {target.name}, weight: null}}'"
        )
    return weight


def _target(name: str, traced: fx.GraphModule) -> Target:
    """Return what rules can know of a weight layer."""
    layer = traced.get_submodule(name)
    if (own := traced.meta[OWN_WEIGHTS].get(name)) is not None:
        return Target(name, own)
    calls = [n for n in traced.graph.nodes if n.op == "call_module" and n.target == name]
    users = [user for call in calls for user in call.users]
    normed = bool(users) and all(
        user.op == "call_module" and isinstance(traced.get_submodule(str(user.target)), _BatchNorm)
        for user in users
    )
    if not isinstance(layer, nn.Conv2d):
        return Target(name, type(layer).__name__, normed=normed)
    height, width = layer.kernel_size
    depthwise = 1 < layer.groups == layer.in_channels
    return Target(name, type(layer).__name__, f"{height}x{width}", depthwise, normed)


def _quant_layer(layer: nn.Module, quantizer: Quantizer) -> nn.Module:
    if isinstance(layer, nn.Conv2d):
        return QuantConv2d.of(layer, quantizer)
    assert isinstance(layer, nn.Linear)  # sites.WEIGHT_LAYERS holds these two
    return QuantLinear.of(layer, quantizer)


def _replace(traced: fx.GraphModule, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(traced.get_submodule(parent), child, module)


def _insert(traced: fx.GraphModule, site: Site, quantizer: ActivationQuantizer) -> None:
    """Let the quantizer stand for the node of the site, or behind it; with its batch norm."""
    traced.add_submodule(site.name, quantizer)
    source = site.node.all_input_nodes[0] if site.replaces else site.node
    with traced.graph.inserting_after(site.node):
        new = traced.graph.call_module(site.name, (source,))
    site.node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
    if site.replaces:
        traced.graph.erase_node(site.node)
    if source.op == "call_module" and len(source.users) == 1:
        norm = traced.get_submodule(str(source.target))
        calls = [
            n for n in traced.graph.nodes if n.op == "call_module" and n.target == source.target
        ]
        if type(norm) is nn.BatchNorm2d and len(calls) == 1 and quantizer.absorb(norm):
            new.args = source.args
            traced.graph.erase_node(source)


def _prepare_memory(traced: fx.GraphModule) -> None:
    """Let additions and poolings tell :class:`~qatlab.quant.memory.Memory` what they make."""
    for module in traced.modules():
        copies = isinstance(module, nn.MaxPool2d) and not module.return_indices
        if copies and note_copies not in module._forward_hooks.values():  # the float network's own
            module.register_forward_hook(note_copies)
    modules = dict(traced.named_modules())
    for node in traced.graph.nodes:
        two = len(node.args) == 2 and all(isinstance(n, fx.Node) for n in node.args)
        if kind_of(node, modules) != "add" or not two or node.kwargs:
            continue
        # A quantizer behind a batch norm leaves its output to whom it may concern: nothing in any
        # phase needs it for the backward pass.
        over = [n for n in node.args if len(n.users) == 1 and _only_quantizes(traced, n)]
        first = over[0] if over else node.args[0]
        second = node.args[0] if first is node.args[1] else node.args[1]
        node.op, node.target = "call_function", add_inplace if over else add
        node.args = (first, second)


def _only_quantizes(traced: fx.GraphModule, node: fx.Node) -> bool:
    if node.op != "call_module":
        return False
    module = traced.get_submodule(str(node.target))
    return isinstance(module, ActivationQuantizer) and module.only_quantizes
