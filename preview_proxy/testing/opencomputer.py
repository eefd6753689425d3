"""An emulated OpenComputer on loopback: its API, and its edge in front of dev servers.

    async with DevServer() as dev, OpenComputerEmulator() as opencomputer:
        token = opencomputer.add_sandbox("sb-a1b2c3", {3000: dev})
        provider = OpenComputer({"sb-a1b2c3": token}, edge_url=opencomputer.edge_url, ...)

As the vendor's, this edge passes the token on to the sandbox, holds each HTTP answer until it is whole, and writes its
own CORS fields over the app's.
"""

from __future__ import annotations

import re
import secrets
import ssl
from collections.abc import Mapping
from hashlib import sha256

from preview_proxy.testing.dev_server import DevServer
from preview_proxy.testing.edge import EdgeRequest, EmulatedEdge, Passage, Refusal, Refused
from preview_proxy.testing.emulator import Emulator
from preview_proxy.testing.opencomputer_api import OpenComputerApi
from preview_proxy.testing.opencomputer_state import (
    CORS,
    TOKEN_HEADER,
    OpenComputerState,
    OpenSandbox,
    Status,
    edge_refusal,
)

_HOST = re.compile(r"(?P<sandbox>[a-z0-9_-]+)-p(?P<port>[0-9]{1,5})\.[a-z0-9.-]+(?::[0-9]+)?")
_CORS_FIELD = re.compile(rb"(?im)^access-control-[^\r\n]*\r\n")


class OpenPassage(Passage):
    """An admitted request, whose answer gets the edge's CORS fields."""

    def answer(self, data: bytes) -> bytes:
        head, end, body = data.partition(b"\r\n\r\n")
        if not end or not data.startswith(b"HTTP/1."):
            return data
        kept = _CORS_FIELD.sub(b"", head + b"\r\n")
        return kept + b"".join(f"{name}: {value}\r\n".encode() for name, value in CORS.items()) + b"\r\n" + body


class OpenComputerEdge(EmulatedEdge):
    """Every preview host of the emulated OpenComputer, whatever its parent domain."""

    not_listening = "unavailable"

    def __init__(self, state: OpenComputerState, ssl_context: ssl.SSLContext | None) -> None:
        super().__init__(state.changes, ssl_context)
        self.state = state

    def admit(self, request: EdgeRequest, client: str) -> Passage:
        match = _HOST.fullmatch(request.host.lower())
        sandbox = self.state.sandboxes.get(match["sandbox"]) if match else None
        if match is None or sandbox is None:
            raise Refused("not_found")
        self._check_token(request, sandbox)
        refusals = {"stopped": "stopped", "no credits": "no_credits", "migrating": "migrating"}
        if sandbox.status in refusals:
            raise Refused(refusals[sandbox.status])
        sandbox.status = "running"
        headers = [*request.headers, (b"X-Forwarded-For", client.encode())]
        return OpenPassage(sandbox.loopback_port(int(match["port"])), request.target, headers, held="whole")

    def _check_token(self, request: EdgeRequest, sandbox: OpenSandbox) -> None:
        """Before anything is woken. A sandbox that was created without a token is open to all."""
        bearer = [value[7:] for value in request.values(b"authorization") if value[:7].lower() == b"bearer "]
        sent = request.values(TOKEN_HEADER) or bearer
        if sandbox.digest is not None and not sent:
            raise Refused("token_missing")
        if sandbox.digest is not None and not sandbox.admits(sent[0]):
            raise Refused("token_wrong")

    def refusal(self, request: EdgeRequest, refused: Refused) -> Refusal:
        match = _HOST.fullmatch(request.host.lower())
        accepts_html = any(b"text/html" in value for value in request.values(b"accept"))
        return edge_refusal(refused, match["sandbox"] if match else "unknown", accepts_html)


class OpenComputerEmulator(Emulator):
    """OpenComputer with sandboxes of your own. `api_key` is random."""

    def __init__(
        self, *, edge_domain: str = "opencomputer.localhost", ssl_context: ssl.SSLContext | None = None
    ) -> None:
        self._state = OpenComputerState(edge_domain, ssl_context is not None)
        super().__init__(self._state, OpenComputerApi(self._state), OpenComputerEdge(self._state, ssl_context))

    @property
    def api_key(self) -> str:
        return self._state.api_key

    @property
    def edge_url(self) -> str:
        """The edge's origin, below which the sandboxes' hosts are."""
        return f"{self._state.scheme}://{self.edge_domain}:{self.edge_port}"

    def add_sandbox(self, sandbox_id: str, ports: Mapping[int, int | DevServer]) -> str:
        """Add a sandbox whose `ports` are served by dev servers or loopback ports; its preview token."""
        token = secrets.token_urlsafe(32)
        self._state.sandboxes[sandbox_id] = OpenSandbox(sandbox_id, dict(ports), sha256(token.encode()).digest())
        return token

    def admits(self, sandbox_id: str, token: bytes) -> bool:
        """Whether a token is the sandbox's present one."""
        return self._state.sandboxes[sandbox_id].admits(token)

    def serve_new_sandboxes(self, ports: Mapping[int, int | DevServer]) -> None:
        """Have the `ports` of every sandbox that the API creates served by dev servers or loopback ports."""
        self._state.defaults = dict(ports)

    def verify_domain(self, domain: str | None) -> None:
        """The custom domain that is verified for the organization."""
        self._state.custom_domain = domain

    def set_status(self, sandbox_id: str, status: Status) -> None:
        """Put a sandbox into another state. A request wakes one that is ``"hibernated"``."""
        self._state.sandboxes[sandbox_id].status = status

    def status(self, sandbox_id: str) -> Status:
        return self._state.sandboxes[sandbox_id].status
