"""Which files an .ini may include, and how they are read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ini_compat.errors import IniError
from ini_compat.syntax import limits
from ini_compat.syntax.resolve import Document

Read = Callable[..., Document]
TEMPLATE = "[{{SECTION_NAME}}_1]\nX=1\n"


def put(path: Path, text: str = TEMPLATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def including(folder: Path, template: str) -> Path:
    return put(folder / "model.ini", f"\n[a@{template}]\n")


def refused(path: Path, environment: dict[str, str] | None = None) -> str:
    with pytest.raises(IniError) as error:
        Document.read(path, environment=environment or {})
    return str(error.value)


def test_a_template_lies_beside_the_file_or_below(tmp_path: Path) -> None:
    for template in ("x.tpl", "sub/x.tpl", "./sub/../x.tpl", str(tmp_path / "abs.tpl")):
        put(tmp_path / template)
        section = Document.read(including(tmp_path, template), environment={}).section("a_1")
        assert section.place("X").file == os.path.normpath(tmp_path / template)


def test_places_are_named_as_the_user_named_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "sub/x.tpl")
    including(tmp_path / "sub", "x.tpl")
    monkeypatch.chdir(tmp_path)
    section = Document.read("sub/model.ini", environment={}).section("a_1")
    assert str(section.place("X")) == "sub/x.tpl:2"
    monkeypatch.chdir(tmp_path / "sub")
    section = Document.read("model.ini", environment={}).section("a_1")
    assert str(section.place("X")) == "x.tpl:2"


def test_the_nearest_directory_called_models_is_open_too(tmp_path: Path) -> None:
    put(tmp_path / "models/x.tpl")
    path = including(tmp_path / "models/quantizer", "../x.tpl")
    assert Document.read(path, environment={}).has("a_1")
    put(tmp_path / "y.tpl")
    assert "lies outside" in refused(including(tmp_path / "models/quantizer", "../../y.tpl"))


def test_the_directory_of_the_environment_is_open_too(tmp_path: Path) -> None:
    put(tmp_path / "shipped/x.tpl")
    path = including(tmp_path / "own", "${N2D2_MODELS}/x.tpl")
    document = Document.read(path, environment={"N2D2_MODELS": str(tmp_path / "shipped")})
    assert document.has("a_1")
    assert document.notices == []


@pytest.mark.parametrize("environment", [{}, {"N2D2_MODELS": ""}])
def test_without_it_the_directory_called_models_is_meant(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    put(tmp_path / "models/x.tpl")
    path = including(tmp_path / "models/quantizer", "${N2D2_MODELS}/x.tpl")
    document = Document.read(path, environment=environment)
    assert document.has("a_1")
    assert document.notices == [f"N2D2_MODELS is not set: it is taken to be {tmp_path / 'models'}."]


def test_or_else_the_directory_of_the_file(tmp_path: Path) -> None:
    put(tmp_path / "x.tpl")
    path = including(tmp_path, "${N2D2_MODELS}/x.tpl")
    document = Document.read(path, environment={})
    assert document.has("a_1")
    assert document.notices == [f"N2D2_MODELS is not set: it is taken to be {tmp_path}."]


def test_other_variables_of_the_environment(tmp_path: Path) -> None:
    put(tmp_path / "sub/x.tpl")
    assert Document.read(including(tmp_path, "${D}/x.tpl"), environment={"D": "sub"}).has("a_1")
    # An unset one is empty, so this is the absolute path /x.tpl.
    assert "'${D}/x.tpl' lies outside" in refused(including(tmp_path, "${D}/x.tpl"))


def test_anything_else_is_refused_with_what_is_accepted(tmp_path: Path) -> None:
    secret = put(tmp_path / "secret.tpl")
    own = tmp_path / "own"
    (tmp_path / "own-not").mkdir()
    put(tmp_path / "own-not/x.tpl")
    own.mkdir()
    (own / "link.tpl").symlink_to(secret)
    (own / "folder").symlink_to(tmp_path)
    for template in (
        *("../secret.tpl", str(secret), "link.tpl", "folder/secret.tpl", "../own-not/x.tpl"),
        *("/etc/passwd", "x/../../secret.tpl"),
    ):
        path = including(own, template)
        message = refused(path)
        assert message.startswith(f"{path}:2: the template {template!r} lies outside")
        assert f"come from: {own} (the environment variable N2D2_MODELS adds one)" in message


def test_links_inside_are_followed(tmp_path: Path) -> None:
    put(tmp_path / "sub/x.tpl")
    (tmp_path / "link.tpl").symlink_to(tmp_path / "sub/x.tpl")
    assert Document.read(including(tmp_path, "link.tpl"), environment={}).has("a_1")


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        assert refused(including(tmp_path, name)).endswith(f"{name}' is not a regular file.")
        assert refused(tmp_path / name).endswith(f"{name}' is not a regular file.")
    assert "is not a regular file" in refused(Path("/dev/zero"))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    path = including(tmp_path, "x.tpl")
    expected = f"{path}:2: '{tmp_path / 'x.tpl'}' cannot be read: No such file or directory."
    assert refused(path) == expected
    none = tmp_path / "none.ini"
    assert refused(none) == f"'{none}' cannot be read: No such file or directory."
    for name in ("a\0b", "x" * 500):
        assert "cannot be read" in refused(including(tmp_path, name))


def test_large_files_are_refused(tmp_path: Path) -> None:
    path = including(tmp_path, "x.tpl")
    put(tmp_path / "x.tpl", ";" * (limits.TEMPLATE_BYTES + 1))
    assert "is larger than 1000000 bytes" in refused(path)
    put(path, ";" * (limits.FILE_BYTES + 1))
    assert "is larger than 10000000 bytes" in refused(path)


def test_latin_1_is_read_with_a_notice(tmp_path: Path) -> None:
    path = tmp_path / "model.ini"
    path.write_bytes("[a]\nX=\u00e9\n; \u2713\n".encode())
    document = Document.read(path, environment={})
    assert (document.section("a").text("X"), document.notices) == ("\u00e9", [])
    path.write_bytes("[a]\nX=\u00e9\n".encode("latin-1"))
    document = Document.read(path, environment={})
    assert document.section("a").text("X") == "\u00e9"
    assert document.notices == [f"{path} is not UTF-8: it is read as Latin-1."]


def test_paths_of_data_take_the_environment(document: Read) -> None:
    text = "$D=mnist\n[a]\nDataPath=${N2D2_DATA}/${D}\n"
    read = document(text, environment={"N2D2_DATA": "/data"})
    assert read.section("a").text("DataPath") == "${N2D2_DATA}/mnist"
    assert read.path(read.section("a"), "DataPath") == "/data/mnist"
    read = document(text)
    assert read.path(read.section("a"), "DataPath") == "/mnist"
    assert read.path(read.section("a"), "LabelPath", None) is None
    with pytest.raises(IniError, match="needs the key LabelPath"):
        read.path(read.section("a"), "LabelPath")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_what_is_written_in_utf_16_is_reported(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "model.ini"
    path.write_text("[database]\nType=MNIST_IDX_Database\n", encoding=encoding)
    with pytest.raises(IniError, match=r"is not UTF-8 text, but in UTF-16.*Accepted: UTF-8"):
        Document.read(path, environment={})
