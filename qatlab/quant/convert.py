"""Turns a float network into one that is trained with quantization."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from qatlab.errors import ConfigError, QuantRuleError, did_you_mean
from qatlab.quant.layers import QuantConv2d, QuantLinear
from qatlab.quant.quantizer import Quantizer
from qatlab.quant.rules import Decision, Rule, Target, resolve
from qatlab.quant.sites import Site, find_sites, weight_layer_names
from qatlab.quant.table import LayerRecord, ModelTable

Factory = Callable[..., Quantizer]


def quantize(
    model: nn.Module,
    weight: Factory | None,
    activation: Factory | None,
    rules: Sequence[Rule],
    example_input: Tensor,
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

    Returns:
        The network to train, and the table of its layers and sites.

    Raises:
        QuantRuleError: for a rule that matches nothing or an argument that is not accepted.
        ConfigError: for a network that cannot be traced.
    """
    traced = _trace(model)
    for module in traced.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # it would overwrite what a quantizer keeps for backward
    shapes = _shapes(traced, example_input)
    names = weight_layer_names(traced)
    sites = find_sites(traced, shapes)
    layers = [Target(name, type(traced.get_submodule(name)).__name__) for name in names]
    for part, factory in (("weight", weight), ("activation", activation)):
        _refuse_rules_without_quantizer(part, factory, rules)
    weight_decisions = resolve("weight", layers, rules)
    site_decisions = resolve("activation", [Target(s.name, s.type) for s in sites], rules)

    records: dict[str, LayerRecord] = {}
    for target, decision in zip(layers, weight_decisions, strict=True):
        layer = traced.get_submodule(target.name)
        quantizer = _make("weight", weight, decision, target.name, {})
        if quantizer is not None:
            _replace(traced, target.name, _quant_layer(layer, quantizer))
        records[target.name] = LayerRecord.of(
            target,
            "weight",
            tuple(layer.weight.shape),
            quantizer,
            decision.rules,  # type: ignore[arg-type]
        )
    for site, decision in zip(sites, site_decisions, strict=True):
        extra = {"activation": site.activation, "signed": site.signed}
        quantizer = _make("activation", activation, decision, site.name, extra)
        if quantizer is not None:
            _insert(traced, site, quantizer)
        target = Target(site.name, site.type)
        records[site.name] = LayerRecord.of(
            target, "activation", shapes[site.node], quantizer, decision.rules
        )
    traced.graph.lint()
    traced.recompile()
    order = [n.target for n in traced.graph.nodes if n.op == "call_module"]
    rank = {name: i for i, name in reversed(list(enumerate(order)))}
    rows = sorted(records.values(), key=lambda record: rank.get(record.name, -1))
    return traced, ModelTable.of(traced, rows)


def float_table(model: nn.Module, example_input: Tensor) -> ModelTable:
    """Return the table of a network that stays float."""
    return quantize(_trace(model), None, None, (), example_input)[1]


def _trace(model: nn.Module) -> fx.GraphModule:
    try:
        return fx.symbolic_trace(model)
    except (fx.proxy.TraceError, TypeError, NameError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"{type(model).__name__} cannot be traced, so its sites cannot be found: {error}"
        ) from error


def _shapes(traced: fx.GraphModule, example_input: Tensor) -> dict[fx.Node, tuple[int, ...]]:
    training = traced.training
    with torch.no_grad():
        ShapeProp(traced.eval()).propagate(example_input)
    traced.train(training)
    metadata = {node: node.meta.get("tensor_meta") for node in traced.graph.nodes}
    return {n: tuple(m.shape) for n, m in metadata.items() if hasattr(m, "shape")}


def _refuse_rules_without_quantizer(
    part: str, factory: Factory | None, rules: Sequence[Rule]
) -> None:
    for rule in rules:
        if factory is None and rule.changes.get(part) is not None:
            raise QuantRuleError(
                f"quant.rules.{rule.key}.{part} changes a quantizer, but quant.{part} is null; "
                f"choose one, such as quant/{part}=sat"
            )


def _make(
    part: str, factory: Factory | None, decision: Decision, name: str, extra: Mapping[str, Any]
) -> Quantizer | None:
    if factory is None or decision.arguments is None:
        return None
    asked_by = [f"quant.rules.{key}.{part}" for key in decision.rules]
    where = " and ".join([f"quant.{part}", *asked_by])
    try:
        quantizer = factory(**{**extra, **decision.arguments})
    except TypeError as error:
        accepted = [a for a in inspect.signature(factory).parameters if a != "activation"]
        unknown = [a for a in decision.arguments if a not in accepted]
        if not unknown:
            raise QuantRuleError(f"{where} ({name}): {error}") from error
        raise QuantRuleError(
            f"{where} ({name}) has an unknown argument '{unknown[0]}'; accepted are "
            f"{', '.join(accepted)}.{did_you_mean(unknown[0], accepted)}"
        ) from error
    except QuantRuleError as error:
        raise QuantRuleError(f"{where} ({name}): {error}") from error
    quantizer.layer = name
    return quantizer


def _quant_layer(layer: nn.Module, quantizer: Quantizer) -> nn.Module:
    if isinstance(layer, nn.Conv2d):
        return QuantConv2d.of(layer, quantizer)
    assert isinstance(layer, nn.Linear)  # noqa: S101 # sites.WEIGHT_LAYERS holds these two
    return QuantLinear.of(layer, quantizer)


def _replace(traced: fx.GraphModule, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(traced.get_submodule(parent), child, module)


def _insert(traced: fx.GraphModule, site: Site, quantizer: Quantizer) -> None:
    """Let the quantizer stand for the node of the site, or behind it."""
    traced.add_submodule(site.name, quantizer)
    source = site.node.all_input_nodes[0] if site.replaces else site.node
    with traced.graph.inserting_after(site.node):
        new = traced.graph.call_module(site.name, (source,))
    site.node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
    if site.replaces:
        traced.graph.erase_node(site.node)
