"""How far the answers of two forms of a network agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from qatlab.deploy.integer import Codes
from qatlab.deploy.pixels import bytes_of
from qatlab.deploy.verify.forms import Answer, AsIntegers, FakeQuantized, Form
from qatlab.errors import TrainingError
from qatlab.quant import first_not_finite

TIE = 1e-3  # steps from the middle between two levels, within which float32 may round either way
EVEN = 1e-5  # of the largest output: two outputs that are that close are equal to float32
NEAR = 1e-4  # of the largest output: as far as outputs that are no classes may be from each other


@dataclass
class Site:
    """How far the codes of a site agree.

    Attributes:
        codes: how many were compared.
        different: how many of them are others.
        first: how many of these are in images that agree at all sites before this one.
        from_tie: the largest distance of those first ones from the middle between two levels, in
            steps: what float32 and exact arithmetic round differently is a tie but for its errors.
    """

    codes: int = 0
    different: int = 0
    first: int = 0
    from_tie: float = 0.0

    def add(self, other: Tensor, position: Tensor, agree: Tensor, known: Tensor) -> None:
        """Count those of a batch that differ.

        Args:
            other: which codes differ, ``(N, ...)``.
            position: what exact arithmetic has rounded.
            agree: which images agree at all sites before this one, ``(N,)``.
            known: in which images exact arithmetic does, so that ``position`` is theirs, too.
        """
        self.different += int(other.sum())
        self.first += int(other[agree].sum())
        first = position[agree & known][other[agree & known]]
        if len(first):
            self.from_tie = max(self.from_tie, _from_tie(first))


@dataclass
class Comparison:
    """What a form answers, compared with the fake-quantized network.

    Attributes:
        name: of the form.
        tolerance: share of images that may get another class beside ties.
        classifies: whether outputs stand for classes; if not, an image counts as different if one
            of its outputs is not near that of the fake-quantized network (``NEAR``).
        images: how many.
        right: how many get the class of their label; none without classes.
        different: how many get another class than from the fake-quantized network.
        ties: how many of these begin with codes within ``TIE`` of a tie, or with equal outputs.
        largest: difference of two outputs.
        total: sum of all differences of outputs.
        outputs: how many were compared.
        sites: by name, in the order of computation, for a form that shows its codes.
    """

    name: str
    tolerance: float
    classifies: bool = True
    images: int = 0
    right: int = 0
    different: int = 0
    ties: int = 0
    largest: float = 0.0
    total: float = 0.0
    outputs: int = 0
    sites: dict[str, Site] = field(default_factory=dict)

    @property
    def passes(self) -> bool:
        """Whether no more images get another class than may."""
        return self.different - self.ties <= self.tolerance * self.images

    @property
    def parts_at(self) -> str | None:
        """The first site at which codes differ."""
        return next((name for name, site in self.sites.items() if site.first), None)

    def to_json(self) -> dict[str, Any]:
        """Return the numbers."""
        return {
            "tolerance": self.tolerance,
            "top1": self.right / self.images if self.classifies else None,
            "different": self.different,
            "ties": self.ties,
            "largest": self.largest,
            "mean": self.total / self.outputs,
            "parts_at": self.parts_at,
            "passes": self.passes,
            "sites": {name: vars(site) for name, site in self.sites.items()},
        }

    def add(
        self,
        form: Form,
        batch: tuple[Tensor, Tensor, Tensor],
        expected: Answer,
        exact: Answer,
        known: Mapping[str, Tensor],
        found: Answer,
    ) -> None:
        """Compare one batch.

        Args:
            form: what has answered.
            batch: images, their bytes, labels.
            expected: of the fake-quantized network.
            exact: of what knows what was rounded: the integer network in float64, if there is one.
            known: in which images that agrees with ``expected`` at all sites before each.
            found: of the form.
        """
        images, pixels, labels = batch
        classes, theirs = found.outputs.argmax(1), expected.outputs.argmax(1)
        self.images += len(labels)
        apart = (found.outputs - expected.outputs).abs()
        if self.classifies:
            self.right += int((classes == labels).sum())
            differ = classes != theirs
        else:
            differ = apart.amax(1) > NEAR * expected.outputs.abs().amax(1)
        self.largest = max(self.largest, apart.max().item())
        self.total += apart.sum().item()
        self.outputs += apart.numel()
        agree = torch.ones(len(labels), dtype=torch.bool)
        for name, theirs_here in expected.codes.items():  # in the order of computation
            if name not in found.codes:
                continue
            site, codes = self.sites.setdefault(name, Site()), found.codes[name]
            site.codes += codes.numel()
            if torch.equal(codes, theirs_here):
                continue
            other = codes != theirs_here
            site.add(other, exact.positions[name], agree, known[name])
            agree &= ~other.flatten(1).any(1)
        for i in differ.nonzero().ravel().tolist():
            one = slice(i, i + 1)
            inside = form.look_inside(images[one], pixels[one])
            self.different += 1
            self.ties += _is_tie(inside, expected.of(one), exact.of(one), self.classifies)


@torch.no_grad()
def compare(
    first: FakeQuantized,
    exact: AsIntegers | None,
    others: Sequence[Form],
    batches: Iterator[tuple[Tensor, Tensor]],
    codes: Sequence[Codes],
    classifies: bool = True,
) -> list[Comparison]:
    """Compare forms with the first one.

    Args:
        first: the fake-quantized network.
        exact: the integer network with float rescaling; None where there is none, and the first
            form tells what was rounded.
        others: further forms.
        batches: images and labels.
        codes: of the images, see :func:`~qatlab.deploy.pixels.pixel_codes`; none where no form
            takes bytes.
        classifies: whether outputs stand for classes.

    Returns:
        One comparison for each form, the first one's with itself in front.

    Raises:
        TrainingError: for answers that are not finite.
    """
    forms: list[Form] = [first, *([] if exact is None else [exact]), *others]
    found = [Comparison(form.name, form.tolerance, classifies) for form in forms]
    with first:
        for images, labels in batches:
            pixels = bytes_of(images, codes) if codes else images
            answers = [_finite(form, images, pixels) for form in forms]
            expected, batch = answers[0], (images, pixels, labels)
            whole = expected if exact is None else answers[1]
            known = _known(expected, whole)
            for form, own, answer in zip(forms, found, answers, strict=True):
                own.add(form, batch, expected, whole, known, answer)
    return found


def _finite(form: Form, images: Tensor, pixels: Tensor) -> Answer:
    """Return what a form answers; that to which nothing compares is reported with its cause."""
    answer = form(images, pixels)
    if answer.outputs.isfinite().all():
        return answer
    if isinstance(form, FakeQuantized):
        culprit = first_not_finite(form.model, images)
        raise TrainingError(f"the network's answers are not finite: {culprit}.")
    raise TrainingError(f"{form.name}: the answers are not finite; those of the network are.")


def _known(expected: Answer, exact: Answer) -> dict[str, Tensor]:
    """Return in which images two answers agree at all sites before each, ``(N,)``."""
    known, agree = dict[str, Tensor](), torch.ones(len(expected.outputs), dtype=torch.bool)
    for name, codes in expected.codes.items():
        known[name] = agree
        if name in exact.codes and not torch.equal(exact.codes[name], codes):
            agree = agree & ~(exact.codes[name] != codes).flatten(1).any(1)
    return known


def _from_tie(position: Tensor) -> float:
    return (position - position.floor() - 0.5).abs().max().item()


def _is_tie(found: Answer, expected: Answer, exact: Answer, classifies: bool) -> bool:
    """Tell whether the answers to one image part at a tie."""
    known = True
    for name, theirs in expected.codes.items():  # in the order of computation
        if name not in found.codes:
            continue
        codes = found.codes[name]
        other = codes != theirs
        if other.any():
            if known:
                return _from_tie(exact.positions[name][other]) < TIE
            return bool((codes - theirs).abs().max() == 1)  # what lies between is not known here
        known &= torch.equal(exact.codes[name], theirs)
    if not classifies:
        return False
    one, two = found.outputs.argmax(), expected.outputs.argmax()
    outputs = expected.outputs.ravel()
    return bool((outputs[one] - outputs[two]).abs() < EVEN * outputs.abs().max())
