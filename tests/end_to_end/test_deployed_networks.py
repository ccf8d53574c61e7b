"""Each architecture with each method, trained for some steps on MNIST, in all its forms."""

from __future__ import annotations

from itertools import product

import onnx
import pytest
import torch
from deployed import METHODS, NETWORKS, shown, trained

from qatlab.deploy.integer import lower, with_rescale
from qatlab.deploy.onnx_file import onnx_file
from qatlab.deploy.pixels import bytes_of, pixel_codes
from qatlab.deploy.trained import Trained
from qatlab.deploy.verify.comparison import compare
from qatlab.deploy.verify.forms import AsIntegers, FakeQuantized, InOnnxruntime

# LeNet with each method but those that two others have.
TESTED = {
    *(("lenet", method) for method in METHODS if method not in ("SAT 8/8", "LSQ 4/4")),
    *(("resnet20", method) for method in ("SAT 4/4", "LSQ 2/2")),
    *(("mobilenet_v2", method) for method in ("SAT 8/8", "LSQ 4/4")),
    ("resnet18", "SAT 1/4"),
}


@pytest.mark.parametrize(
    ("network", "method"),
    [
        pytest.param(*pair, marks=() if pair in TESTED else pytest.mark.slow)
        for pair in product(NETWORKS, METHODS)
    ],
)
def test_all_forms_of_a_trained_network_answer_the_same(network: str, method: str) -> None:
    own = trained(network, method)
    model, codes = own.model, pixel_codes(own.data)
    exact = lower(model, codes, own.data.example_input())
    fixed = with_rescale(exact, "fixed32")
    source = f"{network}, {method}"
    whole = Trained(model, own.table, own.data, own.classifies, "", source)
    files = {kind: onnx_file(whole, kind) for kind in ("qdq", "integer")}
    made = {"qdq": exact, "integer": fixed}
    forms = [
        AsIntegers(fixed, "fixed32", tolerance=5e-4),
        *(
            InOnnxruntime(kind, files[kind], kind, made[kind], optimised, 5e-4 * (kind != "qdq"))
            for kind in files
            for optimised in (False, True)
        ),
    ]
    found = compare(FakeQuantized(model), AsIntegers(exact, "float", 0.0), forms, shown(own), codes)
    assert [form.name for form in found if not form.passes] == []
    for form in found:
        for name, site in form.sites.items():
            assert site.from_tie < 1e-3, (form.name, name)
    assert found[1].sites.keys() == found[3].sites.keys() == found[5].sites.keys()
    images, _ = next(shown(own))
    pixels = bytes_of(images, codes)
    twin = forms[0](images, pixels)
    for file in forms[3:]:
        same = file.look_inside(images, pixels)
        assert torch.equal(same.outputs, twin.outputs)
        assert all(torch.equal(same.codes[site].float(), twin.codes[site]) for site in twin.codes)
    types = {tensor.data_type for tensor in files["qdq"].graph.initializer}
    narrow = {onnx.TensorProto.INT2, onnx.TensorProto.INT4}  # at the lowest opset that has them
    assert bool(narrow & types) == (method != "SAT 8/8")
