"""The small networks of the tests of :mod:`qatlab.integer` are exported here."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "integer"))
