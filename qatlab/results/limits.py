"""What report and compare read of a run, and what a page shows of it, at most.

All limits are here. A file that is beyond one leaves its run out, with a sentence; texts that are
for people only are shortened instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qatlab.results import record
from qatlab.system import files

LAYERS = "layers.json"
METRICS = "metrics.csv"  # as in qatlab.training.csv_logger, which imports Lightning
ERROR = "error.txt"  # as in qatlab.sweep, which takes a second to import
OVERRIDES = "overrides.yaml"
HYDRA = "hydra.yaml"

BYTES = {  # of a file by its name; what train.py leaves of a usual network has a tenth of it
    record.RESULT: 12 << 20,  # the counts of 2000 classes
    LAYERS: 4 << 20,
    METRICS: 256 << 20,
    record.CONFIG: 1 << 20,  # as in qatlab.config.schema, which imports torch
    ERROR: 1 << 20,
    OVERRIDES: 32 << 10,  # they are on the page four times
    HYDRA: 1 << 20,
}

LONGEST_TEXT = 1000  # characters: the name of a run, a commit, a column, a key of a configuration
LONGEST_NAME = 300  # characters: a layer, its type, its method
LONGEST_PHASE = 100  # characters
MOST_LAYERS = 5000  # weight layers and sites
MOST_PHASES = 100
MOST_SOURCES = 100  # folders of configurations
MOST_CLASSES = 100  # whose confusion is shown: with more, the matrix of one run would be megabytes
MOST_FILES = 100  # of a run that a page links to
MOST_KEYS = 5000  # of a configuration or a result, to be compared

MOST_CELLS = 20_000_000  # of metrics.csv: rows times columns
LONGEST_LINE = 1 << 20  # characters
MOST_QUANTIZER_COLUMNS = 5000
MOST_BUCKETS = 500  # of a curve: a screen shows no more than two points of each
MOST_BUCKETS_OF_A_RUN = 100_000

SHOWN_ERROR = 20_000  # characters
SHOWN_CONFIG = 100_000  # characters
SHOWN_CELL = 500  # characters of a value that is compared
SHOWN_RUN = 4_000_000  # bytes on the page: curves, layers, confusion and texts of one run


def read_text(file: Path) -> str:
    """Read a text of a run; see :func:`qatlab.system.files.read_text`."""
    return files.read_text(file, BYTES[file.name])


def read_json(file: Path) -> dict[str, Any]:
    """Read a mapping of a run; see :func:`qatlab.system.files.read_json`."""
    return files.read_json(file, BYTES[file.name])


def read_yaml(file: Path) -> Any:
    """Read plain values of a run; see :func:`qatlab.system.files.read_yaml`."""
    return files.read_yaml(file, BYTES[file.name])


def read_yaml_mapping(file: Path) -> dict[str, Any]:
    """Read a mapping of a run; see :func:`qatlab.system.files.read_yaml_mapping`."""
    return files.read_yaml_mapping(file, BYTES[file.name])


def shortened(text: str, most: int) -> str:
    """Return a text of at most ``most`` characters and a remark: its beginning and its end."""
    if len(text) <= most:
        return text
    return f"{text[: most - most // 2]} … {len(text) - most:,} characters … {text[-(most // 2) :]}"
