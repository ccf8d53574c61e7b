"""A trained run as a network whose bits can be chosen: for ``qatlab search``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor as Numbers
from torch import nn

from qatlab.config.search import Widths
from qatlab.config.targets import make
from qatlab.data import ImageModule
from qatlab.errors import ConfigError, QuantRuleError, wrong
from qatlab.mixed_precision import Candidates, Choices, Tensor
from qatlab.quant import ModelTable, Rule
from qatlab.quant.quantizer import HIGHEST_BITS
from qatlab.quant.rules import PARTS, Decision, Target, resolve
from qatlab.run.build import network
from qatlab.run.loading import config_of
from qatlab.run.quantized import preset
from qatlab.training.loss import losses_of

OWN = "searched"  # names of rules, behind those of the run
FEW = 3  # tensors that an error names


@dataclass(frozen=True)
class Subject:
    """What a search is about.

    Attributes:
        cfg: configuration of the run, with the quantizers that are asked for.
        data: its images.
        table: its layers and sites.
        losses: of its outputs.
    """

    cfg: DictConfig
    data: ImageModule
    table: ModelTable
    losses: Sequence[Any]

    @classmethod
    def of(
        cls, run: Path, checkpoint: str, allow: Sequence[str], quant: str | None, leaves: bool
    ) -> Subject:
        """Read a run.

        Args:
            run: its folder.
            checkpoint: see :func:`~qatlab.run.loading.load_run`.
            allow: likewise.
            quant: a preset, for a float run, or in the place of that of the run.
            leaves: whether the network has to leave as whole numbers.

        Raises:
            QatlabError: if it cannot be read, or has no quantizers and ``quant`` is not given.
        """
        cfg = config_of(run, checkpoint, allow)
        if quant is not None:
            for key in ("weight", "activation", "rules"):
                cfg.quant[key] = preset(quant, "quant")[key]
        if cfg.quant.weight is None and cfg.quant.activation is None:
            raise ConfigError(
                f"{run} is a float network: give the quantizers whose bits are to be found, such "
                "as quant=lsq_4bit."
            )
        if leaves and cfg.quant.inputs_of_functions is None:
            cfg.quant.inputs_of_functions = True
        cfg.schedule.falling_bits = None
        data = make("data", cfg.data, ImageModule)
        _, table = network(cfg, data, report=lambda text: None)
        return cls(cfg, data, table, losses_of(make("loss", cfg.loss)))

    def choices(self, widths: Widths) -> Choices:
        """Return the widths that each quantized tensor may have.

        Args:
            widths: what was asked for.

        Raises:
            ConfigError: for no width, or names of nothing.
        """
        rules = [_rule(str(key), node) for key, node in (widths.rules or {}).items()]
        found: dict[Tensor, Sequence[int]] = {}
        for part in PARTS:
            rows = [row for row in self.table.layers if row.part == part and row.bits is not None]
            own = _widths(f"widths.{part}", getattr(widths, part))
            targets = [Target(row.name, row.type) for row in rows]
            for row, decision in zip(rows, _resolved(part, targets, rules), strict=True):
                bits = (decision.arguments or {}).get("bits", own)
                found[Tensor(part, row.name)] = bits
        if not found:
            raise ConfigError("nothing of the network is quantized: there are no bits to choose.")
        order = {row.name: i for i, row in enumerate(self.table.layers)}
        ordered = dict(sorted(found.items(), key=lambda item: order[item[0].name]))
        return Choices(ordered, [_group(i, own, ordered) for i, own in enumerate(widths.tied)])

    def candidates(
        self,
        choices: Choices,
        images: Sequence[Numbers],
        start: str | None = None,
        fill: bool = False,
    ) -> Candidates:
        """Return the network with all widths; see :class:`~qatlab.mixed_precision.Candidates`."""
        widths = sorted({bits for _, bits in choices.all()})
        return Candidates(
            {bits: self._at(choices, bits) for bits in widths}, choices, images, start, fill
        )

    def _at(self, choices: Choices, bits: int) -> nn.Module:
        """Return the network with one width wherever there is a choice."""
        cfg = self.cfg.copy()
        rules: dict[str, Any] = dict(cfg.quant.rules or {})
        for part in PARTS:
            names = [tensor.name for tensor in choices.widths if tensor.part == part]
            if names:
                rules[f"{OWN}_{part}"] = {"name": names, part: {"bits": bits}}
        cfg.quant.rules = OmegaConf.create(rules)
        return network(cfg, self.data, report=lambda text: None)[0]

    def calibration(self) -> list[Numbers]:
        """Return the batches that quantizers of activations start from, of the training images."""
        loader = iter(self.data.train_dataloader())
        return [images for images, _ in _first(loader, self.cfg.schedule.calibration_batches)]

    def held_out(self, count: int, size: int) -> tuple[list[tuple[Numbers, Numbers]], bool]:
        """Return batches of images that nothing was trained on, and whether there are any.

        Without, they are training images.

        Args:
            count: images of all batches, if there are so many.
            size: images of a batch.
        """
        loader = self.data.val_dataloader()
        held = not isinstance(loader, list)
        found: list[tuple[Numbers, Numbers]] = []
        for images, labels in loader if held else self.data.train_dataloader():
            found.append((images, labels))
            if sum(len(own) for _, own in found) >= count:
                break
        images, labels = (torch.cat(parts)[:count] for parts in zip(*found, strict=True))
        parts = zip(torch.split(images, size), torch.split(labels, size), strict=True)
        return list(parts), held

    @property
    def class_names(self) -> Sequence[str] | None:
        """A name for each output; None if they are no classes."""
        return self.data.class_names if self.losses[0].classifies else None

    def loss(self, outputs: Any, images: Numbers, labels: Numbers) -> Numbers:
        """Return the loss of each image, as the training has it, of all outputs."""
        given = [outputs] if isinstance(outputs, Numbers) else list(outputs)
        own = [
            loss(output.float(), images, labels)
            for loss, output in zip(self.losses, given, strict=False)
        ]
        return torch.stack(own).sum(0)


def _first(loader: Iterator[Any], count: int) -> Iterator[Any]:
    for _, batch in zip(range(count), loader, strict=False):
        yield batch


def _rule(key: str, node: Any) -> Rule:
    where = f"widths.rules.{key}"
    plain: Any = OmegaConf.to_container(node) if OmegaConf.is_config(node) else node
    with _named_widths():
        rule = Rule.parse(key, plain)
    changes: dict[str, Mapping[str, Any]] = {}
    for part, change in rule.changes.items():
        if change is None or set(change) != {"bits"}:
            raise wrong(f"{where}.{part}", change, "{bits: [4, 8]}, bits that it may have")
        changes[part] = {"bits": _widths(f"{where}.{part}.bits", change["bits"])}
    return Rule(rule.key, rule.selectors, changes, rule.optional)


def _resolved(part: str, targets: Sequence[Target], rules: Sequence[Rule]) -> list[Decision]:
    with _named_widths():
        return resolve(part, targets, rules)


@contextmanager
def _named_widths() -> Iterator[None]:
    """Let errors about rules name ``widths.rules``, where they stand."""
    try:
        yield
    except QuantRuleError as error:
        raise ConfigError(str(error).replace("quant.rules.", "widths.rules.")) from error


def _widths(key: str, value: Any) -> list[int]:
    """Return bits in order: of a list, or a number."""
    given = list(value) if OmegaConf.is_list(value) or isinstance(value, list) else [value]
    for bits in given:
        if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= HIGHEST_BITS:
            raise wrong(key, value, f"a list of whole numbers from 1 to {HIGHEST_BITS}")
    if not given:
        raise wrong(key, value, "at least one width")
    return sorted(set(given))


def _group(i: int, names: Sequence[str], widths: Mapping[Tensor, Any]) -> list[Tensor]:
    by_name = {tensor.name: tensor for tensor in widths}
    for name in names:
        if name not in by_name:
            raise wrong(f"widths.tied[{i}]", name, by_name)
    return [by_name[name] for name in names]
