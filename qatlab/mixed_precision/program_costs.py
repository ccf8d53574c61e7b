"""What bit widths cost a C program: flash, memory and instructions, by the exporter's own numbers.

Programs are written, built and run for a few uniform assignments: each width of weights with each
way in which codes are stored (two to a byte, or one). What a call of a program takes follows from
the width of the weights that it multiplies and from how the codes that it reads are stored; what
lies in memory, from how each tensor is stored. A program of any other assignment is put together of
these, and the exporter says afterwards what it really takes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import mean, median

from torch import Tensor as Numbers

from qatlab.deploy.c import CProgram, c_program
from qatlab.deploy.integer import Codes, IntegerNetwork, lower, with_rescale
from qatlab.deploy.integer import operations as ops
from qatlab.deploy.targets import FLAGS, Firmware, Target
from qatlab.mixed_precision.candidates import Candidates
from qatlab.mixed_precision.choices import Assignment, Choice, Choices, Tensor
from qatlab.mixed_precision.cost import Condition, Cost, Shared, Sum

RESCALE = "fixed32"


@dataclass(frozen=True)
class Figures:
    """What a program takes.

    Attributes:
        flash: bytes of constants, with code where it was built.
        ram: bytes of memory without image and outputs, with stack where it was run.
        instructions: for an image; None where it was not run.
    """

    flash: int
    ram: int
    instructions: int | None = None


@dataclass(frozen=True)
class Sample:
    """A program with one width of weights and one of activations."""

    network: IntegerNetwork
    program: CProgram
    firmware: Firmware | None

    @property
    def figures(self) -> Figures:
        """What it takes."""
        memory = self.program.ram - self.program.image_bytes
        if self.firmware is None:
            return Figures(self.program.flash, memory)
        core = self.firmware
        return Figures(core.flash, memory + core.stack, core.instructions)


class Programs:
    """Writes the programs of a network.

    Args:
        candidates: the network.
        codes: what bytes of each channel of an image stand for.
        example: ``(1, C, H, W)``.
        classes: names, one for each output; None for outputs that are no classes.
        target: the core that programs are built for; None to count constants and memory alone.
    """

    def __init__(
        self,
        candidates: Candidates,
        codes: Sequence[Codes],
        example: Numbers,
        classes: Sequence[str] | None,
        target: Target | None,
    ) -> None:
        self.candidates, self._codes, self._example = candidates, codes, example
        self._classes, self._target = classes, target

    def written(self, assignment: Assignment) -> tuple[IntegerNetwork, CProgram]:
        """Return an assignment as integers and as a program.

        Raises:
            ConfigError: for what has no such form, naming layer or site.
        """
        self.candidates.assign(assignment)
        exact = lower(self.candidates.model, self._codes, self._example)
        network = with_rescale(exact, RESCALE)
        return network, c_program(network, self._classes)

    def sample(self, assignment: Assignment, steps: bool = False) -> Sample:
        """Return the same with what it takes on the core, call by call if asked for."""
        network, program = self.written(assignment)
        firmware = None
        if self._target is not None:
            source, flags = program.source, FLAGS
            firmware = Firmware(source, program.is_whole, self._target, flags)
            firmware.measure()
            if steps:
                counted = Firmware(
                    program.source_with_steps,
                    program.is_whole,
                    self._target,
                    (*flags, f"-DQATLAB_STEPS={len(program.calls)}"),
                )
                counted.measure()
                firmware.steps = counted.steps
        return Sample(network, program, firmware)


class ProgramCosts:
    """Flash, memory and instructions of all assignments, from a few programs.

    Args:
        programs: writes them.
        steps: whether instructions are counted.
        advance: is called before each program with its number and how many there are.
    """

    def __init__(
        self,
        programs: Programs,
        steps: bool = False,
        advance: Callable[[int, int], None] = lambda i, n: None,
    ) -> None:
        self._choices = choices = programs.candidates.choices
        weights = _widths_of(choices, "weight") or [0]
        activations = _widths_of(choices, "activation") or [0]
        # How codes are stored at each width; programs of one way are built once.
        stored = {
            a: programs.written(_uniform(choices, weights[-1], a))[1].stored for a in activations
        }
        groups = {tuple(own.values()): a for a, own in stored.items()}
        self._samples: dict[tuple[int, int], Sample] = {}
        pairs = [(w, a) for w in weights for a in sorted(groups.values())]
        for i, (w, a) in enumerate(pairs):
            advance(i, len(pairs))
            self._samples[w, a] = programs.sample(_uniform(choices, w, a), steps)
        network = self._samples[pairs[0]].network
        self._operations = {op.name: op for op in network.operations}
        self._site_at = {op: name for name, own in network.sites.items() for op in own}
        # What has no call of its own is computed by the operation that reads it.
        self._called = set[str]().union(*(s.program.calls for s in self._samples.values()))
        self._kept_as = {
            (tensor, bits): stored[bits].get(self._operation_of(network, tensor.name))
            for tensor, bits in choices.all()
            if tensor.part == "activation"
        }

    @property
    def flash(self) -> Cost:
        """Bytes of constants, and of code where it was built."""
        sizes, rests = _Terms(mean), []
        kernels: dict[str, int] = {}
        users: defaultdict[str, set[Condition]] = defaultdict(set)
        for (w, a), sample in self._samples.items():
            code = {} if sample.firmware is None else sample.firmware.code
            own = sample.program.by_layer(code)
            for row in sample.program.layers:
                sizes.add(self._read_by(row.name, w, a), row.flash + own.get(row.name, 0))
            sizes.end_of_sample()
            used = set[str]()
            for name, functions in sample.program.uses.items():
                for function in code.keys() & functions:
                    used.add(function)
                    users[function].update(self._read_by(name, w, a))
                    kernels[function] = code[function]
            rests.append(own[""] - sum(kernels[function] for function in used))
        once = [Shared(size, frozenset(users[name])) for name, size in kernels.items()]
        always = sum(own.size for own in once if () in own.users)
        once = [own for own in once if () not in own.users]
        terms = sizes.merged()
        constant = terms.pop((), 0.0) + always + median(rests)
        return Cost("flash", "bytes", [Sum("flash", constant, terms, once)])

    @property
    def ram(self) -> Cost:
        """Bytes of memory at each operation, with the stack, without image and outputs."""
        rows: dict[str, _Terms] = {}
        for (w, a), sample in self._samples.items():
            names = [row.name for row in sample.program.layers]
            for part in sample.program.memory:
                first, last = names.index(part.first), names.index(part.last)
                if part.name not in self._operations:  # scratch of an operation
                    conditions = self._read_by(part.name.rpartition(" of ")[2], w, a)
                    spans = iter([(first, last, conditions, part.size)])
                else:
                    spans = self._spans(sample.program, part.name, first, last, a, part.size)
                for begin, end, conditions, size in spans:
                    for name in names[begin : end + 1]:
                        rows.setdefault(name, _Terms(max)).add(conditions, size)
            for own in rows.values():
                own.end_of_sample()
        stack = max(s.firmware.stack if s.firmware else 0 for s in self._samples.values())
        fixed = max(s.program.fixed_memory for s in self._samples.values())
        sums = []
        for name, own in rows.items():
            terms = own.merged()
            sums.append(Sum(name, stack + fixed + terms.pop((), 0.0), terms))
        return Cost("ram", "bytes", sums)

    @property
    def instructions(self) -> Cost:
        """Instructions of the core for an image."""
        counts, rests = _Terms(mean), []
        for (w, a), sample in self._samples.items():
            assert sample.firmware is not None
            steps = sample.firmware.steps
            for name, count in zip(sample.program.calls, steps, strict=True):
                counts.add(self._read_by(name, w, a), count)
            counts.end_of_sample()
            rests.append((sample.firmware.instructions or 0) - sum(steps))
        terms = counts.merged()
        constant = terms.pop((), 0.0) + median(rests)
        return Cost("instructions", "instructions", [Sum("instructions", constant, terms)])

    def _read_by(self, name: str, w: int, a: int) -> list[Condition]:
        """Return the conditions under which an operation is computed as in a sample.

        Those of the weights that it multiplies, and of how the codes that these read are stored; of
        what reads the image, or no weights, of how its own are.
        """
        weight, site = self._sources(name)
        return self._conditions(weight, site or self._site_of(name), w, a)

    def _spans(
        self, program: CProgram, name: str, first: int, last: int, a: int, size: int
    ) -> Iterator[tuple[int, int, list[Condition], int]]:
        """Yield when each tensor of a part of the memory is needed, and how much it takes.

        Tensors that are written over each other are counted both at that moment, less the bytes of
        one if they are stored alike: if not, they lie apart.
        """
        names = [row.name for row in program.layers]
        over = {other: own for own, other in program.in_place.items()}
        while (after := over.get(name)) is not None:
            end = names.index(after)
            yield first, end, self._stored_by(name, a), size
            both = [
                one + two
                for one in self._stored_by(name, a)
                for two in self._stored_by(after, a)
                if one != two
            ]
            yield end, end, both, -size
            name, first = after, end
        yield first, last, self._stored_by(name, a), size

    def _stored_by(self, name: str, a: int) -> list[Condition]:
        """Return the conditions under which a tensor is stored as in a sample."""
        return self._conditions(None, self._site_of(name), 0, a)

    def _conditions(
        self, weight: Tensor | None, site: Tensor | None, w: int, a: int
    ) -> list[Condition]:
        parts: list[list[Choice]] = []
        if weight in self._choices.widths:
            assert weight is not None
            parts.append([(weight, nearest(self._choices.widths[weight], w))])
        if site in self._choices.widths:
            assert site is not None
            widths = self._choices.widths[site]
            kept_as = self._kept_as[site, nearest(widths, a)]
            parts.append([(site, b) for b in widths if self._kept_as[site, b] == kept_as])
        return list(product(*parts))

    def _sources(self, name: str) -> tuple[Tensor | None, Tensor | None]:
        """Return the largest weights that an operation multiplies, and the site that they read.

        Without weights: the first site that it reads.
        """
        found: list[tuple[int, Tensor | None, Tensor | None]] = []

        def look(name: str, weight: Tensor | None, size: int) -> None:
            op = self._operations[name]
            if isinstance(op, ops.Convolve | ops.Multiply):
                weight, size = self._weight_of(name), op.weight.size
            for source in op.inputs:
                if source in self._called:
                    found.append((size, weight, self._site_of(source)))
                elif self._operations[source].inputs:
                    look(source, weight, size)
                else:
                    found.append((size, weight, None))

        look(name, None, 0)
        return max(found, key=lambda own: own[0])[1:] if found else (None, None)

    def _weight_of(self, name: str) -> Tensor:
        """Return the weights of an operation; those of a second call have a number behind them."""
        own = Tensor("weight", name)
        first = Tensor("weight", re.sub(r"_\d+$", "", name))
        return first if own not in self._choices.widths and first in self._choices.widths else own

    def _site_of(self, name: str) -> Tensor | None:
        """Return the site whose codes an operation makes or hands on; None for those of images."""
        if name in self._site_at:
            return Tensor("activation", self._site_at[name])
        found = (self._site_of(source) for source in self._operations[name].inputs)
        return next((own for own in found if own is not None), None)

    @staticmethod
    def _operation_of(network: IntegerNetwork, site: str) -> str:
        return network.sites[site][-1] if site in network.sites else site


class _Terms:
    """Numbers of several samples by the conditions under which they hold.

    Args:
        merge: makes one of those that samples give for a condition.
    """

    def __init__(self, merge: Callable[[list[float]], float]) -> None:
        self._merge, self._found = merge, defaultdict[Condition, list[float]](list)
        self._sample = defaultdict[Condition, float](float)

    def add(self, conditions: Sequence[Condition], number: float) -> None:
        """Add a number of this sample, under any of some conditions."""
        for condition in conditions:
            self._sample[condition] += number

    def end_of_sample(self) -> None:
        """Begin with the next sample."""
        for condition, number in self._sample.items():
            self._found[condition].append(number)
        self._sample.clear()

    def merged(self) -> dict[Condition, float]:
        """Return one number for each condition."""
        return {condition: self._merge(own) for condition, own in self._found.items()}


def nearest(widths: Sequence[int], bits: int) -> int:
    """Return the width that is nearest; of two that are, the narrower."""
    return min(widths, key=lambda own: (abs(own - bits), own))


def _widths_of(choices: Choices, part: str) -> list[int]:
    """Return all widths of weights, or of sites."""
    found = {bits for tensor, bits in choices.all() if tensor.part == part}
    return sorted(found)


def _uniform(choices: Choices, w: int, a: int) -> dict[Tensor, int]:
    return {
        tensor: nearest(widths, w if tensor.part == "weight" else a)
        for tensor, widths in choices.widths.items()
    }
