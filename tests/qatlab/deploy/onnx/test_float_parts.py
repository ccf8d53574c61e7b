"""Files of networks of which parts stay float, in onnxruntime, against what training computes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from networks import PIXELS, convert, sites
from torch import Tensor, nn
from torch.nn import functional as F

from qatlab.deploy.obstacles import obstacles
from qatlab.deploy.onnx import float_parts
from qatlab.deploy.onnx.qdq import QdqWriter
from qatlab.deploy.onnx.qonnx import QonnxWriter
from qatlab.deploy.verify.comparison import Comparison, compare
from qatlab.deploy.verify.forms import FakeQuantized, InOnnxruntime
from qatlab.errors import ConfigError

IMAGES = PIXELS / 255
WRITERS = {"qdq": QdqWriter, "qonnx": QonnxWriter}


class GlobalResponse(nn.Module):
    """GRN of ConvNeXt V2 (arXiv:2301.00808, section 3), on ``(N, H, W, C)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma, self.beta = (nn.Parameter(torch.rand(channels)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        size = x.pow(2).sum((1, 2), keepdim=True).sqrt()
        share = size / (size.mean(-1, keepdim=True) + 1e-6)
        return self.gamma * (x * share) + self.beta + x


class ConvNext(nn.Module):
    """A block of ConvNeXt V2 behind a stem with a batch norm, whose site computes it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 3, 2, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm, self.more = nn.LayerNorm(8), nn.Linear(8, 16)
        self.act, self.grn, self.fewer = nn.GELU(), GlobalResponse(16), nn.Linear(16, 8)
        self.head_norm, self.fc = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem_norm(self.stem(x)))
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.fewer(self.grn(self.act(self.more(y)))).permute(0, 3, 1, 2)
        result: Tensor = self.fc(self.head_norm((x + y).mean((2, 3))))
        return result


class Attention(nn.Module):
    """A block of a vision transformer, with heads, a class token and a largest value of places."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, 8, 2, 2), nn.LayerNorm(8)
        self.token = nn.Parameter(torch.rand(1, 1, 8))
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8, bias=False)
        self.pool, self.shared, self.fc = nn.MaxPool2d(2), nn.Linear(8, 8), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        qkv = self.qkv(self.norm(x)).reshape(x.shape[0], 17, 3, 2, 4).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape[0], 17, 8)
        x = x + self.shared(self.shared(self.proj(y)).relu())
        places = torch.relu(x[:, 1:]).transpose(1, 2).reshape(x.shape[0], 8, 4, 4)
        seen = self.pool(places).flatten(2).amax(1)
        result: Tensor = self.fc(torch.cat([x[:, 0], seen], 1))
        return result


class Groups(nn.Module):
    """GroupNorm, a convolution back, activations and poolings; rules keep some layers in float."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.LeakyReLU(0.1)
        self.plain, self.up = nn.Conv2d(8, 6, 3, bias=True), nn.ConvTranspose2d(6, 4, 2)
        self.grouped, self.mish = nn.Conv2d(4, 4, 3, groups=2), nn.Mish()
        self.pool = nn.AvgPool2d(2, 2, 1, ceil_mode=True, divisor_override=3)
        self.fc = nn.Linear(36 + 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv(x)))
        x = self.up(F.relu6(self.plain(x)))
        y = self.grouped(F.adaptive_max_pool2d(self.pool(x).exp(), 1).tanh() + x)
        y = torch.cat([self.mish(y).flatten(1), self.pool(y)[..., :2, :2].flatten(1)], 1)
        result: Tensor = self.fc(y)
        return result


class Several(nn.Module):
    """Two outputs; and a batch that is taken apart, whose size torch cannot leave open."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.LayerNorm([4, 6, 6]), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.norm(self.conv(x)))
        x = torch.cat(x.split(1))
        return self.fc(x.mean((2, 3))), x.amax((2, 3))


