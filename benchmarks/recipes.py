"""What the options for low bits cost in a step, as a multiple of the same step without them.

    python -m benchmarks.recipes [--models resnet8 mobilenet_v1] [--rounds 9] [--steps 20]

Measured are training steps of the quantize phase as a run takes them, by Lightning's trainer, with
freezing, dampening, a steered transition rate, an average of the weights, steps that are powers of
two and one step for the operands of a sum, each alone and all of them; and learned bits, which go
with none of these. Distillation, which evaluates a teacher, is not among them. The plain steps and
a candidate's take turns in one process; a figure is the median over rounds of the ratio of the
process's CPU time.
"""

from __future__ import annotations

import argparse
import logging
import platform
import statistics
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from pytorch_lightning import Trainer

from benchmarks.epoch import Clock
from qatlab import config
from qatlab.quant import Phase, set_phase, start_quantizers
from qatlab.run.build import build
from qatlab.run.learned_bits import prepare
from qatlab.run.trainer import module_of
from qatlab.training.data_module import DataModule

ROOT = Path(__file__).parents[1]
BATCH = 128
POWERS = ["quant.weight.power_of_two=true", "quant.activation.power_of_two=true"]
OPTIONS = {
    "freezing and dampening": ["callbacks=[freezing,dampening]"],
    "transition rate": ["callbacks=transition_rate"],
    "average": ["callbacks=ema"],
    "powers of two": POWERS,
    "one step for sums": ["quant.one_step_for_sums=true"],
}
ALL = "everything"
OPTIONS[ALL] = [
    "callbacks=[freezing,dampening,transition_rate,ema]",
    *POWERS,
    "quant.one_step_for_sums=true",
]
LEARNED_BITS = "learned bits"  # of weights
OPTIONS[LEARNED_BITS] = ["callbacks=learned_bits", "callbacks.learned_bits.budget.mean_bits=4"]
METHODS = ("lsq_2bit", "sat_2bit")


def candidate(model: str, method: str, words: list[str], steps: int) -> Callable[[], float]:
    """Return what trains some steps and tells their CPU seconds."""
    known = [word for word in words if not (method.startswith("sat") and "weight.power" in word)]
    cfg = compose(
        "config",
        [
            *(f"quant={method}", f"model={model}", "data=synthetic", "data.image_size=[32,32]"),
            *("data.source.channels=3", f"data.source.training_images={BATCH * steps}"),
            *("data.validation=0", f"data.batch_size={BATCH}", "name=benchmark", "folder=unused"),
            "schedule=quantize_only",
            *known,
        ],
    )
    built = build(cfg)
    built.data.setup("fit")
    start_quantizers(built.model, (next(iter(built.data.train_dataloader()))[0],))
    set_phase(built.model, Phase.QUANTIZE)
    options = {"oscillation", "transition_rate", "ema", "learned_bits"} & set(cfg.callbacks)

    def some_steps() -> float:
        clock = Clock()
        chosen = [instantiate(cfg.callbacks[name]) for name in sorted(options)]
        prepare(cfg, built, chosen)
        trainer = Trainer(
            max_epochs=1,
            limit_train_batches=steps,
            limit_val_batches=0,
            accelerator="cpu",
            callbacks=[*chosen, clock],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        trainer.fit(module_of(built), datamodule=DataModule(built.data))
        return clock.times[0]

    return some_steps


def main() -> None:
    """Print a table."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=["resnet8", "mobilenet_v1"])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    config.register()
    print(f"torch {torch.__version__}, {given.threads} threads, {platform.machine()}\n")
    print("| network | method |", " | ".join(OPTIONS), "|")
    print("|" + "---|" * (2 + len(OPTIONS)))
    for model in given.models:
        for method in METHODS:
            with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
                plain = candidate(model, method, [], given.steps)
                others = [
                    candidate(model, method, words, given.steps) for words in OPTIONS.values()
                ]
            ratios: list[list[float]] = [[] for _ in others]
            for number in range(given.rounds + 1):
                before = plain()
                for own, other in zip(ratios, others, strict=True):
                    taken, after = other(), plain()
                    if number > 0:  # the first round warms up
                        own.append(2 * taken / (before + after))
                    before = after
            medians = [f"{statistics.median(own):.2f}" for own in ratios]
            print(f"| {model} | {method} |", " | ".join(medians), "|", flush=True)


if __name__ == "__main__":
    main()
