"""The commits that a record names."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from qatlab.results import record

MADE = ("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "first")


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, check=True)
    return done.stdout.decode().strip()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "net.py").write_text("a = 1\n")
    git(tmp_path, "add", "net.py")
    git(tmp_path, *MADE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_projects_commit_is_that_of_the_current_folder(project: Path) -> None:
    head = git(project, "rev-parse", "HEAD")
    assert record.project_commit() == head
    (project / "net.py").write_text("a = 2\n")
    assert record.project_commit() == f"{head}+"


def test_a_folder_without_repository_or_commit_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert record.project_commit() is None
    git(tmp_path, "init", "-q")
    assert record.project_commit() is None


def test_qatlabs_own_repository_is_no_project(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if record.commit() is None:
        pytest.skip("qatlab is installed without its repository")
    monkeypatch.chdir(root)
    assert record.project_commit() is None


def test_a_package_inside_of_a_project_has_not_the_projects_commit(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = project / ".venv/record.py"  # where pip puts it: git does not know the file
    installed.parent.mkdir()
    installed.write_text("")
    monkeypatch.setattr(record, "__file__", str(installed))
    head = git(project, "rev-parse", "HEAD")
    assert record.commit() is None
    assert record.project_commit() == head
    assert record.commits() == {"project_commit": head}
