"""Which networks of torchvision and timm can be quantized, trained and exported.

    python benchmarks/coverage.py [--only torchvision timm] [--names GLOB ...] [--out FILE.json]
    python benchmarks/coverage.py --from FILE.json --page docs/networks.md

Each network runs in a process of its own: it is built as a run would build it, quantized (SAT, 4
bits, with sites in front of functions), trained for one step, its obstacles are asked for, and
where there are none it is written in all forms. onnxruntime computes the qdq, the qonnx and the
integer file for four images, a compiler makes a program of the C file: their classes have to be
those of the fake-quantized network, but for ties (``qatlab verify``), and the program's outputs
those of the integer network to the last bit. Networks with more than ``--largest`` parameters are
lowered, but neither trained nor written. Printed are a line for each network, and counts; ``--out``
keeps them, goes on where it was stopped, and a page is made of them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from queue import Empty
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qatlab import obstacles, quant
from qatlab.deploy.integer import Codes, lower, with_rescale
from qatlab.errors import QatlabError
from qatlab.models import timm_model, torchvision_model

CLASSES, IMAGES = 10, 4
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PIXEL = [Codes(0, 255, 1 / 255 / d, -m / d) for m, d in zip(MEAN, DEVIATION, strict=True)]
TIMM = (
    "bat_resnext26ts convmixer_768_32 convnext_atto convnextv2_atto cspdarknet53 cspresnet50 "
    "darknet53 deit_tiny_patch16_224 densenet121 dla34 dla46_c dpn68 ecaresnet26t "
    "edgenext_xx_small efficientnet_b0 efficientnet_es efficientnet_lite0 efficientnetv2_rw_t "
    "ese_vovnet19b_dw fastvit_t8 fbnetc_100 fbnetv3_b gernet_s ghostnet_100 ghostnetv2_100 "
    "hardcorenas_a hardcorenas_f hrnet_w18_small inception_v3 inception_v4 lcnet_050 levit_128s "
    "mixer_s32_224 mixnet_s mnasnet_100 mobilenetv2_100 mobilenetv3_large_100 "
    "mobilenetv3_small_100 mobilenetv4_conv_medium mobilenetv4_conv_small "
    "mobilenetv4_hybrid_medium mobileone_s0 mobilevit_xxs mobilevitv2_050 nf_resnet50 nfnet_l0 "
    "poolformer_s12 regnetx_002 regnety_002 repghostnet_050 repvgg_a0 res2net50_26w_4s resnest14d "
    "resnet18 resnet26t resnet50d resnext50_32x4d rexnet_100 selecsls42b semnasnet_075 seresnet50 "
    "skresnet18 spnasnet_100 starnet_s1 swin_tiny_patch4_window7_224 test_resnet "
    "tf_efficientnet_b0 tf_mobilenetv3_small_minimal_100 tinynet_e vgg11_bn vit_tiny_patch16_224 "
    "vovnet39a wide_resnet50_2 xception41 xception71"
)
SIZES = {"vit": 224, "deit": 224, "swin": 224, "maxvit": 224, "mixer": 224, "levit": 224}
SIZES |= {"inception": 299, "mobilevit": 128, "vgg": 224, "alexnet": 224}
USUAL_SIZE = 64


def networks(only: Sequence[str], names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield library and name of each network."""
    from torchvision import models

    known = {"torchvision": models.list_models(module=models), "timm": TIMM.split()}
    for library in only:
        for name in known[library]:
            if not names or any(fnmatch(name, pattern) for pattern in names):
                yield library, name