class Inverted(nn.Module):
    """An operator that ONNX does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(36, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        result: Tensor = self.fc(torch.linalg.pinv(x).flatten(2)[:, 0])
        return result


class Dropped(nn.Module):
    """Random numbers in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(torch.relu(self.conv(x)), training=True)
        result: Tensor = self.fc(x.mean((2, 3)))
        return result


NETWORKS: Mapping[str, type[nn.Module]] = {
    **{"convnext": ConvNext, "attention": Attention, "groups": Groups},
    **{"several": Several, "inverted": Inverted, "dropped": Dropped},
}
COMPARED = ("convnext", "attention", "groups")


def quantized(name: str, method: str = "lsq", bits: int = 4, **rules: Any) -> nn.Module:
    torch.manual_seed(1)
    return convert(NETWORKS[name](), method, bits, **rules).float()


def written(model: nn.Module, kind: str, opset: int | None = None) -> onnx.ModelProto:
    marked = float_parts.Marked(model)
    exported = marked.export(IMAGES[:1], opset or marked.lowest_opset(kind == "qonnx"))
    return float_parts.write(exported, WRITERS[kind], {})


def compared(model: nn.Module, opset: int | None = None) -> list[Comparison]:
    steps = {path: float(q.grid.step(q.parameter.detach())) for path, q in sites(model).items()}
    marked = float_parts.Marked(model)
    exported = marked.export(IMAGES[:1], opset or marked.lowest_opset())
    forms = [
        InOnnxruntime(kind, float_parts.write(exported, writer, {}), kind, steps, optimised, 0.0)
        for kind, writer in WRITERS.items()
        for optimised in (False, True)
    ]
    batches: Iterator[Any] = iter([(IMAGES, torch.zeros(len(IMAGES)).long())])
    return compare(FakeQuantized(model, positions=True), None, forms, batches, [], False)


SETTINGS: Mapping[str, dict[str, Any]] = {
    "sat": {"method": "sat"},
    "lsq": {},
    "lsq+": {"method": "lsq_plus", "bits": 3},
    "8 bits": {"bits": 8},
    "by channel": {"all": {"name": "*", "weight": {"per_channel": True, "bits": 8}}},
    "binary": {"method": "sat", "all": {"name": "*", "weight": {"bits": 1}}},
    "ternary": {"method": "sat", "all": {"name": "*", "weight": {"bits": None, "n_steps": 2}}},
    "wide": {"bits": 10},
    "float": {"some": {"name": "*p*", "weight": None}, "one": {"name": "*c*", "activation": None}},
}
QUICK = [("convnext", "sat", 21), ("attention", "lsq", 21), ("groups", "lsq+", 25)]
OPSETS = {"lsq": (18, 21), "8 bits": (18, 21), "sat": (20, 21), "lsq+": (21, 23, 25)}
SLOW = [
    (name, setting, opset)
    for name in COMPARED
    for setting in SETTINGS
    for opset in OPSETS.get(setting, (21, 25))
    if (name, setting, opset) not in QUICK
]


