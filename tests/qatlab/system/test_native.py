"""Compiled libraries: kept, rebuilt where they are damaged, and never taken from others."""

from __future__ import annotations

import ctypes
import logging
import os
import pwd
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from qatlab.system import native

FLAGS = ("-shared", "-fPIC")
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="needs a C++ compiler"
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    native._private_folder.cache_clear()
    return tmp_path / "cache/qatlab"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "quick.cpp").write_text('extern "C" int answer() { return 42; }')
    return tmp_path / "quick.cpp"


def libraries(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in sorted(folder.glob("*.so"))}


def answer(source: Path) -> int:
    return int(native.compiled(source, FLAGS).answer())


@needs_compiler
def test_a_library_is_kept_for_each_source_and_processor(
    cache: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert answer(source) == 42
    first = libraries(cache)
    assert answer(source) == 42
    assert libraries(cache) == first
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    monkeypatch.setattr(native, "_processor", lambda: "another one")
    assert answer(source) == 42
    source.write_text('extern "C" int answer() { return 43; }')
    assert answer(source) == 43
    assert len(libraries(cache)) == 3


@needs_compiler
@pytest.mark.parametrize("damage", ["a byte", "half", "empty", "no digest", "nonsense"])
def test_a_damaged_library_is_compiled_anew(cache: Path, source: Path, damage: str) -> None:
    program = f"""
import sys
from pathlib import Path
from qatlab.system import native
print(native.compiled(Path({str(source)!r}), {FLAGS!r}).answer())
"""

    def run() -> str:  # in a process of its own: a loaded library cannot be replaced
        return subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, text=True
        ).stdout

    assert run() == "42\n"
    (file,) = cache.glob("*.so")
    (digest,) = cache.glob("*.sha256")
    whole = file.read_bytes()
    file.unlink()
    at = whole.index(b"answer")
    file.write_bytes(
        {
            "a byte": whole[:at] + b"b" + whole[at + 1 :],
            "half": whole[: len(whole) // 2],
            "empty": b"",
            "no digest": whole,
            "nonsense": b"not a library",
        }[damage]
    )
    if damage == "no digest":
        digest.unlink()
    assert run() == "42\n"
    assert file.read_bytes() == whole


@needs_compiler
@pytest.mark.parametrize(
    "fault", ["open to all", "open to a group", "a link", "a parent", "a file"]
)
def test_a_folder_that_others_can_write_to_is_not_used(
    cache: Path, source: Path, fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.mkdir()
    if fault == "a link":
        (tmp_path / "elsewhere").mkdir()
        cache.symlink_to(tmp_path / "elsewhere")
    elif fault == "a file":
        cache.write_text("")
    else:
        cache.mkdir()
    if fault == "open to all":
        cache.chmod(0o777)
    elif fault == "open to a group":
        cache.chmod(0o770)
    elif fault == "a parent":
        cache.parent.chmod(0o777)
    with caplog.at_level(logging.WARNING):
        assert answer(source) == 42
        assert answer(source) == 42
    (record,) = caplog.records
    assert "kernels are compiled for this process only, as " in record.getMessage()
    assert not [*tmp_path.rglob("*.so")]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a folder away")
def test_a_folder_of_another_user_is_not_used(cache: Path) -> None:
    cache.mkdir(parents=True)
    os.chown(cache, 12345, 12345)
    assert native.cache_folder() != cache


@needs_compiler
def test_without_a_home_the_library_is_compiled_for_the_process(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(uid: int) -> pwd.struct_passwd:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert answer(source) == 42
    assert isinstance(native.compiled(source, FLAGS), ctypes.CDLL)
