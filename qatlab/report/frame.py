"""Runs as a table of pandas."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qatlab.errors import ConfigError
from qatlab.report.runs import find_runs
from qatlab.report.settings import join_seeds
from qatlab.report.tables import rows_of

if TYPE_CHECKING:
    from pandas import DataFrame


def load_runs(folder: Path | str = "outputs") -> DataFrame:
    """Return a row for each run below a folder: what ``qatlab report`` writes as CSV.

    Columns are among others ``method``, ``weight_bits``, ``activation_bits``, ``top1`` (a
    fraction), ``size_bytes``, ``bit_operations``, ``seconds``, ``seed``, ``state`` (finished,
    unfinished, failed, damaged) and ``folder``, which :func:`qatlab.load_quantized` takes.

    Raises:
        ConfigError: if the folder cannot be read or holds no run, or pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ConfigError(
            "load_runs needs the package pandas: pip install 'qatlab[pandas]'."
        ) from error
    folder = Path(folder)
    rows = rows_of(join_seeds(find_runs(folder)))
    if not rows:
        raise ConfigError(f"{folder} holds no run.")
    for row in rows:
        row["folder"] = str(folder / row["folder"])
    return pandas.DataFrame(rows)