@pytest.mark.parametrize(
    ("name", "setting", "opset"),
    [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
)
def test_sites_get_the_codes_of_training(name: str, setting: str, opset: int) -> None:
    found = compared(quantized(name, **SETTINGS[setting]), opset)
    for form in found[1:]:
        assert form.different == form.ties == 0, form
        assert form.largest < 1e-4
        for site, one in form.sites.items():
            assert one.first == 0 or one.from_tie < 1e-3, (form.name, site)
    assert [len(form.sites) > 0 for form in found] == [True, True, False, True, False]


def test_weights_are_packed_and_onnxruntime_computes_nothing_in_8_bits(tmp_path: Path) -> None:
    eight = {"name": "proj", "weight": {"bits": 8}}
    image = {"name": "patch_site", "activation": None}  # products with a float tensor
    file = written(quantized("attention", "lsq", 4, eight=eight, image=image), "qdq")
    stored = {tensor.name: tensor.data_type for tensor in file.graph.initializer}
    assert stored["qkv_weight"] == stored["patch_weight"] == onnx.TensorProto.INT4
    assert stored["proj_weight"] == onnx.TensorProto.INT8
    assert not any(node.metadata_props or node.doc_string for node in file.graph.node)
    assert [len(node.input) for node in file.graph.node if node.op_type == "Conv"] == [2]
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(file.SerializeToString(), options)
    kinds = {node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node}
    assert not {
        kind for kind in kinds if re.match(r"QLinear|QGemm|Dynamic|\w+(NBits|Integer)", kind)
    }
    assert kinds & {"MatMul", "FusedMatMul"}


def test_a_batch_of_fixed_size_is_reported_and_several_outputs_are_written() -> None:
    model = quantized("several")
    exported = float_parts.Marked(model).export(IMAGES[:1], 21)
    file = float_parts.write(exported, QdqWriter, {})
    assert exported.batch == 1
    first = [value.type.tensor_type.shape.dim for value in (*file.graph.input, *file.graph.output)]
    assert [[one.dim_value for one in dims] for dims in first] == [[1, 3, 8, 8], [1, 5], [1, 4]]
    form = InOnnxruntime("qdq", file, "qdq", {}, True, 0.0)
    found = form(IMAGES, IMAGES).outputs
    torch.testing.assert_close(found, model(IMAGES)[0].double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("inverted", r"^linalg_pinv \(\w+\) cannot be exported by torch\.onnx: "),
        ("dropped", r"^the network computes with random numbers in evaluation \(Dropout\)"),
    ],
)
def test_what_no_file_can_compute_is_reported_by_its_layer(name: str, words: str) -> None:
    found = obstacles(quantized(name), example_input=IMAGES[:1])
    assert found["qdq"] == found["qonnx"]
    assert re.search(words, found["qdq"][0].reason)
    assert not any(one.in_float for one in found["c"])


def test_an_opset_that_torch_does_not_write_is_reported() -> None:
    words = r"^--opset=17 is wrong\. Accepted: 18 or higher"
    with pytest.raises(ConfigError, match=words):
        float_parts.Marked(quantized("convnext")).export(IMAGES[:1], 17)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("padding", [0, 1])
def test_pools_are_written_out_as_torch_computes_them(padding: int, ceil_mode: bool) -> None:
    for size, kernel, stride in product((5, 7, 8), (2, 3), (1, 2, 3, None)):
        x = torch.randn(2, 3, size, size + 1)
        for dilation in (1, 2):
            arguments = (kernel, stride, padding, dilation, ceil_mode)
            assert torch.equal(float_parts._maximum(x, *arguments), F.max_pool2d(x, *arguments))
        for counts, divisor in product((True, False), (None, 3)):
            averaged = (kernel, stride, padding, ceil_mode, counts, divisor)
            torch.testing.assert_close(
                float_parts._average(x, *averaged), F.avg_pool2d(x, *averaged)
            )


def test_no_window_of_a_file_begins_behind_the_map() -> None:
    pool = nn.MaxPool2d(2, padding=1, ceil_mode=True)  # of 7 rows: 4, where ONNX has 5
    with float_parts._Exactly():
        program = torch.export.export(pool, (torch.randn(1, 3, 7, 8),))
    made = torch.onnx.export(program, dynamo=True, opset_version=21, verbose=False)
    assert made is not None
    (shape,) = (output.type.tensor_type.shape for output in made.model_proto.graph.output)
    assert [dim.dim_value for dim in shape.dim] == [1, 3, 4, 5]
    found = onnx.shape_inference.infer_shapes(made.model_proto, strict_mode=True)
    assert [len(node.input) for node in found.graph.node if node.op_type == "MaxPool"] == [1]
    modes = [a.i for n in found.graph.node for a in n.attribute if a.name == "ceil_mode"]
    assert not any(modes)
