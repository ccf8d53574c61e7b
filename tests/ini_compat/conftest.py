from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ini_compat.syntax.resolve import Document


@pytest.fixture
def document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Document]:
    """Return a function that reads a text as model.ini, with other files beside it."""
    monkeypatch.chdir(tmp_path)

    def read(
        text: str,
        files: dict[str, str] | None = None,
        defines: dict[str, str] | None = None,
        environment: dict[str, str] | None = None,
    ) -> Document:
        for name, content in {"model.ini": text, **(files or {})}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8", newline="")
        return Document.read("model.ini", defines or {}, environment or {})

    return read
