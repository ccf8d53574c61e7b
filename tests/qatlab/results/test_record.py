from __future__ import annotations

import os
from pathlib import Path

import pytest

from qatlab.config import folders
from qatlab.config.folders import leave_nothing, name_latest
from qatlab.errors import ConfigError
from qatlab.results.record import check_run, find_run


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of two runs of one name, the current one being above."""
    monkeypatch.chdir(tmp_path)
    for name in ("2026-01-01_10-00-00", "2026-01-02_10-00-00"):
        (tmp_path / "outputs/runs/net" / name).mkdir(parents=True)
        (tmp_path / "outputs/runs/net" / name / "config.yaml").write_text("")
    monkeypatch.setattr(
        folders, "_named_by_time", {str(p) for p in Path("outputs/runs/net").iterdir()}
    )
    return Path("outputs/runs/net")


@pytest.mark.parametrize("links", [True, False])
def test_the_folder_of_a_name_means_its_newest_run(
    runs: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise OSError("no links here")

    if not links:
        monkeypatch.setattr(Path, "symlink_to", refuse)
    for name in ("2026-01-01_10-00-00", "2026-01-02_10-00-00"):
        name_latest(runs / name)
        assert find_run(runs) == find_run(runs / "latest") == runs / name
        assert (runs / "latest").is_symlink() == links
    name_latest((runs / "2026-01-01_10-00-00").absolute())
    assert find_run(runs) == runs / "2026-01-01_10-00-00"
    assert find_run(runs / "2026-01-02_10-00-00") == runs / "2026-01-02_10-00-00"
    assert sorted(path.name for path in runs.iterdir())[-1] == "latest"


def test_a_folder_that_the_user_has_named_is_no_latest_run(runs: Path) -> None:
    (runs / "mine").mkdir()
    name_latest(runs / "mine")
    assert not (runs / "latest").exists()


def test_a_link_to_a_run_that_was_deleted_and_a_file_of_anything_name_no_run(runs: Path) -> None:
    (runs / "latest").symlink_to("gone")
    assert find_run(runs) == runs
    (runs / "latest").unlink()
    for text in ("../net/2026-01-01_10-00-00", "", "gone"):
        (runs / "latest").write_text(text)
        assert find_run(runs) == runs


def test_a_folder_of_runs_without_a_newest_lists_them(runs: Path) -> None:
    with pytest.raises(ConfigError, match=r"In it are: 2026-01-01_10-00-00, 2026-01-02_10-00-00$"):
        check_run(find_run(runs))
    with pytest.raises(ConfigError, match=r"runs is not the folder of a run: .* In it are: net$"):
        check_run(find_run(runs.parent))
    with pytest.raises(ConfigError, match=r"it has no config\.yaml$"):
        check_run(find_run(Path("elsewhere/nowhere")))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("outputs/runs/nett", "config.yaml. Did you mean 'net'? In outputs/runs are: net"),
        ("net", "config.yaml. Did you mean 'net'? In outputs/runs are: net"),
        ("outputs/runs/other", "it has no config.yaml. In outputs/runs are: net"),
        ("outputs/runs/net/2026-01-03", "are: 2026-01-01_10-00-00, 2026-01-02_10-00-00"),
    ],
)
def test_runs_beside_one_that_is_not_there_are_listed(runs: Path, given: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_run(find_run(Path(given)))
    assert str(caught.value).endswith(told)


def test_a_command_that_leaves_no_run_leaves_no_folder(runs: Path) -> None:
    own = Path("outputs/runs/other/now")
    (own / ".hydra").mkdir(parents=True)
    for name in (".lock", "train.log", ".hydra/config.yaml", ".hydra/overrides.yaml"):
        (own / name).write_text("")
    leave_nothing(own)
    assert sorted(os.listdir("outputs/runs")) == ["net"]


def test_what_a_command_has_not_made_is_left(runs: Path) -> None:
    (runs / "2026-01-01_10-00-00/.lock").write_text("")
    leave_nothing(runs / "2026-01-01_10-00-00")
    assert (runs / "2026-01-01_10-00-00/.lock").exists()  # of a run
    own = Path("mine")
    own.mkdir()
    (own / "notes.txt").write_text("")
    leave_nothing(own)
    assert (own / "notes.txt").exists()
    leave_nothing(Path("sweep"))  # was never made
    (Path("sweep") / "job").mkdir(parents=True)
    (Path("sweep") / "multirun.yaml").write_text("")
    leave_nothing(Path("sweep"))
    assert (Path("sweep") / "multirun.yaml").exists()
