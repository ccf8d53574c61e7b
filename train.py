"""Train a network: ``python train.py quant=sat_4bit model=lenet``; all keys in ``conf/``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from qatlab import cli


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> None:
    """Train as configured."""
    cli.checked("train", cfg)


if __name__ == "__main__":
    cli.start(main)
