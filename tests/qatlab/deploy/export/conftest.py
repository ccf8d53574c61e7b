"""The small networks of the tests of :mod:`qatlab.deploy.integer` are exported here.

All forms are compared as those of random networks are.
"""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).parents[2]
sys.path += [str(TESTS / "qatlab" / "integer"), str(TESTS / "generated")]
