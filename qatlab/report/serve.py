"""Serves the page of a folder to browsers of this machine, while a sweep runs."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

from qatlab.errors import ConfigError
from qatlab.report.details import read_details
from qatlab.report.page import address_of, page
from qatlab.report.runs import READ, Run, run_folders, run_in
from qatlab.report.settings import join_seeds

HOST = "127.0.0.1"  # this machine only
PORT = 8421
RUNS = "runs"  # of the address of a run's file
TYPES = {
    **{".json": "application/json", ".png": "image/png", ".svg": "image/svg+xml"},
    ".pdf": "application/pdf",
}
TEXT = "text/plain; charset=utf-8"  # of all others, which a browser then only shows
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
# An SVG of a run could hold a script.
OF_FILES = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox"}

Stamps = tuple[tuple[str, int, int], ...]


class Watched:
    """A folder of runs, of which only those are read again that have changed.

    Args:
        folder: searched for runs at any depth, at each call.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = Lock()  # browsers ask at the same time
        self._known: dict[Path, tuple[Stamps, Run, dict[str, Any]]] = {}
        self._page = ("", b"")  # of which version

    def version(self) -> str:
        """Return a text that is another one whenever a file of a run has changed.

        Raises:
            ConfigError: if the folder cannot be read.
        """
        stamps = [(str(path), why, _stamps(path)) for path, why in run_folders(self.folder).items()]
        return hashlib.sha256(repr(stamps).encode("utf-8", "backslashreplace")).hexdigest()[:16]

    def page(self) -> bytes:
        """Return the page as it is now.

        Raises:
            ConfigError: if the folder cannot be read.
        """
        with self._lock:
            version = self.version()  # first: what changes while it is read is read again
            if self._page[0] != version:
                self._page = (version, self._make(version))
            return self._page[1]

    def file(self, address: str) -> Path | None:
        """Return the file of a run that a page links to, by its address; None for all else.

        No path is made of the address: it is looked up among those that are linked to.
        """
        self.page()  # which knows them
        with self._lock:
            linked = {
                "/".join(filter(None, (RUNS, address_of(run.folder), name))): run.path / name
                for _, run, _ in self._known.values()
                for name in run.files
            }
        return linked.get(address)

    def _make(self, version: str) -> bytes:
        known = {}
        for path, reason in run_folders(self.folder).items():
            stamps = _stamps(path)
            before = self._known.get(path)
            if before is not None and before[0] == stamps and not reason:
                known[path] = before
                continue
            (run,), (content,) = read_details([run_in(path, self.folder, reason)])
            known[path] = (stamps, run, content)
        self._known = known
        runs = [run for _, run, _ in known.values()]
        contents = [content for _, _, content in known.values()]
        name = self.folder.absolute().name
        text = page(name, runs, contents, join_seeds(runs), base=RUNS, version=version)
        return text.encode("utf-8", "backslashreplace")


def _stamps(path: Path) -> Stamps:
    """Return name, time and size of each file of a run that a page is made of, or links to."""
    return tuple(_stamps_of(path))


def _stamps_of(path: Path) -> Iterator[tuple[str, int, int]]:
    for name in READ:
        try:
            found = (path / name).stat()
        except (OSError, ValueError):
            continue
        yield name, found.st_mtime_ns, found.st_size


class Handler(BaseHTTPRequestHandler):
    """Answers with the page, its version, and the files that it links to."""

    def __init__(self, watched: Watched, *args: Any) -> None:
        self.watched = watched
        super().__init__(*args)

    def do_GET(self) -> None:
        """Answer a request."""
        address = urlsplit(self.path).path.removeprefix("/")
        # Another site's name may lead to this machine: its pages must not read what is here.
        host = self.headers.get("Host", "").rpartition(":")[0]
        if host not in (HOST, "localhost"):
            self._answer(HTTPStatus.FORBIDDEN, b"This page is served as 127.0.0.1 only.\n", TEXT)
            return
        try:
            self._answer_with(address)
        except ConfigError as error:
            words = f"{error}\n".encode("utf-8", "backslashreplace")
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, words, TEXT)

    def _answer_with(self, address: str) -> None:
        if address == "":
            self._answer(HTTPStatus.OK, self.watched.page(), "text/html; charset=utf-8")
            return
        if address == "version":
            self._answer(HTTPStatus.OK, json.dumps(self.watched.version()).encode(), TYPES[".json"])
            return
        file = self.watched.file(address)
        try:
            content = None if file is None else file.read_bytes()
        except OSError:  # it has gone meanwhile
            content = None
        if file is None or content is None:
            self._answer(HTTPStatus.NOT_FOUND, b"There is no such file of a run.\n", TEXT)
        else:
            self._answer(HTTPStatus.OK, content, TYPES.get(file.suffix, TEXT), OF_FILES)

    def _answer(
        self, status: HTTPStatus, content: bytes, kind: str, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in {**HEADERS, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(BrokenPipeError, ConnectionResetError):  # the browser has gone
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a page asks every two seconds."""


def server_of(folder: Path, port: int) -> ThreadingHTTPServer:
    """Return a server of a folder's page on this machine; port 0 stands for any that is free.

    Raises:
        ConfigError: if the folder cannot be read, or the port cannot be used.
    """
    watched = Watched(folder)
    watched.version()  # or the first reader would learn that there is no such folder
    try:
        server = ThreadingHTTPServer((HOST, port), partial(Handler, watched))
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        reason = "another program uses it" if taken else error.strerror
        raise ConfigError(
            f"--port {port} cannot be used: {reason}. Accepted: a free port of 1024 to 65535, or 0 "
            "for any that is free."
        ) from error
    server.daemon_threads = True
    return server
