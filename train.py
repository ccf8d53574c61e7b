"""Train a network: ``python train.py quant=sat_4bit model=lenet``; all keys in ``conf/``."""

from qatlab.cli.hydra_app import start, train

if __name__ == "__main__":
    start(train)
