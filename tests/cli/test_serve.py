"""Serving the dashboard: on this machine only, on the next free port, and with no server left behind."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from command_line import call, refused, start_program

from sae_core.cli import serve
from sae_core.foundation.errors import UserError
from sae_core.foundation.run import Run
from sae_core.foundation.settings.run_settings import RunSettings

LISTENING = "0A"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run in which nothing is trained yet: the dashboard serves that, too."""
    return Run.create(tmp_path / "run", RunSettings()).path


@contextmanager
def taken_ports(count: int) -> Iterator[int]:
    """Ports in a row on which somebody else listens; yields the first."""
    while True:
        with ExitStack() as stack:
            first = stack.enter_context(socket.create_server(("localhost", 0))).getsockname()[1]
            try:
                for port in range(first + 1, first + count):
                    stack.enter_context(socket.create_server(("localhost", port)))
            except (OSError, OverflowError):
                continue
            yield first
            return


def listening_addresses(port: int) -> set[str]:
    """Local addresses on which anybody listens on a port, IPv4 as text and IPv6 as the kernel's hexadecimal digits."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            address, number = line.split()[1].split(":")
            if line.split()[3] == LISTENING and int(number, 16) == port:
                found.add(str(IPv4Address(bytes.fromhex(address)[::-1])) if table == "tcp" else address)
    return found


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_dashboard_is_served_locally_until_it_is_stopped(run: Path, stop: signal.Signals) -> None:
    with taken_ports(1) as port, start_program("dashboard", run, "--port", port) as program:
        try:
            check_service(program, port, stop)
        finally:
            program.kill()  # at most what a failed check has left


def check_service(program: subprocess.Popen[str], port: int, stop: signal.Signals) -> None:
    # The server's own messages come before it.
    address = next(filter(None, (re.search(r"Dashboard: (http://localhost:(\d+))", line) for line in program.stderr)))
    served = int(address[2])
    assert port < served < port + serve.PORTS_TRIED
    with urllib.request.urlopen(f"{address[1]}/_stcore/health") as answer:
        assert answer.read() == b"ok"
    assert listening_addresses(served) <= {"127.0.0.1", "00000000000000000000000001000000"}
    servers = children_of(program.pid)
    assert len(servers) == 1

    program.send_signal(stop)
    _, rest = program.communicate()
    assert program.returncode == 0, rest
    assert "Traceback" not in rest
    assert not Path(f"/proc/{servers[0]}").exists()
    assert not listening_addresses(served)


def test_ports_and_addresses_that_cannot_be_used_are_refused(run: Path) -> None:
    with taken_ports(serve.PORTS_TRIED) as port:
        last = port + serve.PORTS_TRIED - 1
        refused(call("dashboard", run, "--port", port), f"Ports {port} to {last} on localhost are all taken", "--port")
    for port in (0, -1, 65_536):
        refused(call("dashboard", run, "--port", port), "'--port'")
    # An address for documentation (RFC 5737), which no machine has.
    refused(call("dashboard", run, "--host", "192.0.2.1"), "192.0.2.1 is no address of this machine", "--host")


def test_no_port_is_tried_behind_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def bind(probe: socket.socket, address: tuple[str, int]) -> None:
        tried.append(address[1])
        raise OSError(serve.errno.EADDRINUSE, "taken")

    monkeypatch.setattr(socket.socket, "bind", bind)
    with pytest.raises(UserError, match="Ports 65530 to 65535 on localhost are all taken"):
        serve._free_port("localhost", 65_530)
    assert tried == list(range(65_530, 65_536))


def test_a_server_that_ends_by_itself_is_reported_and_not_announced(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    said: list[str] = []
    with taken_ports(1) as port, pytest.raises(UserError, match="exit code 3"):
        serve.serve_dashboard(run, port=port, host="localhost", announce=said.append)
    assert not said


def test_a_server_that_does_not_end_when_told_to_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "STOP_SECONDS", 0.2)
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    server = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE)
    with server.stdout:
        server.stdout.readline()
        serve._end(server)
    assert server.returncode == -signal.SIGKILL


IMPORTING = """
import importlib, pkgutil, sys
import dashboard.__main__ as start
from dashboard import shared, views
names = [*start.FOR_ALL_PAGES, *start.of_pages()]
for room in (shared, views):
    found = pkgutil.walk_packages(room.__path__, f"{room.__name__}.")
    names += [one.name for one in found if not one.name.endswith(".page")]
large = {"torch", "sklearn", "numba", "scipy.stats", "transformers"}
for some in (names, start.FOR_SOME):
    for name in some:
        importlib.import_module(name)
    print(*sorted(large & set(sys.modules)))
"""


def test_the_first_page_waits_for_nothing_that_few_pages_need() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTING], capture_output=True, text=True, check=True)
    first, later = done.stdout.splitlines()
    assert first == ""
    # What reads texts is imported for those who open its page.
    assert later == "scipy.stats sklearn torch"
