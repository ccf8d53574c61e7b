"""Downloads published data sets; nothing else in this package uses the network."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

from qatlab.errors import DataError

_SECONDS = 30  # without an answer


@runtime_checkable
class Downloadable(Protocol):
    """A source that may download what it reads."""

    def fetch(self) -> None:
        """Download what is missing, if that is allowed."""
        ...


def archive(url: str, md5: str, folder: Path, name: str) -> None:
    """Download an archive and put the folder ``name`` that it holds into ``folder``.

    Raises:
        DataError: if that is not possible; then nothing has changed.
    """
    from torchvision.datasets.utils import download_and_extract_archive  # it takes a second

    _fetch(url, lambda inside: download_and_extract_archive(url, inside, md5=md5), folder, name)


def file(url: str, md5: str, folder: Path) -> None:
    """Download a file into ``folder``; see :func:`archive`."""
    from torchvision.datasets.utils import download_url  # likewise

    _fetch(url, lambda inside: download_url(url, inside, md5=md5), folder, url.rpartition("/")[2])


def _fetch(url: str, download: Callable[[str], None], folder: Path, name: str) -> None:
    """Download into a temporary folder; what is complete moves to its place in one step."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as inside,
            _timeout(),
        ):
            download(inside)
            if not (folder / name).exists():  # another process may have been faster
                (Path(inside) / name).rename(folder / name)
    except (OSError, RuntimeError) as error:
        damaged = isinstance(error, RuntimeError)
        why = "the downloaded file is damaged" if damaged else getattr(error, "reason", error)
        raise DataError(
            f"{url} cannot be downloaded: {why}. Without a network, download it elsewhere and "
            f"unpack it in data.source.folder, '{folder}' ({folder.resolve()})."
        ) from error


@contextmanager
def _timeout() -> Iterator[None]:
    """Let a network that says nothing be an error."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
