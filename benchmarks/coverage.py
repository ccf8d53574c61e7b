"""Which networks of torchvision and timm can be quantized, trained and exported.

    python benchmarks/coverage.py [--only torchvision timm] [--names GLOB ...] [--out FILE.json]
        [--page docs/networks.md]

Each network runs in a process of its own: it is built as a run would build it, quantized (SAT, 4
bits, with sites in front of functions), trained for a step in float and one quantized, its
obstacles are asked for, and where there are none it is written in all forms. onnxruntime computes
the qdq, the qonnx and the integer file for four images, a compiler makes a program of the C file:
their classes have to be those of the fake-quantized network, but for ties (``qatlab verify``), and
the program's outputs those of the integer network to the last bit. Networks with more than
``--largest`` parameters are lowered, but neither trained nor written. Printed are a line for each
network, and counts; ``--out`` keeps them, so that a run that was stopped goes on, and ``--page``
makes a page of them.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import shutil
import subprocess
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from queue import Empty
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qatlab import obstacles, quant
from qatlab.deploy.c import c_program
from qatlab.deploy.integer import Codes, IntegerNetwork, compute, lower, with_rescale
from qatlab.errors import QatlabError
from qatlab.models import timm_model, torchvision_model
from qatlab.system import files

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
LONG = re.compile(r"(static const uint8_t \w+\[\d+\]) = \{([\d,\s]{1000000,})\};")
FORMS = ("integer", "qdq", "qonnx", "c")
PAGE = """
# Which networks leave

