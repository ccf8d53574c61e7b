"""What C programs take on Cortex-M cores, and whether their outputs are those of integers.

    python -m benchmarks.microcontrollers [--networks resnet8 ...] [--methods sat_4bit ...]
        [--cores cortex-m4 ...] [--images 20]

Networks are trained a few steps on images made in memory, lowered (``fixed32``), written as C,
compiled by gcc for each core with the flags of the Makefile that ``qatlab export`` writes, and run
in QEMU, which counts instructions (no cycles; behind them, those for a multiply-accumulate). Each
row says how many images have other outputs than the integer network, in any bit.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from pytorch_lightning import Trainer

from qatlab import config
from qatlab.deploy.c import CProgram, c_program
from qatlab.deploy.integer import IntegerNetwork, compute, lower, with_rescale
from qatlab.deploy.pixels import pixel_codes
from qatlab.deploy.targets import TARGETS, Firmware, target_of
from qatlab.quant import Phase, set_phase, start_quantizers
from qatlab.run.build import build
from qatlab.run.trainer import module_of
from qatlab.training.data_module import DataModule

ROOT = Path(__file__).parents[1]
BATCH, STEPS = 32, 6
SIZES = {
    "lenet": ["model=lenet", "data.image_size=[32,32]", "data.source.channels=1"],
    "resnet8": ["model=resnet8", "data.image_size=[32,32]", "data.source.channels=3"],
    "mobilenet_v1": [
        *("model=mobilenet_v1", "model.width=0.25", "data.image_size=[96,96]"),
        "data.source.channels=3",
    ],
    "ds_cnn": ["model=ds_cnn", "data.image_size=[49,10]", "data.source.channels=1"],
    "resnet20": ["model=resnet20", "data.image_size=[32,32]", "data.source.channels=3"],
}
ADDENDS = (
    '+quant.rules.addends={name:"*bn2_site",optional:true,activation:{bits:8}}'  # to a shortcut
)
MIXED = [
    "quant=lsq_4bit",
    "+quant.rules.third={index:2,weight:{bits:2},activation:{bits:3}}",
    "+quant.rules.fourth={index:3,weight:{bits:3},activation:{bits:2}}",
    "+quant.rules.fifth={index:4,weight:{bits:5},activation:{bits:6},optional:true}",
]
METHODS = {
    "SAT 4/4": ["quant=sat_4bit"],
    "SAT 2/2": ["quant=sat_2bit"],
    "SAT 1/4": ["quant=sat_4bit", "quant.weight.bits=1"],
    "LSQ 4/4": ["quant=lsq_4bit"],
    "LSQ+ 4/4": ["quant=lsq_plus_4bit"],
    "SAT 8/8": ["quant=sat_8bit"],
    "mixed": MIXED,
}


def trained(network: str, method: str) -> tuple[IntegerNetwork, CProgram]:
    """Return a network after a few steps as integers, and its program."""
    words = ["data=synthetic", f"data.source.training_images={BATCH * STEPS}", "data.validation=0"]
    words += [f"data.batch_size={BATCH}", "name=benchmark", "folder=unused", ADDENDS]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", [*SIZES[network], *METHODS[method], *words])
    torch.manual_seed(0)
    built = build(cfg)
    built.data.setup("fit")
    start_quantizers(built.model, (next(iter(built.data.train_dataloader()))[0],))
    set_phase(built.model, Phase.QUANTIZE)
    trainer = Trainer(
        max_epochs=1,
        limit_val_batches=0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(module_of(built), datamodule=DataModule(built.data))
    built.model.eval()
    codes = pixel_codes(built.data)
    exact = lower(built.model, codes, built.data.example_input())
    whole = with_rescale(exact, "fixed32")
    return whole, c_program(whole, built.data.class_names)


def row(network: str, method: str, cores: list[str], images: int) -> str:
    """Return the row of a network: instructions on each core, flash and memory on the largest."""
    whole, program = trained(network, method)
    shape = (images, *whole.input.shape)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    pixels[0], pixels[1] = 0, 255
    expected = compute(whole, torch.from_numpy(pixels)).outputs
    products = sum(layer.multiply_accumulates for layer in program.layers)
    wide, channels = program.wide
    counts, built, other = [], [], 0
    for core in cores:
        firmware = Firmware(program.source, program.is_whole, target_of(core))
        found = torch.from_numpy(firmware.outputs(pixels)).double() * 2.0**-whole.output.unit
        other += int((found != expected).any(1).sum())
        taken = firmware.instructions or 0
        counts.append(f"{taken:,} ({taken / products:.2f})")
        built.append(firmware)
    flash, ram = (max(getattr(own, name) for own in built) for name in ("flash", "ram"))
    stack = max(own.stack for own in built)
    cells = [network, method, *counts, f"{flash:,}", f"{ram:,} + {stack:,}"]
    cells += [f"{wide} of {channels}", f"{other} of {images * len(cores)}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print a table."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    cores = ["cortex-m0plus", "cortex-m4", "cortex-m55"]
    parser.add_argument("--cores", nargs="+", default=cores, choices=TARGETS)
    parser.add_argument("--images", type=int, default=20)
    given = parser.parse_args()
    config.register()
    titles = ["network", "method", *given.cores, "flash", "RAM + stack", "channels in 64 bits"]
    print("|", " | ".join([*titles, "images with other outputs"]), "|")
    print("|" + "---|" * (len(titles) + 1))
    for network in given.networks:
        for method in given.methods:
            print(row(network, method, given.cores, given.images), flush=True)


if __name__ == "__main__":
    main()
