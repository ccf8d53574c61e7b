"""What the tests of :mod:`qatlab.deploy` know of QONNX is used here, too."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "qatlab" / "export"))
