"""Compares many random networks: ``python tests/generated/run.py --count 5000 --seed 0``."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "oracles")]  # pytest knows these places

if __name__ == "__main__":
    from bulk import main

    sys.exit(main())
