"""Shared parts of the dashboard's benchmarks: a server on a run, its memory, medians, clients without a browser.

A client speaks Streamlit's own protocol over a WebSocket, so what it waits for is the server and nothing of a browser.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
PATIENCE = 120.0
"""Seconds after which an answer counts as lost."""
_TITLE = re.compile(r"<h1[^>]*>Feature ([\d,]+)</h1>")


@dataclass(frozen=True)
class Server:
    """A dashboard that runs: its address and the process that serves it."""

    address: str
    process: int

    def memory(self) -> dict[str, float]:
        """MB that the process has of its own, and of files that are mapped and can be given up at any time."""
        status = Path(f"/proc/{self.process}/status").read_text(encoding="utf-8")
        fields = dict(re.findall(r"^(\w+):\s+(\d+) kB$", status, re.MULTILINE))
        return {"own": int(fields["RssAnon"]) / 1024, "mapped": int(fields["RssFile"]) / 1024}


@contextmanager
def served(run: Path) -> Iterator[Server]:
    """Serve a run as `sae-ensemble dashboard` does, on a free port, until the block ends."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "sae_core", "dashboard", str(run), "--port", str(port)]
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        address = f"http://localhost:{port}"
        _wait(f"{address}/_stcore/health", started)
        yield Server(address, _child(started.pid))
    finally:
        started.terminate()
        started.wait()


def _wait(url: str, started: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            urllib.request.urlopen(url).close()
            return
        except OSError:
            if started.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("The dashboard does not answer; start it by hand to see why.") from None
            time.sleep(0.05)


def _child(parent: int) -> int:
    """The process that a process has started."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="utf-8").split()
    return int(children[0]) if children else parent


def summary(milliseconds: Sequence[float]) -> dict[str, float]:
    """Median, the value that 95 % do not exceed, the largest, and how many there are."""
    values = np.asarray(milliseconds, np.float64)
    if not len(values):
        return {"median": float("nan"), "p95": float("nan"), "most": float("nan"), "count": 0}
    low, high = np.quantile(values, (0.5, 0.95))
    return {"median": float(low), "p95": float(high), "most": float(values.max()), "count": len(values)}


def described(name: str, milliseconds: Sequence[float]) -> str:
    """A row of the table."""
    one = summary(milliseconds)
    return f"| {name} | {one['median']:.0f} | {one['p95']:.0f} | {one['most']:.0f} | {one['count']} |"


HEADING = "| ms | median | 95 % | most | n |\n|---|---|---|---|---|"


def machine() -> str:
    """What was measured on, in one line."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    packages = ", ".join(f"{name} {version(name)}" for name in ("streamlit", "pandas", "numpy", "pyarrow"))
    load = os.getloadavg()[0]
    cores = len(os.sched_getaffinity(0))
    processor = model[1] if model else platform.machine()
    return (
        f"{cores} cores of {processor}, Python {platform.python_version()}, {packages}, "
        f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, load {load:.1f}"
    )


@dataclass
class Answer:
    """What the server sent for one request.

    Attributes:
        milliseconds: From the request to the end of the script.
        bytes: Of all messages.
        texts: Every piece of HTML and Markdown in it.
        query: The address bar's query string as the server set it last; None if it did not.
        exceptions: Exceptions that it shows.
    """

    milliseconds: float = 0.0
    bytes: int = 0
    texts: list[str] = field(default_factory=list)
    query: str | None = None
    exceptions: list[str] = field(default_factory=list)

    def features(self) -> set[int]:
        """The features whose title stands on the page."""
        return {int(number.replace(",", "")) for text in self.texts for number in _TITLE.findall(text)}


class Person:
    """A client with a session of its own.

    Args:
        address: The server's.
    """

    def __init__(self, address: str) -> None:
        self._url = address.replace("http", "ws", 1) + "/_stcore/stream"
        self._pages: dict[str, str] = {}
        self._socket: Any = None

    async def __aenter__(self) -> Person:
        import websockets

        self._socket = await websockets.connect(self._url, subprotocols=["streamlit"], max_size=None)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._socket.close()

    async def visit(self, page: str, **query: object) -> Answer:
        """Open a page, as a link does; the answer is whole when the server's script has ended."""
        from streamlit.proto.BackMsg_pb2 import BackMsg

        message = BackMsg()
        message.rerun_script.query_string = urlencode(query)
        message.rerun_script.page_script_hash = self._pages.get(page, "")
        message.rerun_script.page_name = page
        began, answer = time.perf_counter(), Answer()
        await self._socket.send(message.SerializeToString())
        while not self._take(await asyncio.wait_for(self._socket.recv(), PATIENCE), answer):
            pass
        answer.milliseconds = 1000 * (time.perf_counter() - began)
        return answer

    def _take(self, data: bytes, answer: Answer) -> bool:
        """Read a message into the answer; whether it was the last one."""
        from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

        message = ForwardMsg.FromString(data)
        answer.bytes += len(data)
        match message.WhichOneof("type"):
            case "navigation":
                self._pages = {one.url_pathname: one.page_script_hash for one in message.navigation.app_pages}
            case "page_info_changed":
                answer.query = message.page_info_changed.query_string
            case "delta" if message.delta.WhichOneof("type") == "new_element":
                element = message.delta.new_element
                match element.WhichOneof("type"):
                    case "html":
                        answer.texts.append(element.html.body)
                    case "markdown":
                        answer.texts.append(element.markdown.body)
                    case "exception":
                        answer.exceptions.append(element.exception.message)
            case "script_finished":
                # A run that was stopped for a newer one is followed by that one.
                return message.script_finished != ForwardMsg.FINISHED_EARLY_FOR_RERUN
        return False
