"""Which requests the server answers: those that are sent to an address it serves, and come from its own pages.

A page of another origin can let its own name resolve to this machine (DNS rebinding). The browser then takes the
dashboard for part of that page and would let it read everything. Such a request still carries the foreign name in its
Host header, so the Host header is compared with the addresses that are served.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any
from urllib.parse import urlsplit

from sae_core.foundation.machine import environment as variables

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
_PORTS = {"http": 80, "https": 443}
_FORBIDDEN, _POLICY = 403, 1008


@dataclass(frozen=True, slots=True)
class Authority:
    """The host of a Host or Origin header: a name in lower case or an address, and the port, if there is one."""

    host: str
    port: int | None = None

    @property
    def address(self) -> IPv4Address | IPv6Address | None:
        """The host as an address; None if it is a name."""
        return read_address(self.host)


def read_address(host: str) -> IPv4Address | IPv6Address | None:
    """An IP address from its text, an IPv4 address that is written as IPv6 as what it is; None if it is none."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def read_authority(text: str) -> Authority | None:
    """``name:port`` as a Host header has it; None where it is anything else."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    extra = parts.path or parts.query or parts.fragment or "@" in text or any(char.isspace() for char in text)
    return None if extra or not host else Authority(host.rstrip("."), port)


def is_served(host: Authority, *, reached: str | None, names: Iterable[str] = ()) -> bool:
    """Whether a Host header names an address that is served.

    Args:
        host: What the header says.
        reached: The address of this machine at which the request arrived.
        names: Names and addresses under which the server is known besides.
    """
    if host.host in {"localhost", socket.gethostname().lower(), *(name.lower().rstrip(".") for name in names)}:
        return True
    here, named = read_address(reached or ""), host.address
    if here is None or named is None:
        return False
    # An address needs no name service, so that nobody can redirect it; it must only be this machine's.
    return named == here or (named.is_loopback and here.is_loopback)


def is_own(origin: str, host: Authority, *, names: Iterable[str] = ()) -> bool:
    """Whether an Origin header names this server: the host and port of the Host header, or a further name.

    A proxy may ask for the server by another host than the one that people see, so a further name counts with any port.
    """
    scheme, _, rest = origin.partition("://")
    found = read_authority(rest)
    if scheme not in _PORTS or found is None:
        return False
    if found.host in {name.lower().rstrip(".") for name in names}:
        return True
    return found.host == host.host and (found.port or _PORTS[scheme]) == (host.port or _PORTS[scheme])


def further_names() -> list[str]:
    """What ``--allow-host`` and the environment say."""
    return [name.strip() for name in os.environ.get(variables.HOSTS, "").split(",") if name.strip()]


class HostCheck:
    """Answers 403 to requests, sockets included, that are sent to another host or come from another origin.

    Args:
        app: What answers the others.
        names: Names under which pages of the server may come from elsewhere, as from a proxy.
        bound: The name or address that the server was told to listen on.
    """

    def __init__(self, app: App, names: Iterable[str] = (), bound: str | None = None) -> None:
        self._app, self._names = app, tuple(names)
        self._served = (*self._names, *([bound] if bound else []))

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        why = self._objection(scope) if scope["type"] in ("http", "websocket") else None
        if why is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            # Closed before it is accepted, which the server sends as 403.
            await send({"type": "websocket.close", "code": _POLICY, "reason": why})
        else:
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"x-content-type-options", b"nosniff")]
            await send({"type": "http.response.start", "status": _FORBIDDEN, "headers": headers})
            await send({"type": "http.response.body", "body": f"{why}\n".encode()})

    def _objection(self, scope: MutableMapping[str, Any]) -> str | None:
        hosts, origins = (
            [value.decode("latin-1") for name, value in scope["headers"] if name == wanted]
            for wanted in (b"host", b"origin")
        )
        host = read_authority(hosts[0]) if len(hosts) == 1 else None
        reached = (scope.get("server") or (None,))[0]
        if host is None or not is_served(host, reached=reached, names=self._served):
            return "This host is not served here. If it should be, start the dashboard with --allow-host and its name."
        if all(is_own(origin, host, names=self._names) for origin in origins):
            return None
        return "This comes from another site. If that is a proxy, start the dashboard with --allow-host and its name."
