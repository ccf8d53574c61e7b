"""The served page: what it answers, what it refuses, and that it is loaded again."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from threading import Thread

import pytest
from written_runs import write_run

from qatlab.cli.main import run as run_command
from qatlab.report.serve import HOST, Watched, server_of

SECRET = "not for readers of the page"


class Asked:
    """An answer, all of it."""

    def __init__(self, response: HTTPResponse) -> None:
        self.status, self.headers = response.status, response.headers
        self.text = response.read().decode()


class Client:
    """Asks a server as a browser would, and in ways in which none would."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, address: str, host: str = "") -> Asked:
        connection = HTTPConnection(HOST, self.port, timeout=30)
        try:
            connection.putrequest("GET", address, skip_host=True)  # the address as it is
            connection.putheader("Host", host or f"{HOST}:{self.port}")
            connection.endheaders()
            return Asked(connection.getresponse())
        finally:
            connection.close()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder of one run, whose name has characters that addresses write in another way."""
    folder = tmp_path / "runs"
    run = folder / "a #1/b=2%"
    write_run(run, top1=0.9)
    (run / "figures").mkdir()
    (run / "figures/curves.svg").write_text("<svg><script>alert(1)</script></svg>")
    (run / "weights.safetensors").write_text(SECRET)
    (tmp_path / "secret.json").write_text(SECRET)
    (run / "figures/linked.png").symlink_to(tmp_path / "secret.json")
    return folder


@pytest.fixture
def served(runs: Path) -> Iterator[Client]:
    """A server of that folder, at any free port."""
    with server_of(runs, 0) as server:
        Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield Client(server.server_port)
        server.shutdown()


def test_the_page_asks_for_versions_and_nothing_else(served: Client) -> None:
    page = served.get("/")
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "connect-src 'self'" in page.text
    data = json.loads(page.text.partition('type="application/json">')[2].partition("</script>")[0])
    assert data["version"] == json.loads(served.get("/version").text)
    assert data["base"] == "runs"


def test_files_of_runs_are_served_as_what_they_are(served: Client, runs: Path) -> None:
    config = served.get("/runs/a%20%231/b%3D2%25/config.yaml")
    assert config.text == (runs / "a #1/b=2%/config.yaml").read_text()
    assert config.headers["Content-Type"] == "text/plain; charset=utf-8"
    result = served.get("/runs/a%20%231/b%3D2%25/result.json")
    assert result.headers["Content-Type"] == "application/json"
    picture = served.get("/runs/a%20%231/b%3D2%25/figures/curves.svg")
    assert picture.headers["Content-Type"] == "image/svg+xml"
    assert "sandbox" in picture.headers["Content-Security-Policy"]  # its script does not run
    assert picture.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "address",
    [
        "/runs/../secret.json",
        "/../secret.json",
        "/runs/%2e%2e/secret.json",
        "/runs/..%2fsecret.json",
        "/runs/a%20%231/b%3D2%25/../../../secret.json",
        "/runs/a%20%231/b%3D2%25/figures/../../../../secret.json",
        "/runs//etc/hostname",
        "//etc/hostname",
        "/etc/hostname",
        "/runs/a%20%231/b%3D2%25/figures/linked.png",  # a link that leads out
        "/runs/a%20%231/b%3D2%25/weights.safetensors",  # of the run, but not listed
        "/runs/a%20%231/b%3D2%25/.hydra/overrides.yaml",
        "/runs/a%20%231/b%3D2%25",
        "/runs/",
        "/runs/a%20%231/b%3D2%25/config.yaml%00.png",
        "/report.html",
    ],
)
def test_nothing_else_is_served(served: Client, address: str) -> None:
    asked = served.get(address)
    assert asked.status == 404
    assert SECRET not in asked.text
    assert asked.text == "There is no such file of a run.\n"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8421", "127.0.0.1.evil.example:80"])
def test_a_name_that_leads_here_is_refused(served: Client, host: str) -> None:
    asked = served.get("/", host=host)
    assert asked.status == 403
    assert "lenet" not in asked.text
    assert served.get("/version", host=f"localhost:{served.port}").status == 200


def test_it_listens_on_this_machine_only(runs: Path) -> None:
    with server_of(runs, 0) as server:
        assert server.socket.getsockname()[0] == "127.0.0.1"


def test_the_version_changes_with_the_runs(served: Client, runs: Path) -> None:
    versions = [served.get("/version").text]
    assert served.get("/version").text == versions[0]
    run = runs / "a #1/b=2%"
    with (run / "metrics.csv").open("a") as file:
        file.write("4,49,quantize,0.1,0.9,0.2,0.9" + ",1,0" * 4 + "\n")
    versions.append(served.get("/version").text)
    write_run(runs / "c", top1=0.95, weight_bits=2)
    versions.append(served.get("/version").text)
    (run / "figures/new.png").touch()
    versions.append(served.get("/version").text)
    assert len(set(versions)) == 4
    assert "quant.weight.bits=2" in served.get("/").text


def test_only_runs_that_have_changed_are_read_again(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import qatlab.report.serve as module

    read: list[str] = []
    original = module.run_in

    def noted(path: Path, *rest: object) -> object:
        read.append(path.name)
        return original(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "run_in", noted)
    write_run(runs / "c", top1=0.95)
    watched = Watched(runs)
    first = watched.page()
    assert watched.page() is first
    assert sorted(read) == ["b=2%", "c"]
    (runs / "c/error.txt").write_text("no")
    watched.page()
    assert sorted(read) == ["b=2%", "c", "c"]


def test_a_sweep_that_has_not_begun_is_an_empty_page(tmp_path: Path) -> None:
    assert b'"runs":[]' in Watched(tmp_path).page()


def test_a_port_that_is_taken_is_a_sentence(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        assert run_command(["report", str(runs), "--serve", "--port", str(port)]) == 1
    told = capsys.readouterr().err
    assert f"--port {port} cannot be used: another program uses it." in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--serve", "--port", "8o"], "--port='8o' is wrong"),
        (["--serve", "--port", "65536"], "65535"),
        (["--serve", "--port", "-1"], "--port"),
        (["--port", "80"], "--serve"),
        (["--serve", "-o", "x.html"], "not allowed with"),
    ],
)
def test_words_that_do_not_fit_are_a_sentence(
    runs: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert run_command(["report", str(runs), *words]) == 1
    assert told in capsys.readouterr().err


def test_a_folder_that_is_missing_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["report", str(tmp_path / "none"), "--serve", "--port", "0"]) == 1
    assert "cannot read" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGINT to send")
def test_it_says_its_address_and_ends_with_ctrl_c(runs: Path) -> None:
    words = [sys.executable, "-m", "qatlab", "report", str(runs), "--serve", "--port", "0"]
    server = subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Tests that a script runs in the background are started without it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        found = re.fullmatch(r"The page of .* is at http://127\.0\.0\.1:(\d+)/ \(.*\)\.\n", line)
        assert found is not None, line
        assert Client(int(found[1])).get("/").status == 200
        server.send_signal(signal.SIGINT)
        _, error = server.communicate(timeout=60)
    finally:
        server.kill()
    assert (server.returncode, error) == (0, "\nEnded.\n")