Made by `python benchmarks/coverage.py --out networks.json --page docs/networks.md`; its first lines
say what is done with each network. Where nothing stands under *its files*, it leaves as the forms
beside, but was too large to be trained and computed here (`--largest`), or cannot leave.
"""


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
        elif small and not found["qdq"]:
            _compare_floats(model, pixels, images, row)
    except QatlabError as error:
        row["why"] = str(error)
    except Exception:
        row["why"] = f"STACK TRACE {traceback.format_exc(limit=-3)}"
    return row


def _quantized(network: nn.Module, images: Tensor, row: dict[str, Any]) -> nn.Module:
    rules = {
        "first": {"index": 0, "weight": {"bits": 8}},
        "last": {"index": -1, "weight": {"bits": 8}},
        "scaling": {"normed": False, "optional": True, "weight": {"scaling": True}},
    }  # as conf/quant/sat_4bit.yaml has them
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
    """Take a step in float, as many networks begin with layers that make zeros; then quantized."""
    model.train()
    quant.set_phase(model, quant.Phase.FLOAT)
    F.cross_entropy(model(images), torch.arange(IMAGES)).backward()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    model.zero_grad()
    quant.start_quantizers(model, [images])
    F.cross_entropy(model(images), torch.arange(IMAGES)).backward()
    if not all(p.grad is None or p.grad.isfinite().all() for p in model.parameters()):
        raise FloatingPointError("gradients are not finite")


@torch.no_grad()
def _compare(model: nn.Module, pixels: Tensor, images: Tensor, row: dict[str, Any]) -> None:
    """Compare the classes that the fake-quantized network and its files give to the images."""
    from qatlab.deploy.onnx.integer import IntegerWriter
    from qatlab.deploy.onnx.qdq import QdqWriter
    from qatlab.deploy.onnx.qonnx import QonnxWriter
    from qatlab.deploy.verify.comparison import compare
    from qatlab.deploy.verify.forms import AsIntegers, FakeQuantized, InOnnxruntime

    model.eval()
    given = lower(model, [Codes(0, 255, 1 / 255)] * 3, images[:1])
    exact = lower(model, PIXEL, images[:1])
    whole = with_rescale(exact, "fixed32")
    files = {
        "qdq": (QdqWriter(given, 21).write({}), given),
        "qonnx": (QonnxWriter(given, 21).write({}), given),
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
    if shutil.which("cc") is not None:
        row["program"] = _answers_as_c(whole, pixels)


@torch.no_grad()
def _compare_floats(model: nn.Module, pixels: Tensor, images: Tensor, row: dict[str, Any]) -> None:
    """Compare the classes that a network and its files give of which parts stay float."""
    from qatlab.deploy.onnx import float_parts
    from qatlab.deploy.onnx.writers import WRITERS
    from qatlab.deploy.verify.comparison import compare
    from qatlab.deploy.verify.forms import FakeQuantized, InOnnxruntime

    model.eval()
    marked = float_parts.Marked(model)
    exported = marked.export(images[:1], marked.lowest_opset())
    steps = {path: codes.step for path, codes in marked.sites.items()}
    others = [
        InOnnxruntime(
            kind, float_parts.write(exported, WRITERS[kind, False], {}), kind, steps, optimised, 0.0
        )
        for kind in ("qdq", "qonnx")
        for optimised in (False, True)
    ]
    batches = iter([(images, torch.zeros(IMAGES, dtype=torch.long))])
    found = compare(FakeQuantized(model, positions=True), None, others, batches, [])
    row["different"] = {one.name: one.different - one.ties for one in found}
    row["ties"] = sum(one.ties for one in found)
    row["stages"].append("classes")


def _answers_as_c(network: IntegerNetwork, pixels: Tensor) -> bool:
    """Tell whether a compiled program has the outputs of the integer network, to the last bit."""
    expected = compute(network, pixels).outputs.flatten(1).numpy()
    names = list(map(str, range(expected.shape[1])))
    with TemporaryDirectory() as folder:
        source, program, file = (Path(folder) / name for name in ("c.c", "c", "images"))
        source.write_text(LONG.sub(_as_string, c_program(network, names).source))
        file.write_bytes(pixels.numpy().tobytes())
        subprocess.run(["cc", "-std=c99", "-O1", source, "-o", program], check=True)
        done = subprocess.run([program, "--outputs", file], capture_output=True, check=True)
    rows = [line.split(b"\t")[2:] for line in done.stdout.splitlines()]
    return np.array_equal(np.array(rows, dtype=np.float64), expected)


def _as_string(found: re.Match[str]) -> str:
    """Return a long table as a string: of numbers a compiler takes a hundred times the memory."""
    octal = [f"\\{number:03o}" for number in range(256)]
    data = np.fromstring(found[2], dtype=np.uint8, sep=",").tolist()
    lines = ("".join(octal[value] for value in data[i : i + 24]) for i in range(0, len(data), 24))
    return f"{found[1]} =" + "".join(f'\n    "{line}"' for line in lines) + ";"


def _into(queue: Any, *arguments: Any) -> None:
    warnings.filterwarnings("ignore")
    queue.put(examined(*arguments))


def line(row: dict[str, Any]) -> str:
    """Return a row of the printed table."""
    return f"{row['network']:34} {' '.join(row['stages']):54} {_answers(row):28} {row['why'][:120]}"


def _answers(row: dict[str, Any]) -> str:
    """Return what the files of a network answer."""
    if "different" not in row:
        return ""
    differ = sum(count > 0 for count in row["different"].values())
    alike = "alike" if not differ else f"{differ} files differ"
    if row.get("program") is False:
        alike = "C differs"
    elif "program" not in row and not differ and "c" in row["stages"]:
        alike += " in ONNX"
    return alike + (f", {row['ties']} ties" if row["ties"] else "")


def counts(library: str, rows: Sequence[dict[str, Any]]) -> str:
    """Return a sentence about the networks of a library."""
    own = [row for row in rows if row["library"] == library]
    found = Counter(stage for row in own for stage in row["stages"])
    alike = sum("different" in row and "differ" not in _answers(row) for row in own)
    ties = sum(row.get("ties", 0) for row in own)
    forms = ", ".join(f"{found[form]} as {form}" for form in FORMS)
    return (
        f"Of {len(own)} networks of {library} {found['quantize']} can be quantized and "
        f"{found['train']} were trained for a step; {forms} can be exported. All files were "
        f"computed for {found['classes']} of them, and answered alike for {alike}, but for {ties} "
        "counted ties."
    )


def page(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a page of Markdown."""
    parts = [PAGE.strip()]
    for library in dict.fromkeys(row["library"] for row in rows):
        own = [row for row in rows if row["library"] == library]
        parts += [f"## {library}\n\n{counts(library, rows)}", table(own)]
    return "\n\n".join(parts) + "\n"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return a table of Markdown, a row for each network."""
    lines = [
        "| network | million parameters | leaves as | its files | in the way |",
        "|" + "---|" * 5,
    ]
    for row in rows:
        millions = f"{row['parameters'] / 1e6:.1f}" if "parameters" in row else ""
        forms = [form for form in FORMS if form in row["stages"]]
        leaves = "all four" if len(forms) == len(FORMS) else ", ".join(forms) or "-"
        why = row["why"].replace("|", "\\|")
        lines.append(f"| {row['network']} | {millions} | {leaves} | {_answers(row)} | {why} |")
    return "\n".join(lines)


def main() -> None:
    """Look at all networks, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", default=["torchvision", "timm"])
    parser.add_argument("--names", nargs="+", default=[])
    parser.add_argument("--largest", type=float, default=2e8, help="parameters")
    parser.add_argument("--seconds", type=float, default=1800, help="of a network")
    parser.add_argument("--out", type=Path, help="keeps the rows; those of a file are not repeated")
    parser.add_argument("--page", type=Path, help="Markdown of the rows")
    given = parser.parse_args()
    rows = json.loads(given.out.read_text()) if given.out and given.out.exists() else []
    known = {(row["library"], row["network"]) for row in rows}
    for library, name in networks(given.only, given.names):
        if (library, name) in known:
            continue
        rows.append(_in_a_process(library, name, given.largest, given.seconds))
        print(line(rows[-1]), flush=True)
        if given.out is not None:
            files.write_json(given.out, rows)
    for library in given.only:
        print(counts(library, rows))
    if given.page is not None:
        files.write_text(given.page, page(rows))


def _in_a_process(library: str, name: str, largest: float, seconds: float) -> dict[str, Any]:
    context, start = multiprocessing.get_context("fork"), time.time()
    queue = context.Queue()
    process = context.Process(target=_into, args=(queue, library, name, largest))
    process.start()
    try:
        row = queue.get(timeout=seconds)
    except Empty:
        row = {"library": library, "network": name, "stages": [], "why": "time is up"}
        process.kill()
    process.join()
    return {**row, "seconds": round(time.time() - start, 1)}


if __name__ == "__main__":
    main()
