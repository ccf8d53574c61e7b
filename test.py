"""Measure a run on the test set: ``python test.py run=<folder>``; all keys in ``conf/``."""

from qatlab.cli.hydra_app import start, test

if __name__ == "__main__":
    start(test)
