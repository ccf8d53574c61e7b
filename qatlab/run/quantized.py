"""Quantizes a network as the group ``quant`` says: of a run, or a preset by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn

from qatlab import config
from qatlab import quant as quantizing
from qatlab.config import places
from qatlab.config.targets import make
from qatlab.errors import ConfigError, unknown, wrong
from qatlab.quant import ModelTable, Rule, float_table


def quantize(
    model: nn.Module,
    method: str,
    example_input: Tensor,
    rules: Mapping[str, Mapping[str, Any] | None] | None = None,
    *,
    weight: Mapping[str, Any] | None = None,
    activation: Mapping[str, Any] | None = None,
    inputs_of_functions: bool = False,
    one_step_for_sums: bool = False,
) -> tuple[nn.Module, ModelTable]:
    """Quantize a network of one's own as ``quant=<method>`` does on the command line.

    Layers get weight quantizers, activation functions and what is added up get activation
    quantizers. Parameters are shared with ``model`` and keep their names.

        model, table = qatlab.quantize(net, "lsq_4bit", images[:1])
        print(table)

    Args:
        model: float network, which ``torch.fx`` can trace.
        method: a preset, such as ``sat_4bit``: a YAML of ``conf/quant``, of the current folder or
            ours; ``none`` for the float network.
        example_input: ``(1, C, H, W)``, float32.
        rules: by name, behind those of the preset (``first`` and ``last`` have 8 bits); one of the
            same name changes that of the preset, None leaves it out.
        weight: changed arguments of the weight quantizers, such as ``{"bits": 3}``.
        activation: likewise.
        inputs_of_functions: what functions such as SiLU read is quantized, too, as whole numbers
            take it; see ``docs/deploying.md``.
        one_step_for_sums: what additions add up has one step.

    Returns:
        The network to train, and the table of its layers and sites, which can be printed.

    Raises:
        QatlabError: for a name, a rule or an argument that does not exist, and for a network that
            cannot be traced.
    """
    node = preset(method)
    given = _given(node, rules, weight, activation)
    try:
        changed = OmegaConf.merge(node, given)
    except OmegaConfBaseException as error:
        raise ConfigError(f"quantize: {str(error).splitlines()[0]}.") from error
    assert isinstance(changed, DictConfig)
    if method == "none":
        if given:
            raise ConfigError(f"{next(iter(given))} has no effect on method=none.")
        return model, float_table(model, example_input)
    for name in [name for name, rule in changed.rules.items() if rule is None]:
        del changed.rules[name]
    changed.one_step_for_sums = one_step_for_sums
    return quantized(changed, model, example_input, inputs_of_functions)


def quantized(
    cfg: DictConfig, model: nn.Module, example_input: Tensor, inputs_of_functions: bool
) -> tuple[nn.Module, ModelTable]:
    """Return a network with the quantizers of ``cfg``, the group ``quant``, and its table."""
    rules = rules_of(cfg)
    weight, activation = (
        None if node is None else make(f"quant.{part}", node, _partial_=True)
        for part, node in (("weight", cfg.weight), ("activation", cfg.activation))
    )
    switches = (inputs_of_functions, cfg.one_step_for_sums)
    return quantizing.quantize(model, weight, activation, rules, example_input, *switches)


def rules_of(cfg: DictConfig) -> list[Rule]:
    """Return the rules of the group ``quant``."""
    nodes: Any = OmegaConf.to_container(cfg.rules or OmegaConf.create(), resolve=True)
    return [Rule.parse(str(key), node) for key, node in nodes.items()]


def preset(method: str, key: str = "method") -> DictConfig:
    """Return the group ``quant`` as a preset has it, which takes new keys.

    Args:
        method: its name.
        key: where it was given.

    Raises:
        ConfigError: for a name that does not exist.
    """
    config.register()
    places.register()
    held = GlobalHydra.instance().hydra  # it may be at work: a training calls the user's own code
    GlobalHydra.instance().hydra = None
    try:
        with initialize_config_dir(str(places.CONF), version_base="1.3"):
            known = config.options_of("quant")
            if method not in known:
                given = isinstance(method, str)
                advice = "" if given else "qatlab.quant.quantize takes quantizers."
                raise wrong(key, method, known, advice)
            node = compose("config", overrides=[f"quant={method}"]).quant
    finally:
        GlobalHydra.instance().hydra = held
    taking_new_keys = OmegaConf.create(OmegaConf.to_container(node, resolve=True))
    assert isinstance(taking_new_keys, DictConfig)
    return taking_new_keys


def _given(
    node: DictConfig,
    rules: Mapping[str, Mapping[str, Any] | None] | None,
    weight: Mapping[str, Any] | None,
    activation: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return what is merged over a preset."""
    given = {"rules": rules, "weight": weight, "activation": activation}
    for key, value in given.items():
        if value is not None and not isinstance(value, Mapping):
            raise wrong(key, value, "a mapping")
    for name, rule in (rules or {}).items():
        if rule is None and name not in (node.rules or {}):
            raise ConfigError(unknown(f"rules.{name}", map(str, node.rules or {})))
    return {key: dict(value) for key, value in given.items() if value is not None}
