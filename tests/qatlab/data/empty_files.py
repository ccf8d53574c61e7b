"""Files that only have names."""

from __future__ import annotations

from pathlib import Path


def touched(folder: Path, *names: str) -> str:
    """Make empty files; sources read no images."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return str(folder)
