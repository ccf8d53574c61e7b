"""Measure a run on the test set: ``python test.py run=<folder>``; all keys in ``conf/``."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from qatlab import cli


@hydra.main(version_base="1.3", config_path="conf", config_name="test")
def main(cfg: DictConfig) -> None:
    """Test as configured."""
    cli.checked("evaluate", cfg)


if __name__ == "__main__":
    cli.start(main)
