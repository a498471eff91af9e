"""Start the dashboard, a separate program, as a child process."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import sae_core
from sae_core.foundation.errors import UserError
from sae_core.foundation.machine import environment as variables

PORTS_TRIED = 20
LAST_PORT = 65_535
START_SECONDS = 60
STOP_SECONDS = 10
_ANY = ("0.0.0.0", "::", "")
"""A server bound to one of these listens on all addresses of its machine, but none of these is an address to open."""
_HOST = re.compile(r"[A-Za-z0-9_.-]+")


def serve_dashboard(
    path: Path,
    *,
    port: int,
    host: str,
    announce: Callable[[str], None],
    labels: str | None = None,
    names: Sequence[str] = (),
) -> None:
    """Serve the dashboard until it is stopped (Ctrl-C or SIGTERM).

    Args:
        path: A run folder or a folder of runs.
        port: The first port to try.
        host: The address to bind.
        announce: Called with the address once the server answers.
        labels: Address of a database for the labels; by default the environment's, else labels are in the run folders.
        names: Further names under which people reach the dashboard, such as a proxy's.

    Raises:
        UserError: If the dashboard is not installed, no port is free, a name is not valid or the server ends by itself.
    """
    surroundings = _surroundings(labels, names)
    free = _free_port(host, port)
    with _terminable():
        server = subprocess.Popen(_command(path, free, host), env=surroundings)
        try:
            if _is_up(server, host, free):
                announce(f"Dashboard: http://{_shown(host)}:{free}  (Ctrl-C stops it)")
            code = server.wait()
            if code != 0:
                raise UserError(f"The dashboard ended with exit code {code}; its messages are above.")
        except KeyboardInterrupt:
            pass
        finally:
            _end(server)


def _surroundings(labels: str | None, names: Sequence[str]) -> dict[str, str]:
    """The server's environment. It carries the address of the labels, since a list of processes shows arguments."""
    given = [*names, *filter(None, os.environ.get(variables.HOSTS, "").split(","))]
    for name in given:
        if not _HOST.fullmatch(name.strip()):
            raise UserError(f"{name!r} is no name of a host; give one such as sae.example.org, without port or path.")
    hosts = ",".join(name.strip() for name in given)
    modules = os.pathsep.join(filter(None, (str(_home()), os.environ.get("PYTHONPATH"))))
    own = {variables.HOSTS: hosts, "PYTHONPATH": modules, **({variables.LABELS: labels} if labels else {})}
    return {**os.environ, **own}


def _home() -> Path:
    """The folder that holds the package ``dashboard``.

    In the repository it is the top one. An installed wheel carries it inside this package, as a top-level name such as
    dashboard would replace somebody else's; only the server's process, which looks there first, sees it by that name.
    """
    package = Path(sae_core.__file__).parent
    for home in (package / "browser", package.parent):
        if (home / "dashboard" / "server.py").is_file():
            return home
    raise UserError("The dashboard is not installed; install sae-ensemble again.")


def _shown(host: str) -> str:
    """The host to show in an address that this machine can open."""
    host = "localhost" if host in _ANY else host
    return f"[{host}]" if ":" in host else host


@contextmanager
def _terminable() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C in a block; otherwise SIGTERM would end this process and leave the server running."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _command(path: Path, port: int, host: str) -> list[str]:
    options = {
        "server.port": str(port),
        "server.address": host,
        "server.headless": "true",
        # server.py checks the host of every request itself, more strictly than this option.
        "server.allowedHosts": "*",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        "runner.magicEnabled": "false",
        # Otherwise Python's garbage collector visits all objects after every click, which takes longer than the page.
        "runner.postScriptGC": "false",
        "theme.light.primaryColor": "#1f6fb5",
        "theme.dark.primaryColor": "#3786d6",
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    script = str(_home() / "dashboard" / "server.py")
    # -P, so that a folder dashboard/ in which somebody stands is not taken for ours.
    return [sys.executable, "-P", "-m", "dashboard", "run", script, *flags, "--", str(path.resolve())]


def _free_port(host: str, first: int) -> int:
    last = min(first + PORTS_TRIED - 1, LAST_PORT)
    for port in range(first, last + 1):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except PermissionError:
                raise UserError(f"Port {port} may not be used; choose one above 1023 with --port.") from None
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise UserError(f"{host} is no address of this machine; use --host localhost.") from None
            else:
                return port
    raise UserError(f"Ports {first} to {last} on {host} are all taken; choose another with --port.")


def _is_up(server: subprocess.Popen[bytes], host: str, port: int) -> bool:
    """Wait until the server answers; False if it has ended or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            socket.create_connection((host, port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return True
    return False
