from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator
from functools import partial
from hashlib import md5
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

from qatlab.data import Cifar10, Cifar100, FashionMnist, ImageData
from qatlab.errors import DataError

IMAGE = bytes(3 * 32 * 32)


def digest(file: Path) -> str:
    return md5(file.read_bytes(), usedforsecurity=False).hexdigest()


class Site(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Keep silent."""


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A site that offers what is in the folder ``site``."""
    (tmp_path / "site").mkdir()
    monkeypatch.setenv("no_proxy", "*")
    handler = partial(Site, directory=str(tmp_path / "site"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> Path:
    """Its folder, with a CIFAR-10 that has one image of class 7 in each file."""
    site = tmp_path / "site"
    archive = site / "cifar-10-binary.tar.gz"
    with tarfile.open(archive, "w:gz") as files:
        for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = 1 + len(IMAGE)
            files.addfile(member, io.BytesIO(b"\x07" + IMAGE))
    monkeypatch.setattr(Cifar10, "_url", f"{address}/{archive.name}")
    monkeypatch.setattr(Cifar10, "_md5", digest(archive))
    return site


def test_what_is_missing_is_fetched_before_a_run_begins(site: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    source = Cifar10(str(folder), download=True)
    data = ImageData(source, (32, 32), 1, 1, 0, 0, 0, random_shift=0, random_flip=False)
    data.prepare_data()
    data.setup("fit")
    assert [y.tolist() for _, y in data.train_dataloader()] == [[7]] * 5
    assert [path.name for path in folder.iterdir()] == ["cifar-10-batches-bin"]  # nothing else


def test_nothing_is_fetched_unless_it_is_said_or_if_it_is_there(site: Path, tmp_path: Path) -> None:
    source = Cifar10(str(tmp_path / "data"))
    source.fetch()
    with pytest.raises(DataError, match=r"expected there: data\.source\.download=true fetches it"):
        source.training_set()
    Cifar10(str(tmp_path / "data"), download=True).fetch()
    (site / "cifar-10-binary.tar.gz").unlink()
    again = Cifar10(str(tmp_path / "data"), download=True)
    again.fetch()
    assert len(again.test_set().images) == 1


def test_what_another_process_fetched_meanwhile_is_kept(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Cifar10(str(tmp_path), download=True)
    source.fetch()
    monkeypatch.setattr(source, "_find", lambda name: None)  # looked before the other was ready
    source.fetch()
    monkeypatch.undo()
    assert torch.equal(Cifar10(str(tmp_path)).test_set().labels, torch.tensor([7]))


def test_a_site_that_cannot_be_reached_is_reported_in_a_sentence(
    site: Path, tmp_path: Path
) -> None:
    (site / "cifar-10-binary.tar.gz").unlink()
    folder = tmp_path / "data"
    with pytest.raises(DataError) as told:
        Cifar10(str(folder), download=True).fetch()
    words = str(told.value)
    assert words.startswith(f"{Cifar10._url} cannot be downloaded: ")
    assert f"download it elsewhere and unpack it in data.source.folder, '{folder}'" in words
    assert "\n" not in words
    assert list(folder.iterdir()) == []


def test_an_archive_that_is_damaged_is_not_unpacked(site: Path, tmp_path: Path) -> None:
    archive = site / "cifar-10-binary.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-9])
    with pytest.raises(DataError, match="cannot be downloaded: the downloaded file is damaged"):
        Cifar10(str(tmp_path / "data"), download=True).fetch()
    assert list((tmp_path / "data").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_reported(site: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        DataError, match=r"cannot be downloaded: .*data\.source\.folder, '.*/file/data"
    ):
        Cifar10(str(tmp_path / "file" / "data"), download=True).fetch()


def test_fashion_mnist_is_four_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    site, folder = tmp_path / "site", tmp_path / "data"
    for name in FashionMnist._packed_md5:
        with gzip.open(site / f"{name}.gz", "wb") as packed:
            packed.write(name.encode())
    sums = {name: digest(site / f"{name}.gz") for name in FashionMnist._packed_md5}
    monkeypatch.setattr(FashionMnist, "_packed_md5", sums)
    monkeypatch.setattr(FashionMnist, "_url", address)
    kept = "t10k-images-idx3-ubyte"
    folder.mkdir()
    (folder / kept).write_text("is there")
    FashionMnist(str(folder), download=True).fetch()
    found = sorted(path.name for path in (folder / "FashionMNIST" / "raw").iterdir())
    assert found == sorted(f"{name}.gz" for name in sums if name != kept)


@pytest.mark.parametrize("kind", [Cifar10, Cifar100])
def test_archives_are_the_binary_ones(kind: type[Cifar10]) -> None:
    assert kind._url.startswith("https://www.cs.toronto.edu/~kriz/cifar-10")
    assert kind._url.endswith("-binary.tar.gz")  # nothing in them is code
