"""Networks of timm of which parts stay float, as files, against what training computes."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from qatlab import quant
from qatlab.deploy.onnx import float_parts
from qatlab.deploy.onnx.qdq import QdqWriter
from qatlab.deploy.verify.comparison import compare
from qatlab.deploy.verify.forms import FakeQuantized, InOnnxruntime
from qatlab.models.timm_models import timm_model
from qatlab.quant.learned import ActivationQuantizer

pytest.importorskip("timm")
SMALL = {"vit_tiny_patch16_224": {"img_size": 64}, "swin_tiny_patch4_window7_224": {"img_size": 56}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        *(("convnext_atto", 64), ("convnextv2_atto", 64), ("vit_tiny_patch16_224", 64)),
        *(("swin_tiny_patch4_window7_224", 56), ("edgenext_xx_small", 64), ("mixer_s32_224", 224)),
        *(("poolformer_s12", 64), ("regnety_002", 64), ("efficientnet_b0", 64)),
    ],
)
@pytest.mark.parametrize("method", ["lsq", "sat"])
def test_onnxruntime_answers_what_was_trained(name: str, size: int, method: str) -> None:
    torch.manual_seed(0)
    network = timm_model(name, 10, 3, options=SMALL.get(name))
    for path, parameter in network.named_parameters():
        if not parameter.any():  # such as a head or a gate that starts as zeros
            nn.init.normal_(parameter, std=0.1)
        elif path.endswith(("gamma", "layer_scale")):
            nn.init.uniform_(parameter, 0.5, 1.5)
    kinds = {
        "lsq": (quant.LsqWeight, quant.LsqPlusActivation),
        "sat": (quant.SatWeight, quant.SatActivation),
    }
    images = torch.rand(4, 3, size, size)
    parts = (partial(kind, bits=4) for kind in kinds[method])
    model, _ = quant.quantize(network, *parts, [], images[:1])
    quant.start_quantizers(model, [images])
    model.eval()
    exported = float_parts.Marked(model).export(images[:1], 21)
    assert exported.batch == "N"
    file = float_parts.write(exported, QdqWriter, {})
    steps = {
        path: float(site.grid.step(site.parameter.detach()))
        for path, site in model.named_modules()
        if isinstance(site, ActivationQuantizer)
    }
    forms = [InOnnxruntime("qdq", file, "qdq", steps, way, 0.0) for way in (False, True)]
    batches = iter([(images, torch.zeros(4).long())])
    first = FakeQuantized(model, positions=True)
    found = compare(first, None, forms, batches, [], classifies=True)
    for form in found[1:]:
        assert form.different == form.ties, form
        for site, one in form.sites.items():
            assert one.first == 0 or one.from_tie < 1e-3, (form.name, site)
    assert found[1].sites.keys() == steps.keys()
