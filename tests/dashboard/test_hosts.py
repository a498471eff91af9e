"""Whom the dashboard answers: requests for an address that it serves, from its own pages, over real sockets."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from command_line import call, refused, start_program

from dashboard.hosts import is_own, is_served, read_authority
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import RunSettings

LOCAL, LAN, PROXY = "127.0.0.1", "192.0.2.7", "sae.example.org"


@pytest.mark.parametrize(
    ("header", "reached", "served"),
    [
        ("localhost:8501", LOCAL, True),
        ("LOCALHOST.", LOCAL, True),
        ("127.0.0.1:8501", LOCAL, True),
        ("[::1]:8501", "::1", True),
        ("[::1]", LOCAL, True),
        ("[::ffff:127.0.0.1]:1", LOCAL, True),
        (f"{LAN}:8501", LAN, True),
        (PROXY, LOCAL, True),
        (f"{PROXY.upper()}:443", LOCAL, True),
        ("evil.example:8501", LOCAL, False),
        ("localhost.evil.example", LOCAL, False),
        ("evil.example#localhost", LOCAL, False),
        ("localhost@evil.example", LOCAL, False),
        ("127.0.0.1.evil.example", LOCAL, False),
        # An address of another machine, or of no machine at all.
        (f"{LAN}:8501", LOCAL, False),
        ("0.0.0.0:8501", LOCAL, False),
        ("127.0.0.1", LAN, False),
        ("2130706433", LOCAL, False),
        ("localhost", None, True),
        ("127.0.0.1", None, False),
        ("", LOCAL, False),
        ("localhost:port", LOCAL, False),
        ("localhost:99999", LOCAL, False),
        ("local host", LOCAL, False),
    ],
)
def test_a_host_is_served_or_not(header: str, reached: str | None, served: bool) -> None:
    host = read_authority(header)
    assert (host is not None and is_served(host, reached=reached, names=[PROXY])) is served


def test_a_server_is_also_known_by_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Workstation")
    host = read_authority("workstation:8501")
    assert host is not None
    assert is_served(host, reached=LAN)


@pytest.mark.parametrize(
    ("origin", "header", "own"),
    [
        ("http://localhost:8501", "localhost:8501", True),
        ("https://localhost", "localhost:443", True),
        ("http://[::1]:8501", "[::1]:8501", True),
        # A proxy may replace the Host header by its own.
        (f"https://{PROXY}", "localhost:8501", True),
        ("http://localhost:9999", "localhost:8501", False),
        ("http://127.0.0.1:8501", "localhost:8501", False),
        ("http://evil.example", "localhost:8501", False),
        ("http://localhost:8501.evil.example", "localhost:8501", False),
        ("http://localhost:8501/path", "localhost:8501", False),
        ("file://localhost:8501", "localhost:8501", False),
        ("null", "localhost:8501", False),
        ("", "localhost:8501", False),
    ],
)
def test_an_origin_is_the_servers_own_or_not(origin: str, header: str, own: bool) -> None:
    host = read_authority(header)
    assert host is not None
    assert is_own(origin, host, names=[PROXY]) is own


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a dashboard that the program serves, to which a proxy's name was given."""
    run = Run.create(tmp_path_factory.mktemp("served") / "run", RunSettings()).path
    with socket.create_server(("localhost", 0)) as free:
        first = free.getsockname()[1]
    with start_program("dashboard", run, "--port", first, "--allow-host", PROXY) as program:
        said = next(filter(None, (re.search(r"Dashboard: (http://\S+)", line) for line in program.stderr)))
        yield urlsplit(said[1]).port
        program.terminate()
        program.communicate()


def answer(
    port: int, path: str, host: str, origin: str | None = None, *, upgrade: bool = False, method: str = "GET"
) -> int:
    """The status with which the server answers a request that is sent to it under a host."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *([f"Origin: {origin}"] if origin else [])]
    if upgrade:
        lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
        lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    else:
        lines += ["Connection: close", "Content-Length: 0"]
    with socket.create_connection((LOCAL, port), timeout=30) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return int(connection.recv(64).split()[1])


@pytest.mark.slow
def test_pages_and_sockets_are_for_the_addresses_served(port: int) -> None:
    here, evil = f"localhost:{port}", f"evil.example:{port}"
    for host in (here, f"127.0.0.1:{port}", f"[::1]:{port}", PROXY):  # the proxy's pages have its own name
        assert answer(port, "/", host) == 200
        assert answer(port, "/_stcore/stream", host, f"http://{host}", upgrade=True) == 101
    for path in ("/", "/_stcore/health", "/_stcore/host-config", "/media/0.csv", "/static/x.js"):
        assert answer(port, path, evil) == 403
        assert answer(port, path, here, "http://evil.example") == 403
    for method in ("PUT", "DELETE", "OPTIONS", "POST"):
        assert answer(port, "/_stcore/upload_file/a/b", evil, method=method) == 403
    assert answer(port, "/_stcore/stream", evil, f"http://{evil}", upgrade=True) == 403
    assert answer(port, "/_stcore/stream", here, f"http://{evil}", upgrade=True) == 403
    assert answer(port, "/_stcore/stream", here, "http://localhost:1", upgrade=True) == 403
    # Two Host headers leave open which of them counts.
    assert answer(port, "/", f"{here}\r\nHost: {evil}") in (400, 403)


def test_names_that_are_none_are_refused(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", RunSettings()).path
    for name in ("http://sae.example.org", "sae.example.org/path", "a b", "*"):
        refused(call("dashboard", run, "--allow-host", name), repr(name), "name of a host")