def images_of(size: int) -> tuple[Tensor, Tensor]:
    """Return bytes ``(N, C, H, W)`` of smooth images, and what a network gets for them."""
    coarse = torch.randint(0, 256, (IMAGES, 3, size // 8 + 1, size // 8 + 1)).float()
    pixels = F.interpolate(coarse, size=size, mode="bilinear").round()
    step, offset = (
        torch.tensor([getattr(codes, name) for codes in PIXEL])[:, None, None]
        for name in ("step", "offset")
    )
    return pixels.to(torch.uint8), pixels * step + offset


def examined(library: str, name: str, largest: float) -> dict[str, Any]:
    """Return how far a network gets, stage by stage, and why no further."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    row: dict[str, Any] = {"library": library, "network": name, "stages": [], "why": ""}
    size = next((s for start, s in SIZES.items() if name.startswith(start)), USUAL_SIZE)
    pixels, images = images_of(size)
    try:
        make = torchvision_model if library == "torchvision" else timm_model
        network = make(name, CLASSES, 3)
        row["parameters"] = sum(p.numel() for p in network.parameters())
        model = _quantized(network, images, row)
        small = row["parameters"] <= largest
        if small:
            _train(model, images)
            row["stages"].append("train")
        else:
            quant.set_phase(model, quant.Phase.CLAMP)
        found = obstacles(model, PIXEL, images[:1])
        row["obstacles"] = {form: len(own) for form, own in found.items()}
        row["operators"] = dict(Counter(one.operator for one in found["qdq"]))
        if first := next((own[0] for own in found.values() if own), None):
            row["why"] = first.reason
        row["stages"] += [form for form, own in found.items() if not own]
        if small and not any(found.values()):
            _compare(model, pixels, images, row)
    except QatlabError as error:
        row["why"] = str(error)
    except Exception:
        row["why"] = f"STACK TRACE {traceback.format_exc(limit=-3)}"
    return row


def _quantized(network: nn.Module, images: Tensor, row: dict[str, Any]) -> nn.Module:
    rules = {
        "first": {"index": 0, "weight": {"bits": 8}},
        "last": {"index": -1, "weight": {"bits": 8}},
    }
    for norm in network.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.momentum:
            norm.momentum = 0.5  # a single step has to move the statistics
    model, _ = quant.quantize(
        network,
        partial(quant.SatWeight, bits=4),
        partial(quant.SatActivation, bits=4),
        [quant.Rule.parse(key, node) for key, node in rules.items()],
        images[:1],
        inputs_of_functions=True,
    )
    row["stages"].append("quantize")
    return model


def _train(model: nn.Module, images: Tensor) -> None:
    model.train()
    quant.start_quantizers(model, [images])
    outputs = model(images)
    F.cross_entropy(outputs, torch.arange(IMAGES)).backward()
    if not all(p.grad is None or p.grad.isfinite().all() for p in model.parameters()):
        raise FloatingPointError("gradients are not finite")


@torch.no_grad()
def _compare(model: nn.Module, pixels: Tensor, images: Tensor, row: dict[str, Any]) -> None:
    """Compare the classes that the fake-quantized network and its files give to four images."""
    from qatlab.deploy.onnx.integer import IntegerWriter
    from qatlab.deploy.onnx.qdq import QdqWriter
    from qatlab.deploy.verify.comparison import compare
    from qatlab.deploy.verify.forms import AsIntegers, FakeQuantized, InOnnxruntime

    model.eval()
    given = lower(model, [Codes(0, 255, 1 / 255)] * 3, images[:1])
    exact = lower(model, PIXEL, images[:1])
    whole = with_rescale(exact, "fixed32")
    files = {
        "qdq": (QdqWriter(given, 21).write({}), given),
        "integer": (IntegerWriter(whole, 21).write({}), whole),
    }
    others = [
        InOnnxruntime(kind, file, kind, of, optimised, 0.0)
        for kind, (file, of) in files.items()
        for optimised in (False, True)
    ]
    batches = iter([(images, torch.zeros(IMAGES, dtype=torch.long))])
    found = compare(FakeQuantized(model), AsIntegers(exact, "float", 0.0), others, batches, PIXEL)
    row["different"] = {one.name: one.different - one.ties for one in found}
    row["ties"] = sum(one.ties for one in found)
    row["stages"].append("classes")


def _into(queue: Any, *arguments: Any) -> None:
    warnings.filterwarnings("ignore")
    queue.put(examined(*arguments))


def line(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    classes = ""
    if "different" in row:
        classes = f"{max(row['different'].values())} other, {row['ties']} ties"
    return f"{row['network']:34} {' '.join(row['stages']):48} {classes:16} {row['why'][:120]}"


def main() -> None:
    """Look at all networks, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", default=["torchvision", "timm"])
    parser.add_argument("--names", nargs="+", default=[])
    parser.add_argument("--largest", type=float, default=6e7, help="parameters")
    parser.add_argument("--seconds", type=float, default=240, help="of a network")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    context, rows = multiprocessing.get_context("fork"), []
    for library, name in networks(given.only, given.names):
        start, queue = time.time(), context.Queue()
        process = context.Process(target=_into, args=(queue, library, name, given.largest))
        process.start()
        try:
            row = queue.get(timeout=given.seconds)
        except Empty:
            row = {"library": library, "network": name, "stages": [], "why": "time is up"}
            process.kill()
        process.join()
        rows.append({**row, "seconds": round(time.time() - start, 1)})
        print(line(row), flush=True)
        if given.out is not None:
            given.out.write_text(json.dumps(rows, indent=1))
    for library in given.only:
        own = [row for row in rows if row["library"] == library]
        counts = Counter(stage for row in own for stage in row["stages"])
        same = sum(not any(row["different"].values()) for row in own if "different" in row)
        ties = sum(row.get("ties", 0) for row in own)
        print(f"{library}: of {len(own)} {dict(counts)}")
        print(f"  the same classes in all files, but for {ties} counted ties: {same}")


if __name__ == "__main__":
    main()
