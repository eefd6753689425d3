"""An emulated Aether gateway on loopback, in front of dev servers.

    async with DevServer() as dev, AetherEmulator() as aether:
        aether.add_workspace("abc12345-6789", {3000: dev}, token="0123456789abcdef")
        provider = Aether({"abc12345-6789": "0123456789abcdef"}, edge_url=aether.edge_url,
                          allow_insecure_loopback=True)

Aether does not publish what its gateway answers to a wrong token; here it is `refused_status`, and the text repeats the
host, as the worst of texts would.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field

from preview_proxy.testing.dev_server import DevServer
from preview_proxy.testing.edge import EdgeRequest, EmulatedEdge, Passage, Refusal, Refused
from preview_proxy.testing.emulator import EdgeEmulator, Emulated
from preview_proxy.testing.passages import Added, loopback_port
from preview_proxy.testing.tcp import Changes

ROUTING_CACHE = 30.0
"""Seconds for which the gateway remembers the workspace of a prefix."""


@dataclass
class Workspace:
    """A workspace, and the loopback ports behind its own."""

    ports: dict[int, int | DevServer]
    token: str = field(repr=False)
    running: bool = True


class AetherEmulator(EdgeEmulator):
    """Aether's gateway with workspaces of your own. `clock` is also that of its routing cache."""

    def __init__(
        self,
        *,
        edge_domain: str = "preview.aether.localhost",
        ssl_context: ssl.SSLContext | None = None,
        refused_status: int = 403,
    ) -> None:
        self.refused_status = refused_status
        self.workspaces: dict[str, Workspace] = {}
        state = Emulated(edge_domain, ssl_context is not None)
        super().__init__(state, _Gateway(self, state.changes, ssl_context))

    def add_workspace(self, project_id: str, ports: Mapping[int, int | DevServer], *, token: str) -> Workspace:
        """Add a running workspace, or replace that of the project's prefix, which the gateway may not notice yet."""
        workspace = self.workspaces[project_id[:8]] = Workspace(dict(ports), token)
        return workspace


class _Gateway(EmulatedEdge):
    not_listening = "Bad Gateway"

    def __init__(self, aether: AetherEmulator, changes: Changes, ssl_context: ssl.SSLContext | None) -> None:
        super().__init__(changes, ssl_context)
        self.aether = aether
        self._remembered: dict[str, tuple[Workspace | None, float]] = {}

    def admit(self, request: EdgeRequest, client: str) -> Passage:
        match = re.fullmatch(r"(\d{1,5})-([a-z0-9_]{8})-([a-z0-9]+)\.(.+?)(?::\d+)?", request.host)
        if match is None or match[4] != self.aether.edge_domain:
            raise Refused("unknown")
        workspace = self._workspace(match[2])
        if workspace is None:
            raise Refused("unknown")
        if match[3] != workspace.token:
            raise Refused("token")
        if not workspace.running:
            raise Refused("Gateway Timeout")
        kept = [(name, value) for name, value in request.headers if name.lower() != b"host"]
        host = (b"Host", b"localhost:%b" % match[1].encode())
        cors = [(b"Access-Control-Allow-Origin", b"*"), (b"Access-Control-Allow-Methods", b"*")]
        return Added(loopback_port(workspace.ports, int(match[1])), request.target, [host, *kept], fields=cors)

    def _workspace(self, prefix: str) -> Workspace | None:
        now = self.aether.clock()
        workspace, until = self._remembered.get(prefix, (None, now))
        if until <= now:
            workspace = self.aether.workspaces.get(prefix)
            self._remembered[prefix] = workspace, now + ROUTING_CACHE
        return workspace

    def refusal(self, request: EdgeRequest, refused: Refused) -> Refusal:
        text = ("Content-Type", "text/plain")
        answers: dict[str, Refusal] = {
            "Bad Gateway": (502, [text], b"Bad Gateway"),
            "Gateway Timeout": (504, [text], b"Gateway Timeout"),
            "token": (self.aether.refused_status, [text], f"{request.host}: invalid token".encode()),
            "unknown": (404, [text], f"{request.host}: no such project".encode()),
        }
        return answers[refused.code]
