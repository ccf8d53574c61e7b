"""Writes random networks as people write them: modules, functions and methods, in all spellings.

A :class:`Author` writes statement by statement. What torch cannot compute, such as a window that is
larger than its map, is not written; so the makers of statements below need not know the sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Any

import torch
from random_programs import Bench, Program, Recipe, Statement, Unfit
from torch import Tensor

Parameter = tuple[str, str, str]  # name, value, default ("" for none)


def call(random: Random, function: str, *parameters: Parameter, positions: int = 9) -> str:
    """Return a call: some arguments by position, others by keyword, some left to their default.

    Args:
        random: decides.
        function: what is called.
        parameters: in their order.
        positions: how many may be given by position.
    """
    needed = [i for i, (_, value, default) in enumerate(parameters) if value != default]
    most = min(positions, needed[-1] + 1 if needed else 0)
    by_position = random.randint(0, most) if random.random() < 0.7 else most
    words = []
    for i, (name, value, default) in enumerate(parameters):
        if i < by_position:
            words.append(value)
        elif value != default or random.random() < 0.05:
            words.append(f"{name}={value}")
    return f"{function}({', '.join(words)})"


class Author:
    """Writes the statements of one class.

    Args:
        random: decides.
        x: the input, two images.
        in_block: whether it writes a block, all of whose tensors have the size of its input.
    """

    def __init__(self, random: Random, x: Tensor, in_block: bool = False) -> None:
        self.random, self.in_block = random, in_block
        self.blocks: dict[str, tuple[Statement, ...]] = {}
        self.bench = Bench(x, self.blocks)
        self.statements: list[Statement] = []
        self.shared: list[Statement] = []  # calls of modules, which may be called once more
        self.newest = "x"
        self.count = 0
        self.spare = 0  # how many statements of the rare kinds may still be written

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def shape(self, name: str) -> tuple[int, ...]:
        """Return ``(C, H, W)`` or ``(features,)``."""
        return tuple(self.bench.values[name].shape[1:])

    def pick(self, sides: int = 3) -> str | None:
        """Return a tensor with that many sides, mostly the newest one."""
        fit = [n for n in self.bench.values if len(self.shape(n)) == sides and n != "x"]
        if len(self.shape("x")) == sides and (not fit or self.random.random() < 0.05):
            fit.append("x")
        if self.newest in fit and self.random.random() < 0.8:
            return self.newest
        return self.random.choice(fit) if fit else None

    def like(self, name: str) -> str | None:
        """Return another tensor of the same shape, or perhaps the same one."""
        fit = [n for n in self.bench.values if self.shape(n) == self.shape(name) and n != "x"]
        others = [n for n in fit if n != name]
        if others and self.random.random() < 0.9:
            return self.random.choice(others)
        return name if fit and self.random.random() < 0.3 else None

    def write(
        self,
        reads: tuple[str, ...],
        text: str,
        *made: str,
        count: int = 1,
        in_place: bool = False,
        block: str = "",
    ) -> str | None:
        """Write a statement and return its first result, or None if torch cannot compute it."""
        results = () if in_place else tuple(self.name("y") for _ in range(count))
        statement = Statement(results, reads, text, made, block)
        try:
            self.bench.add(statement)
        except Unfit:
            return None
        self.statements.append(statement)
        if made and count == 1 and text.endswith("({0})"):
            self.shared.append(statement)
        self.newest = statement.written[0]
        if count > 1:
            self.newest = self.random.choice(statement.written)
        return statement.written[0]

    def module(self, stem: str, text: str, sides: int = 3, *more: str) -> str | None:
        """Write the call of a new module, with more lines for ``__init__``, of ``{m}``."""
        name = self.pick(sides)
        if name is None:
            return None
        own = self.name(stem)
        if self.random.random() < 0.1:
            wrapped = self.random.choice([f"nn.Sequential({text})", f"nn.Sequential({text}, )"])
            own_path, text = f"{own}[0]", wrapped
        else:
            own_path = own
        lines = [line.replace("{m}", own_path) for line in more]
        return self.write((name,), f"self.{own}({{0}})", f"self.{own} = {text}", *lines)

    def either(self, *choices: Any) -> Any:
        return self.random.choice(choices)

    def chance(self, share: float) -> bool:
        return self.random.random() < share


Maker = Callable[[Author], str | None]


def convolution(a: Author) -> str | None:
    name = a.pick()
    if name is None:
        return None
    random, (channels, _, _) = a.random, a.shape(name)
    kernel = a.either("3", "3", "3", "1", "1", "2", "5", "(1, 3)", "(3, 1)", "(3, 3)", "(2, 3)")
    stride = a.either("1", "1", "1", "2", "(2, 1)", "(1, 2)", "3")
    padding = a.either("0", "1", "1", "1", "2", "(1, 0)", "(0, 1)")
    if a.chance(0.06):
        padding = a.either("'same'", "'valid'")
    dilation = a.either("1", "1", "1", "1", "2", "(1, 2)")
    if a.in_block:
        kernel, stride, dilation = a.either("3", "1"), "1", "1"
        padding = {"3": "1", "1": "0"}[kernel]
        if a.chance(0.1):
            padding = "'same'"
    if padding == "'same'":
        stride = "1"
    mode = a.either("'reflect'", "'replicate'", "'circular'") if a.chance(0.05) else "'zeros'"
    kind = random.choice(["all", "all", "all", "depthwise", "grouped"])
    groups, out = "1", str(random.randint(2, 8))
    if kind == "depthwise" and channels > 1:
        groups = "{c0}"
        factor = random.choice([1, 1, 2, 3]) if channels <= 4 else 1
        out = groups if factor == 1 else f"{factor} * {{c0}}"
    elif kind == "grouped" and channels % 2 == 0:
        groups, out = "2", str(2 * random.randint(1, 4))
    bias = a.either("True", "True", "False")
    text = call(
        random,
        "nn.Conv2d",
        ("in_channels", "{c0}", ""),
        ("out_channels", out, ""),
        ("kernel_size", kernel, ""),
        ("stride", stride, "1"),
        ("padding", padding, "0"),
        ("dilation", dilation, "1"),
        ("groups", groups, "1"),
        ("bias", bias, "True"),
        ("padding_mode", mode, "'zeros'"),
    )
    if a.chance(0.02):
        text = text.replace("nn.", a.either("Own", "Standard"))
    return a.module("conv", text, 3, *masks(a))


def masks(a: Author) -> list[str]:
    """Return lines that set some weights of ``{m}`` to 0, if any."""
    if not a.chance(0.02):
        return []
    prunes = a.either(
        "prune.random_unstructured(self.{m}, 'weight', amount=0.4)",
        "prune.l1_unstructured(self.{m}, name='weight', amount=0.3)",
        "prune.ln_structured(self.{m}, name='weight', amount=0.3, n=2, dim=0)",
        *("parametrizations.weight_norm(self.{m})", "parametrizations.spectral_norm(self.{m})"),
        "self.{m}.register_buffer('weight_mask', (torch.rand_like(self.{m}.weight) > 0.3).float())",
    )
    if prunes.startswith("prune") and a.chance(0.3):
        return [prunes, "prune.remove(self.{m}, 'weight')"]
    return [prunes]


def linear(a: Author) -> str | None:
    text = call(
        a.random,
        "nn.Linear",
        ("in_features", "{c0}", ""),
        ("out_features", str(a.random.randint(2, 8)), ""),
        ("bias", a.either("True", "True", "False"), "True"),
    )
    if a.chance(0.02):
        text = text.replace("nn.", "Own")
    return a.module("fc", text, 1, *masks(a))


OTHER_NORMS = (
    *("nn.BatchNorm2d({c0}, track_running_stats=False)", "nn.GroupNorm(1, {c0})"),
    *("nn.InstanceNorm2d({c0})", "nn.LayerNorm([{c0}, {h0}, {w0}])"),
)


def norm(a: Author) -> str | None:
    more = a.either("", "", "", "", ", affine=False", ", eps=1e-3", ", momentum=None")
    if a.chance(0.02):
        return a.module("bn", a.either(*OTHER_NORMS))
    return a.module("bn", f"nn.BatchNorm2d({{c0}}{more})")


def norm_of_features(a: Author) -> str | None:
    return a.module("bn", f"nn.BatchNorm1d({{c0}}{a.either('', '', ', affine=False')})", 1)


RELUS = (
    *("nn.ReLU()", "nn.ReLU(inplace=True)", "nn.ReLU6()", "nn.ReLU6(inplace=True)"),
    *("F.relu({0})", "F.relu({0}, inplace=True)", "torch.relu({0})", "{0}.relu()", "{0}.relu_()"),
    *("F.relu6({0})", "F.relu(input={0})", "OwnReLU()"),
)
CLAMPS = (
    *("torch.clamp({0}, 0, 6)", "torch.clamp({0}, min=0, max=6)", "{0}.clamp(0, 4)"),
    *("{0}.clamp(min=0)", "{0}.clamp_min(0)", "torch.clamp({0}, min=0.)", "{0}.clamp(-1, 1)"),
    *("F.hardtanh({0}, 0., 6.)", "F.hardtanh({0}, min_val=0., max_val=6.)", "F.hardtanh({0})"),
    *("nn.Hardtanh(0., 6.)", "nn.Hardtanh()", "nn.Hardtanh(min_val=-2, max_val=2)"),
    *("nn.Hardtanh(min_val=0.)", "nn.Hardtanh(0.1, 3.)", "torch.clamp({0}, min=0.2)"),
    *("{0}.clamp_(0, 1)", "{0}.clip(0, 6)", "torch.clip({0}, 0., 2.)", "{0}.clamp(max=3)"),
    *("nn.Threshold(0., 0.)", "F.threshold({0}, 0., 0.)"),
    "torch.maximum({0}, torch.zeros_like({0}))",
)
SLOPES = (
    *("nn.LeakyReLU(0.1)", "nn.LeakyReLU()", "F.leaky_relu({0}, 0.1)", "nn.LeakyReLU(0.25, True)"),
    *("F.leaky_relu({0}, negative_slope=0.2)", "nn.PReLU()", "nn.PReLU({c0})"),
    *("nn.PReLU(init=0.1)", "F.leaky_relu_({0}, 0.1)"),
)
OTHERS = (
    *("{0}.abs()", "torch.abs({0})", "torch.square({0})", "{0} * {0}", "{0} ** 2", "{0}.exp()"),
    *("torch.sigmoid({0})", "{0}.sigmoid()", "F.silu({0})", "nn.SiLU()", "nn.Hardswish()"),
    *("nn.GELU()", "nn.Sigmoid()", "nn.Hardsigmoid()", "nn.Softplus()", "nn.Tanh()"),
    *("F.softplus({0})", "F.elu({0})", "nn.ELU()", "torch.sqrt({0}.abs())", "torch.tanh({0})"),
    *("nn.Softmax(dim=1)", "F.softmax({0}, dim=1)", "{0}.softmax(1)", "nn.Identity()"),
)
SMOOTH = (  # what whole numbers have as tables, and Hardsigmoid
    *("torch.sigmoid({0})", "{0}.sigmoid()", "{0}.sigmoid_()", "nn.Sigmoid()", "F.sigmoid({0})"),
    *("F.silu({0})", "nn.SiLU()", "nn.SiLU(inplace=True)", "F.silu({0}, inplace=True)"),
    *("nn.Hardswish()", "F.hardswish({0})", "nn.Hardswish(True)", "nn.GELU()", "F.gelu({0})"),
    *("nn.GELU('tanh')", "F.gelu({0}, approximate='tanh')", "nn.Mish()", "F.mish({0})"),
    *("nn.Tanh()", "torch.tanh({0})", "{0}.tanh()", "nn.ELU()", "F.elu({0}, 0.5)", "F.selu({0})"),
    *("nn.ELU(alpha=0.7, inplace=True)", "nn.CELU(0.6)", "nn.Softplus()", "nn.Softplus(2, 3)"),
    *("F.softplus({0}, beta=3)", "nn.Softsign()", "F.logsigmoid({0})", "nn.Threshold(0.1, 0.5)"),
    *("F.threshold({0}, 0.2, -0.3)", "nn.Hardsigmoid()", "F.hardsigmoid({0}, inplace=True)"),
    "F.hardsigmoid({0})",
)


def _function(a: Author, text: str, sides: int = 3) -> str | None:
    """Write a module or a function of one tensor."""
    if text.startswith(("nn.", "Own")):
        return a.module("act", text, sides)
    name = a.pick(sides)
    return a.write((name,), text) if name else None


def sides_of_newest(a: Author) -> int:
    return len(a.shape(a.newest))


def relu(a: Author) -> str | None:
    return _function(a, a.either(*RELUS), sides_of_newest(a))


def clamp(a: Author) -> str | None:
    return _function(a, a.either(*CLAMPS), sides_of_newest(a))


def slope(a: Author) -> str | None:
    return _function(a, a.either(*SLOPES), sides_of_newest(a))


def other_function(a: Author) -> str | None:
    return _function(a, a.either(*OTHERS), sides_of_newest(a))


def smooth(a: Author) -> str | None:
    return _function(a, a.either(*SMOOTH), sides_of_newest(a))


def dropout(a: Author) -> str | None:
    text = a.either(
        *(
            "nn.Dropout(0.3)",
            "nn.Dropout2d(0.2)",
            "nn.Dropout()",
            "nn.Dropout(p=0.2, inplace=True)",
        ),
        *("F.dropout({0}, 0.3, training=self.training)", "F.dropout({0}, 0.2, self.training)"),
        *("F.dropout({0}, training=self.training)", "F.dropout2d({0}, 0.2, self.training)"),
        "F.dropout({0}, p=0.1, training=self.training, inplace=True)",
        *("torchvision.ops.StochasticDepth(0.2, 'row')", "nn.AlphaDropout(0.1)"),
        "torchvision.ops.StochasticDepth(p=0.2, mode='batch')",
        "torchvision.ops.stochastic_depth({0}, 0.2, 'row', self.training)",
    )
    if a.chance(0.6):
        text = a.either("nn.Dropout(0.3)", "nn.Dropout()")
    if "dropout2d" in text.lower() and sides_of_newest(a) == 1:
        return None
    if text.startswith("torchvision.ops.S"):
        return a.module("drop", text, sides_of_newest(a))
    return _function(a, text, sides_of_newest(a))


def max_pool(a: Author) -> str | None:
    kernel = a.either("2", "2", "3", "3", "(2, 2)", "(1, 2)", "(3, 2)")
    stride = a.either("None", "None", "2", "1", "(2, 1)")
    padding = a.either("0", "0", "1", "(1, 0)")
    if a.in_block:
        kernel, stride, padding = "3", "1", "1"
    dilation = a.either("1", "1", "1", "2") if not a.in_block else "1"
    ceil = a.either("False", "False", "True")
    settings = (
        ("kernel_size", kernel, ""),
        ("stride", stride, "None"),
        ("padding", padding, "0"),
        ("dilation", dilation, "1"),
    )
    if a.chance(0.6):
        end = (("return_indices", "False", "False"), ("ceil_mode", ceil, "False"))
        return a.module("pool", call(a.random, "nn.MaxPool2d", *settings, *end))
    tail = ("ceil_mode", ceil, "False")
    name = a.pick()
    function = a.either("F.max_pool2d", "torch.max_pool2d")
    text = call(a.random, function, ("input", "{0}", ""), *settings, tail)
    return a.write((name,), text) if name else None


def average_pool(a: Author) -> str | None:
    odd = a.chance(0.4)
    kernel = a.either("2", "2", "3", "(2, 2)", "(1, 2)", "(3, 2)")
    stride = a.either("None", "None", "2", "1", "(2, 1)")
    padding = a.either("0", "1", "(1, 0)") if odd else "0"
    if a.in_block:
        kernel, stride, padding = "3", "1", "1"
    parameters = (
        ("kernel_size", kernel, ""),
        ("stride", stride, "None"),
        ("padding", padding, "0"),
        ("ceil_mode", a.either("False", "True") if odd else "False", "False"),
        ("count_include_pad", a.either("True", "False") if odd else "True", "True"),
        ("divisor_override", a.either("None", "None", "3") if odd else "None", "None"),
    )
    if a.chance(0.6):
        return a.module("pool", call(a.random, "nn.AvgPool2d", *parameters))
    name = a.pick()
    text = call(a.random, "F.avg_pool2d", ("input", "{0}", ""), *parameters)
    return a.write((name,), text) if name else None


def adaptive_pool(a: Author) -> str | None:
    size = a.either("1", "1", "2", "(1, 1)", "(2, 1)", "(None, 1)", "3", "(2, 3)")
    kind = a.either("avg", "avg", "max")
    if a.chance(0.6):
        return a.module("pool", f"nn.Adaptive{kind.capitalize()}Pool2d({size})")
    name = a.pick()
    return a.write((name,), f"F.adaptive_{kind}_pool2d({{0}}, {size})") if name else None


MAPS = (  # of maps, which stay maps
    *("{0}.mean((2, 3), keepdim=True)", "{0}.mean([-2, -1], keepdim=True)"),
    *("torch.mean({0}, dim=(2, 3), keepdim=True)", "{0}.amax((2, 3), keepdim=True)"),
    *("{0}.mean(3, keepdim=True).mean(2, keepdim=True)", "{0}.mean(2, True).mean(3, True)"),
    *("F.avg_pool2d({0}, {0}.size()[3])", "F.avg_pool2d({0}, {0}.shape[2])"),
    *("F.avg_pool2d({0}, kernel_size={0}.size()[2:])", "F.max_pool2d({0}, {0}.size(2))"),
    *("{0}.mean(1, keepdim=True)", "{0}.mean(3, keepdim=True)", "{0}.sum(1, keepdim=True)"),
    *("{0}.sum((2, 3), keepdim=True)", "torch.mean({0}, 2, True)", "{0}.amax(1, keepdim=True)"),
    "F.adaptive_avg_pool2d({0}, ({0}.shape[2] // 2, 1))",
)
FLATTENINGS = (  # of maps, which become vectors
    *("torch.flatten({0}, 1)", "{0}.flatten(1)", "torch.flatten({0}, start_dim=1)"),
    *("{0}.view({0}.size(0), -1)", "{0}.view(-1, {f0})", "{0}.reshape({0}.shape[0], -1)"),
    *("{0}.reshape(-1, {c0} * {h0} * {w0})", "torch.reshape({0}, ({0}.size(0), -1))"),
    *("nn.Flatten()", "nn.Flatten(1)", "{0}.contiguous().view({0}.size()[0], -1)"),
    *("{0}.view({0}.shape[0], {0}.shape[1] * {0}.shape[2] * {0}.shape[3])",),
    *(
        "{0}.flatten(2).flatten(1)",
        "{0}.permute(0, 2, 3, 1).flatten(1)",
        "{0}.flatten(start_dim=1)",
    ),
)
WHOLE_MAPS = (  # of maps, of which one number for each channel stays
    *("{0}.mean((2, 3))", "{0}.mean([2, 3])", "{0}.mean(dim=(-1, -2))", "{0}.mean(-1).mean(-1)"),
    *("{0}.mean(3).mean(2)", "torch.mean({0}, dim=[2, 3])", "torch.mean({0}, (2, 3))"),
    *("F.adaptive_avg_pool2d({0}, 1).flatten(1)", "{0}.amax((2, 3))", "{0}.amax(dim=(-2, -1))"),
    *("F.adaptive_avg_pool2d({0}, (1, 1)).squeeze(-1).squeeze(-1)", "{0}.sum((2, 3))"),
    *("F.avg_pool2d({0}, {0}.size()[3]).view({0}.size(0), -1)", "{0}.sum(dim=[2, 3])"),
    *("F.avg_pool2d({0}, {0}.shape[2:]).flatten(1)", "{0}.flatten(2).mean(2)"),
    *("F.max_pool2d({0}, kernel_size={0}.size()[2:]).view({0}.size(0), -1)",),
    *(
        "{0}.view({0}.size(0), {0}.size(1), -1).mean(dim=2)",
        "{0}.mean([2, 3], keepdim=True)[:, :, 0, 0]",
    ),
    *("{0}.flatten(2).amax(-1)", "F.adaptive_max_pool2d({0}, 1)[:, :, 0, 0]"),
    *(
        "{0}.mean(dim=2, keepdim=False).mean(dim=2)",
        "F.adaptive_avg_pool2d({0}, 1).squeeze(3).squeeze(2)",
    ),
)


def kept_map(a: Author) -> str | None:
    return _function(a, a.either(*MAPS))


def concatenation(a: Author) -> str | None:
    first = a.pick(sides_of_newest(a))
    if first is None:
        return None
    own = a.shape(first)
    fit = [n for n in a.bench.values if len(a.shape(n)) == len(own) and a.shape(n)[1:] == own[1:]]
    chosen = [a.random.choice(fit) for _ in range(a.random.choice([1, 1, 1, 2]))]
    reads = (first, *chosen) if a.chance(0.5) else (*chosen, first)
    words = ", ".join(f"{{{i}}}" for i in range(len(reads)))
    text = a.either(
        *(f"torch.cat([{words}], 1)", f"torch.cat([{words}], dim=1)", f"torch.cat(({words}), 1)"),
        *(f"torch.cat(({words}), dim=1)", f"torch.concat([{words}], 1)"),
        *(f"torch.cat([{words}], -{len(own)})", f"torch.cat(tensors=[{words}], dim=1)"),
    )
    return a.write(reads, text)


SUMS = (
    *("{0} + {1}", "{0} + {1}", "{1} + {0}", "torch.add({0}, {1})", "{0}.add({1})"),
    *("torch.add({0}, {1}, alpha=0.5)", "{0}.add({1}, alpha=2)", "torch.add(input={0}, other={1})"),
    *("sum([{0}, {1}])", "{0} + 0.1 * {1}", "torch.stack([{0}, {1}]).sum(0)"),
)
IN_PLACE = ("{0} += {1}", "{0}.add_({1})", "{0} -= {1}", "{0}.add_({1}, alpha=0.5)")
DIFFERENCES = (
    *("{0} - {1}", "torch.sub({0}, {1})", "{0}.sub({1})", "{0}.sub({1}, alpha=0.5)"),
    *("torch.sub({0}, {1}, alpha=2)", "torch.subtract({0}, {1})", "{1} - {0}"),
)


def addition(a: Author) -> str | None:
    first = a.pick(sides_of_newest(a))
    second = a.like(first) if first else None
    if not (first and second):
        return None
    if a.chance(0.25):
        return a.write((first, second), a.either(*IN_PLACE[:2]), in_place=True)
    return a.write((first, second), a.either(*SUMS))


def subtraction(a: Author) -> str | None:
    first = a.pick(sides_of_newest(a))
    second = a.like(first) if first else None
    if not (first and second):
        return None
    if a.chance(0.25):
        return a.write((first, second), a.either(*IN_PLACE[2:]), in_place=True)
    return a.write((first, second), a.either(*DIFFERENCES))


FLOAT_WEIGHTS = (
    *("nn.ConvTranspose2d({c0}, 2, 2, stride=2)", "nn.ConvTranspose2d({c0}, {c0}, 3, padding=1)"),
    *("nn.Bilinear({c0}, {c0}, 2)", "nn.LPPool2d(2, 2)", "nn.LocalResponseNorm(2)"),
)


def layer_of_another_kind(a: Author) -> str | None:
    """Write a layer that has no quantizer, or a linear layer along the channels of a map."""
    name = a.pick()
    own = a.name("layer")
    if name is None or a.chance(0.4):
        return a.module("layer", a.either(*FLOAT_WEIGHTS))
    out = a.random.randint(2, 6)
    text, made = a.either(*_own_products(own, out))
    return a.write((name,), text, made)


def _own_products(own: str, out: int) -> list[tuple[str, str]]:
    linear = f"self.{own} = nn.Linear({{c0}}, {out})"
    return [
        (f"self.{own}({{0}}.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)", linear),
        (f"self.{own}({{0}}.flatten(2).transpose(1, 2)).mean(1)", linear),
        (f"self.{own}({{0}})", f"self.{own} = nn.Linear({{w0}}, {out})"),
        (
            f"F.conv2d({{0}}, self.{own})",
            f"self.{own} = nn.Parameter(torch.randn({out}, {{c0}}, 1, 1))",
        ),
        (f"F.linear({{0}}, self.{own})", f"self.{own} = nn.Parameter(torch.randn({out}, {{w0}}))"),
    ]


def shortcut(a: Author) -> str | None:
    """Write a layer that brings the newest tensor to the shape of another one, and the sum."""
    name, other = a.pick(), a.pick()
    if name is None or other is None or name == other:
        return None
    (_, *size), (channels, *asked) = a.shape(name), a.shape(other)
    strides = [-(-s // t) for s, t in zip(size, asked, strict=True)]
    if any(-(-s // stride) != t for s, stride, t in zip(size, strides, asked, strict=True)):
        return None
    own = a.name("down")
    conv = f"nn.Conv2d({{c0}}, {channels}, 1, stride=({strides[0]}, {strides[1]}), bias=False)"
    if a.chance(0.5):
        conv = f"nn.Sequential({conv}, nn.BatchNorm2d({channels}))"
    made = a.write((name,), f"self.{own}({{0}})", f"self.{own} = {conv}")
    if made is None:
        return None
    return a.write((other, made), a.either(*SUMS))


def upsampled(a: Author) -> str | None:
    """Write an upsampling, and its concatenation or sum with another tensor, as decoders do."""
    name = a.pick()
    fit = [n for n in a.bench.values if len(a.shape(n)) == 3 and n not in (name, "x")]
    if name is None or not fit:
        return None
    text = a.either("F.interpolate({0}, {1}.shape[2:])", "F.interpolate({0}, size={1}.shape[-2:])")
    other = a.random.choice(fit)
    made = a.write((name, other), text)
    if made is None:
        return None
    if a.shape(made) == a.shape(other) and a.chance(0.5):
        return a.write((made, other), a.either(*SUMS))
    return a.write((made, other), "torch.cat([{0}, {1}], 1)")


def broadcast_sum(a: Author) -> str | None:
    first = a.pick()
    if first is None:
        return None
    channels, height, width = a.shape(first)
    shapes = [(channels, 1, 1), (1, height, width), (channels, height, 1), (1, 1, 1)]
    fit = [n for n in a.bench.values if a.shape(n) in shapes and n not in (first, "x")]
    if not fit:
        small = a.either(*MAPS[:6])
        second = a.write((first,), small)
        return second and a.write((first, second), a.either(*SUMS[:5], "{0} - {1}"))
    return a.write((first, a.random.choice(fit)), a.either(*SUMS[:5]))


def product(a: Author) -> str | None:
    first = a.pick(sides_of_newest(a))
    second = a.like(first) if first else None
    if not (first and second):
        return None
    text = a.either("{0} * {1}", "torch.mul({0}, {1})", "{0}.mul({1})", "{1} * {0}")
    return a.write((first, second), text)


def gate(a: Author) -> str | None:
    """Write squeeze-and-excitation, or a product with another tensor that is broadcast."""
    name = a.pick()
    if name is None:
        return None
    if a.chance(0.6):
        own, few = a.name("se"), str(a.random.randint(1, 3))
        layers = f"nn.Conv2d({{c0}}, {few}, 1), nn.ReLU(), nn.Conv2d({few}, {{c0}}, 1)"
        last = a.either("nn.Sigmoid()", "nn.Hardsigmoid()", "nn.Sigmoid()", "nn.Tanh()")
        squeeze = a.either("nn.AdaptiveAvgPool2d(1)", "nn.AdaptiveMaxPool2d((1, 1))")
        made = f"self.{own} = nn.Sequential({squeeze}, {layers}, {last})"
        text = a.either(
            *(f"{{0}} * self.{own}({{0}})", f"self.{own}({{0}}) * {{0}}"),
            *(f"torch.mul({{0}}, self.{own}({{0}}))", f"{{0}}.mul(self.{own}({{0}}))"),
        )
        return a.write((name,), text, made)
    other = a.either(
        *("{0}.mean((2, 3), keepdim=True)", "{0}.amax((2, 3), keepdim=True)", "{0}[:, :1]"),
        *("F.adaptive_avg_pool2d({0}, 1).sigmoid()", "{0}[:, :, :1]", "torch.sigmoid({0})"),
        "F.hardsigmoid({0}[:, :1]).mean((2, 3), keepdim=True)",
    )
    return a.write((name,), a.either(f"{{0}} * {other}", f"torch.mul({other}, {{0}})"))


NUMBERS = (
    *(
        "0 + {0}",
        "{0} + 0",
        "{0} * 0.5",
        "0.7 * {0}",
        "1 - {0}",
        "{0} / 2",
        "2 * {0}",
        "{0} + 0.25",
    ),
    *("-{0}", "{0}.mul(0.5)", "torch.mul({0}, 0.7)", "{0}.div(3)", "{0} - 0.1", "{0}.neg()"),
    *("torch.div({0}, 4)", "torch.neg({0})", "torch.add({0}, 0.3)", "{0}.add(1)", "{0} * -1"),
    *("torch.sub({0}, 0.2)", "{0} / 0.3", "1.5 - {0}", "{0}.sub(0.5)", "torch.rsub({0}, 1)"),
    *("{0} / {0}.shape[1]", "{0} * 2 + 1", "torch.mul({0}, other=2)", "torch.add(1, {0}, alpha=2)"),
)


def number(a: Author) -> str | None:
    if a.chance(0.15):
        name = a.pick(sides_of_newest(a))
        text = a.either("{0} *= 0.5", "{0} += 0.25", "{0}.mul_(2)", "{0}.div_(2)", "{0} /= 4")
        return a.write((name,), text, in_place=True) if name else None
    return _function(a, a.either(*NUMBERS), sides_of_newest(a))


def own_parameter(a: Author) -> str | None:
    """Write a product or a sum with a parameter or buffer for each channel: a layer scale."""
    sides = sides_of_newest(a)
    name = a.pick(sides)
    if name is None:
        return None
    own = a.name("scale")
    shape = a.either("{c0}, 1, 1", "1, {c0}, 1, 1", "1", "1, 1, 1, 1") if sides == 3 else "{c0}"
    values = a.either(f"torch.full(({shape},), 0.5)", f"torch.rand({shape}) + 0.5")
    values = a.either(values, f"torch.randn({shape})")
    made = a.either(
        f"self.{own} = nn.Parameter({values})",
        f"self.{own} = nn.Parameter({values})",
        f"self.register_buffer('{own}', {values})",
    )
    text = a.either(
        *(f"{{0}} * self.{own}", f"self.{own} * {{0}}", f"{{0}} + self.{own}"),
        *(f"{{0}}.mul(self.{own})", f"torch.add({{0}}, self.{own})", f"{{0}} - self.{own}"),
    )
    return a.write((name,), text, made)


PADS = (
    *("F.pad({0}, (1, 1, 1, 1))", "F.pad({0}, (0, 1, 0, 1))", "F.pad({0}, [1, 0])"),
    *("F.pad({0}, (0, 0, 2, 1), 'constant', 0)", "F.pad({0}, (1, 2, 0, 0), value=0.)"),
    *("nn.ZeroPad2d(1)", "nn.ZeroPad2d((0, 1, 0, 1))", "nn.ConstantPad2d(1, 0.)"),
    *("nn.ReflectionPad2d(1)", "nn.ReplicationPad2d((1, 0, 1, 0))", "nn.CircularPad2d(1)"),
    *("F.pad({0}, (1, 1, 1, 1), mode='reflect')", "F.pad({0}, (1, 1), mode='replicate')"),
    *("F.pad({0}, (1, 1, 1, 1), 'circular')", "F.pad({0}, (1, 1, 1, 1), value=0.5)"),
    *(
        "F.pad({0}, (0, 0, 0, 0, 0, 2))",
        "F.pad({0}, (0, 0, 0, 0, 1, 1))",
        "F.pad({0}, (-1, 0, 0, -1))",
    ),
    *(
        "F.pad({0}, (0, 0, 0, 0, 2, 0), 'constant', 0)",
        "F.pad({0}[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))",
    ),
    *(
        "F.pad(input={0}, pad=(1, 0, 0, 1, 0, 1), mode='constant', value=0)",
        "nn.ConstantPad2d(1, 1.5)",
    ),
)


def pad(a: Author) -> str | None:
    return _function(a, a.either(*PADS))


CHANNELS = """\
ch0 = torch.unsqueeze({0}[:, 0], 1) * (0.229 / 0.5) + (0.485 - 0.5) / 0.5
ch1 = torch.unsqueeze({0}[:, 1], 1) * (0.224 / 0.5) + (0.456 - 0.5) / 0.5
ch2 = torch.unsqueeze({0}[:, 2], 1) * (0.225 / 0.5) + (0.406 - 0.5) / 0.5
torch.cat((ch0, ch1, ch2), 1)"""


def image(a: Author) -> str | None:
    """Write what torchvision does to images that were normalised in another way."""
    return a.write(("x",), CHANNELS)


SHUFFLE = """\
b, c, h, w = {0}.size()
{0}.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, -1, h, w)"""
HALVES = """\
left, right = torch.chunk({0}, 2, 1)
F.channel_shuffle(torch.cat((F.relu(left), F.relu(right * 2)), 1), 2)"""
MIXED = """\
left, right = {0}.split({0}.shape[1] // 2, dim=1)
F.relu(F.channel_shuffle(torch.cat((F.relu(left * 0.5), right), 1), 2))"""
VIEWS = (
    *(HALVES, HALVES, MIXED, MIXED),
    "F.max_pool2d(F.pad({0}, (0, 1, 1, 0), value=-float('inf')), 2)",
    *("nn.ChannelShuffle(2)", "F.channel_shuffle({0}, 2)", SHUFFLE, "nn.PixelShuffle(2)"),
    "{0}.reshape({0}.shape[0], 2, {0}.shape[1] // 2, {0}.shape[2], -1).permute(0, 2, 1, 3, 4)"
    ".reshape({0}.shape)",
    *("F.pixel_shuffle({0}, 2)", "nn.PixelUnshuffle(2)", "F.pixel_unshuffle({0}, 2)"),
    *("{0}[:, :2]", "{0}[:, 1:]", "{0}[:, :, ::2, ::2]", "{0}[..., 1:]", "{0}[:, :, 1:, :-1]"),
    *("{0}[:, :{0}.shape[1] // 2]", "{0}[:, ::2]", "{0}[:, [1, 0]]", "{0}.narrow(1, 0, 2)"),
    *("{0}.transpose(2, 3)", "{0}.permute(0, 1, 3, 2)", "{0}.flip(1)", "torch.flip({0}, (3,))"),
    *(
        "torch.roll({0}, 1, 1)",
        "{0}.unsqueeze(1).squeeze(1)",
        "{0}.transpose(1, 2)",
        "{0}.contiguous()",
    ),
    *("nn.UpsamplingNearest2d(scale_factor=2)", "F.interpolate({0}, scale_factor=2)"),
    *("F.interpolate({0}, size=(9, 5))", "F.interpolate({0}, None, (2, 1.5), 'nearest-exact')"),
    *("nn.Upsample(scale_factor=2, mode='bilinear')", "{0}[:, :, [1, 0, 1]]", "{0}.flip((2, 3))"),
    *("F.relu(F.interpolate({0} * 0.5, scale_factor=2))", "torch.roll({0}, (1, 2), (2, 3))"),
    *(
        "nn.Upsample(scale_factor=2)",
        "{0}.clone()",
        "{0}.detach().clone()",
        "torch.permute({0}, (0, 3, 1, 2))",
    ),
    *("{0}.expand(-1, -1, -1, -1)", "{0}.repeat(1, 2, 1, 1)", "{0}.swapaxes(2, 3)"),
    *("{0}.view({0}.size(0), {c0} * {h0}, 1, {w0})", "{0}.index_select(1, torch.tensor([1, 0]))"),
)
PIECES = (
    *("{0}.chunk(2, 1)", "torch.chunk({0}, 2, dim=1)", "{0}.split({c0} // 2, 1)"),
    *("torch.split({0}, [1, {c0} - 1], dim=1)", "{0}.split([{c0} - 1, 1], dim=1)"),
    *("({0}[:, :2], {0}[:, 2:])", "{0}.chunk(chunks=2, dim=1)", "{0}.tensor_split(2, dim=1)"),
    *("{0}.chunk(2, 2)", "({0}[:, ::2], {0}[:, 1::2])", "{0}.chunk(2, -1)"),
)


def view(a: Author) -> str | None:
    return _function(a, a.either(*VIEWS))


def pieces(a: Author) -> str | None:
    name = a.pick()
    return a.write((name,), a.either(*PIECES), count=2) if name else None


VECTORS = (
    *("{0}[:, :3]", "{0}[:, ::2]", "{0}[:, 1:]", "{0}.flip(1)", "{0}.unsqueeze(2).squeeze(2)"),
    *("{0}.view({0}.size(0), -1, 1, 1)", "{0}[:, :, None, None]", "nn.Unflatten(1, (-1, 1, 1))"),
    *("{0}.view({0}.size(0), 2, -1, 1)", "{0}.reshape(-1, {c0} // 2, 2, 1)", "{0}.clone()"),
)


def view_of_features(a: Author) -> str | None:
    return _function(a, a.either(*VECTORS), 1)


def again(a: Author) -> str | None:
    """Call a module that is called already, for another tensor."""
    if not a.shared:
        return None
    other = a.random.choice(a.shared)
    name = a.pick(len(a.shape(other.reads[0]))) if other.reads[0] in a.bench.values else None
    if name is None:
        return None
    if a.chance(0.2):  # by a second name
        alias, own = a.name("same"), other.text.removesuffix("({0})")
        made = (*other.made, f"self.{alias} = {own}")
        return a.write((name,), f"self.{alias}({{0}})", *made, block=other.block)
    return a.write((name,), other.text, *other.made, block=other.block)


def sequential(a: Author) -> str | None:
    """Write several modules as one."""
    name = a.pick()
    if name is None:
        return None
    out = a.random.randint(2, 6)
    conv = f"nn.Conv2d({{c0}}, {out}, 3, padding=1, bias={a.either('True', 'False')})"
    parts = [conv]
    if a.chance(0.6):
        parts.append(f"nn.BatchNorm2d({out})")
    parts.append(a.either("nn.ReLU()", "nn.ReLU6()", "nn.ReLU(inplace=True)", "nn.Identity()"))
    if a.chance(0.3) and not a.in_block:
        parts.append(a.either("nn.MaxPool2d(2)", "nn.AvgPool2d(2)", "nn.Dropout(0.1)"))
    if a.chance(0.3):
        parts.insert(0, a.either("nn.BatchNorm2d({c0})", "nn.ReLU()"))
    own = a.name("features")
    text = f"self.{own} = nn.Sequential({', '.join(parts)})"
    return a.write((name,), f"self.{own}({{0}})", text)


def usual_layer(a: Author) -> str | None:
    """Write a convolution, mostly a batch norm, and an activation function."""
    found = convolution(a)
    if found and a.chance(0.5):
        found = norm(a) or found
    if found and a.chance(0.9):
        found = relu(a) or found
    return found


def block(a: Author) -> str | None:
    """Write a class of its own, and call it, perhaps twice in a row."""
    name = a.pick()
    if name is None or a.in_block:
        return None
    inner = Author(a.random, a.bench.values[name].clone(), in_block=True)
    for _ in range(a.random.randint(1, 3)):
        _one(inner, BLOCK)
    if not inner.statements:
        return None
    kind, own = a.name("Block"), a.name("block")
    read = inner.statements[-1].written[0]
    if inner.shape(read) == a.shape(name) and a.chance(0.7):
        inner.write((read, "x"), a.either(*SUMS[:4]))
        if a.chance(0.5):
            inner.write((inner.newest,), a.either("F.relu({0})", "torch.relu({0})"))
    a.blocks[kind] = tuple(inner.statements)
    made = f"self.{own} = {kind}()"
    found = a.write((name,), f"self.{own}({{0}})", made, block=kind)
    if found and a.chance(0.5):
        found = a.write((found,), f"self.{own}({{0}})", made, block=kind) or found
    return found


USUAL: Mapping[Maker, int] = {
    usual_layer: 6,
    sequential: 2,
    max_pool: 1,
    average_pool: 1,
    addition: 2,
    concatenation: 1,
    again: 2,
    block: 1,
}
BLOCK: Mapping[Maker, int] = {convolution: 5, norm: 2, relu: 3, max_pool: 1, addition: 1}
COMMON: Mapping[Maker, int] = {  # of maps
    usual_layer: 3,
    convolution: 5,
    norm: 3,
    relu: 6,
    max_pool: 2,
    average_pool: 2,
    concatenation: 2,
    addition: 3,
    shortcut: 2,
    smooth: 2,
    gate: 1,
    again: 3,
    sequential: 3,
    block: 1,
    dropout: 1,
}
RARE: Mapping[Maker, int] = {
    clamp: 4,
    slope: 2,
    other_function: 2,
    smooth: 6,
    gate: 3,
    adaptive_pool: 3,
    kept_map: 3,
    subtraction: 2,
    broadcast_sum: 1,
    product: 3,
    number: 4,
    own_parameter: 2,
    pad: 4,
    view: 4,
    upsampled: 2,
    pieces: 2,
    dropout: 2,
    again: 2,
    average_pool: 2,
    layer_of_another_kind: 1,
}
VECTOR: Mapping[Maker, int] = {linear: 4, norm_of_features: 2, relu: 3, dropout: 1, addition: 1}
RARE_VECTOR: Mapping[Maker, int] = {
    clamp: 2,
    slope: 1,
    number: 2,
    concatenation: 2,
    subtraction: 1,
    view_of_features: 2,
    own_parameter: 1,
    again: 1,
    other_function: 1,
    smooth: 2,
    product: 1,
}
ATTENTION = """\
a = {0}.flatten(2)
((a @ a.transpose(1, 2)).softmax(-1) @ a).view_as({0})"""
HEADS = """\
q, k = {0}.flatten(2).transpose(1, 2).reshape({0}.shape[0], -1, 2, {c0} // 2).chunk(2, 1)
F.scaled_dot_product_attention(q, k, k).transpose(1, 2).reshape({0}.shape[0], {c0}, -1, {w0})"""
RESPONSE = """\
size = torch.linalg.vector_norm({0}, dim=(2, 3), keepdim=True)
{0} + 0.5 * {0} * (size / (size.mean(1, keepdim=True) + 1e-2))"""
OF_FLOATS = (  # what has no integer form, of maps
    *("nn.LayerNorm([{c0}, {h0}, {w0}])", "nn.LayerNorm({w0}, eps=1e-2)", "nn.GroupNorm(1, {c0})"),
    *("nn.GroupNorm(2, {c0}, affine=False)", "nn.InstanceNorm2d({c0}, affine=True)", RESPONSE),
    "F.layer_norm({0}.permute(0, 2, 3, 1), ({c0},), eps=1e-2).permute(0, 3, 1, 2)",
    *(ATTENTION, ATTENTION, HEADS, "{0}.softmax(1)", "F.softmax({0}.flatten(2), -1).view_as({0})"),
    *("nn.ConvTranspose2d({c0}, 3, 2, stride=2)", "nn.Conv2d({c0}, 4, 2).requires_grad_()"),
    *("F.interpolate({0}, scale_factor=2, mode='bilinear')", "F.normalize({0}, dim=1, eps=1e-2)"),
    *("torch.einsum('nchw,ndhw->ncdh', {0}, {0})", "F.adaptive_avg_pool2d({0}, (3, 2))"),
    *("{0} - {0}.mean(1, keepdim=True)", "torch.exp(-{0}.abs())", "nn.PReLU({c0})", "nn.SiLU()"),
    *("{0}.cumsum(2)", "torch.maximum({0}, {0}.flip(1) * 0.7)", "{0} / (1 + {0}.abs())"),
    "{0} * torch.sigmoid({0}.amax((2, 3), keepdim=True))",
)
OF_FLOAT_VECTORS = (
    *("nn.LayerNorm({c0}, eps=1e-2)", "F.normalize({0}, eps=1e-2)", "{0}.softmax(-1)", "nn.GELU()"),
    *(
        "{0}.tanh() * {0}",
        "torch.cat([{0}, {0}.cos()], 1)",
        "({0}[:, None] * {0}[..., None]).mean(1)",
    ),
)


def float_part(a: Author) -> str | None:
    """Write what only files of floats compute."""
    sides = sides_of_newest(a)
    return _function(a, a.either(*(OF_FLOATS if sides == 3 else OF_FLOAT_VECTORS)), sides)


LAST = (
    *("F.log_softmax({0}, dim=1)", "F.softmax({0}, 1)", "torch.softmax({0}, dim=-1)"),
    *("F.log_softmax({0}, 1)", "{0}.log_softmax(dim=1)"),
)


def _one(a: Author, makers: Mapping[Maker, int]) -> None:
    """Write one more statement, whichever works."""
    for _ in range(5):
        (maker,) = a.random.choices(list(makers), list(makers.values()))
        if maker(a) is not None:
            return


def random_program(random: Random, in_float: bool = False) -> Program:
    """Return a random network, and how it is quantized; parts of it may stay float."""
    recipe = random_recipe(random)
    a = Author(random, torch.rand(2, recipe.channels, *recipe.size))
    spare = random.choice([0, 0, 0, 1, 1, 2, 4])
    if spare and a.chance(0.3):
        _one(a, {norm: 2, pad: 1, number: 1, average_pool: 1, view: 1, own_parameter: 1})
    common = USUAL if not spare and a.chance(0.6) else COMMON
    _one(a, {convolution: 3, usual_layer: 3, sequential: 2})
    for _ in range(random.randint(1, 7)):
        if spare and a.chance(0.35):
            spare -= 1
            _one(a, RARE if sides_of_newest(a) == 3 else RARE_VECTOR)
        else:
            _one(a, common if sides_of_newest(a) == 3 else VECTOR)
        if in_float and a.chance(0.5):
            float_part(a)
    if sides_of_newest(a) == 3 and a.chance(0.9):
        newest = a.newest
        a.write((newest,), a.either(*WHOLE_MAPS, *FLATTENINGS)) or a.module("flat", "nn.Flatten()")
    if sides_of_newest(a) == 1:
        for _ in range(random.choice([0, 1, 1, 1, 2, 3])):
            _one(a, VECTOR if not spare or a.chance(0.7) else RARE_VECTOR)
        if a.chance(0.8):
            linear(a)
    outputs, last, named = (a.newest,), "", a.chance(0.01)
    if sides_of_newest(a) == 1 and a.chance(0.1):
        last = a.either(*LAST)
    elif a.chance(0.04) and (other := a.pick(sides_of_newest(a))) and other != a.newest:
        outputs, named = (a.newest, other), a.chance(0.3)
    named = named and not last and not in_float  # no training takes a dictionary
    program = Program(tuple(a.statements), outputs, recipe, last, named, dict(a.blocks))
    return program.without_dead_ends()


RESCALES = (
    *("fixed32", "fixed32", "fixed32", "float", "float"),
    *("fixed16", "single_shift", "double_shift"),
)


def random_recipe(random: Random) -> Recipe:
    """Return a method with its bits, rules and images."""
    weight, activation = random.choice([_sat, _sat, _lsq, _lsq, _lsq_plus, _pact, _dorefa])(random)
    recipe = Recipe(
        weight,
        activation,
        _rules(random, weight[0]),
        random.choice([1, 3]),
        (random.randint(6, 10), random.randint(6, 10)),
        random.random() < 0.3,
        random.choice(RESCALES),
        random.choice([21, 21, 21, 21, 13, 25]),
        random.randint(0, 10_000),
    )
    learns = activation[0] != "DorefaActivation"
    return replace(
        recipe,
        inputs_of_functions=recipe.seed % 4 > 0,
        one_step_for_sums=learns and recipe.seed % 5 == 0,
    )


Part = tuple[str, dict[str, Any]]


def _bits(random: Random, *few: int) -> dict[str, Any]:
    if random.random() < 0.06:
        return {"n_steps": random.choice([2, 2, 4, 6, 10])}
    return {"bits": random.choice([2, 3, 4, 4, 4, 5, 6, 8, 8, *few])}


def _sat(random: Random) -> tuple[Part, Part]:
    bits = _bits(random, 1)
    grids = ["default", "default", "full_range", "centered"]
    if bits != {"bits": 1}:
        grids += ["symmetric", "asymmetric"]
    scaling = random.choice([False, False, True, "fan_in"])
    weight = {**bits, "grid": random.choice(grids), "scaling": scaling}
    return ("SatWeight", weight), ("SatActivation", _bits(random))


def _lsq(random: Random, activation: str = "LsqActivation") -> tuple[Part, Part]:
    weight = {**_bits(random), "per_channel": random.random() < 0.4}
    site = _bits(random)
    if random.random() < 0.2:
        weight["power_of_two"] = site["power_of_two"] = True
    return ("LsqWeight", weight), (activation, site)


def _lsq_plus(random: Random) -> tuple[Part, Part]:
    return _lsq(random, "LsqPlusActivation")


def _pact(random: Random) -> tuple[Part, Part]:
    weight = random.choice(["DorefaWeight", "SatWeight", "LsqWeight"])
    return (weight, _bits(random)), ("PactActivation", _bits(random))


def _dorefa(random: Random) -> tuple[Part, Part]:
    return ("DorefaWeight", _bits(random, 1)), ("DorefaActivation", _bits(random))


def _rules(random: Random, weight: str) -> dict[str, dict[str, Any]]:
    """Return rules that change single layers and sites; each may match nothing."""
    rules: dict[str, dict[str, Any]] = {}
    lowest = 2 if weight == "LsqWeight" else 1
    index = random.choice([0, -1, 1, -2])
    if random.random() < 0.3:
        bits = {"bits": random.choice([lowest, 2, 8, 8, 6])}
        rules["layer"] = {"index": index, "weight": bits}
    if random.random() < 0.2:
        bits = {"bits": random.choice([2, 3, 8, 8])}
        rules["site"] = {"index": index, "activation": bits}
    if random.random() < 0.1:
        bits = {"bits": random.choice([1, 1, 2, 8])}
        rules["relus"] = {"type": "ReLU", "activation": bits}
    if random.random() < 0.1:
        rules["linear"] = {"type": "Linear", "weight": {"bits": random.choice([lowest, 8])}}
    if random.random() < 0.03:
        rules["float"] = {"index": index, random.choice(["weight", "activation"]): None}
    for rule in rules.values():
        rule["optional"] = True
    return rules
