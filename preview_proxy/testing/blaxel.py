"""An emulated Blaxel on loopback: its API, and its edge in front of dev servers.

    async with DevServer() as dev, BlaxelEmulator() as blaxel:
        blaxel.add_sandbox("my-sandbox", {3000: dev})
        provider = Blaxel(blaxel.api_key, workspace=blaxel.workspace, base_url=f"{blaxel.api_url}/v0", ...)

What Blaxel does not publish is a `BlaxelSwitches` field.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field

from preview_proxy.testing.blaxel_api import BlaxelApi
from preview_proxy.testing.blaxel_state import (
    CORS,
    NOT_LISTENING,
    PREFLIGHT,
    TOKEN_HEADER,
    TOKEN_PARAMETER,
    BlaxelPreview,
    BlaxelState,
    BlaxelSwitches,
    Sandbox,
)
from preview_proxy.testing.dev_server import DevServer
from preview_proxy.testing.edge import EdgeRequest, EmulatedEdge, Passage, Refusal, Refused
from preview_proxy.testing.emulator import Emulator
from preview_proxy.testing.tcp import Changes


@dataclass
class BlaxelPassage(Passage):
    """An admitted request. The edge adds its header fields to the answer, and ends old sockets."""

    added: Mapping[str, str] = field(kw_only=True)
    socket_seconds: float = field(kw_only=True)

    def answer(self, data: bytes) -> bytes:
        """The preview's own fields, and those for CORS unless the app has set one of them."""
        head, end, body = data.partition(b"\r\n\r\n")
        if not end or not data.startswith(b"HTTP/1."):
            return data
        allows = b"\r\naccess-control-" in head.lower()
        fields = {**({} if allows else CORS), **self.added}
        lines = [f"{name}: {value}".encode("latin-1") for name, value in fields.items()]
        return b"\r\n".join([head, *lines]) + end + body

    async def cut(self, changes: Changes) -> None:
        await asyncio.sleep(self.socket_seconds)


class BlaxelEdge(EmulatedEdge):
    """Every preview host of the emulated Blaxel."""

    not_listening = NOT_LISTENING

    def __init__(self, state: BlaxelState, ssl_context: ssl.SSLContext | None) -> None:
        super().__init__(state.changes, ssl_context)
        self.state = state

    def admit(self, request: EdgeRequest, client: str) -> Passage:
        preview = self._preview(request)
        if request.method == b"OPTIONS" and request.values(b"access-control-request-method"):
            raise Refused(PREFLIGHT)
        self._check_token(request, preview)
        sandbox = self.state.sandboxes.get(preview.sandbox)
        if sandbox is None:
            raise Refused("WORKLOAD_NOT_FOUND")
        if not sandbox.available:
            raise Refused("WORKLOAD_UNAVAILABLE")
        dropped = {TOKEN_HEADER} if self.state.switches.strip_token else set()
        return BlaxelPassage(
            sandbox.loopback_port(preview.port),
            request.target,
            [(name, value) for name, value in request.headers if name.lower() not in dropped],
            held="head",
            added=preview.response_headers,
            socket_seconds=self.state.switches.socket_seconds,
        )

    def _preview(self, request: EdgeRequest) -> BlaxelPreview:
        host = request.host.partition(":")[0].lower()
        for preview in self.state.previews():
            if self.state.host(preview) == host and preview.status != "DELETING":
                return preview
        raise Refused("ROUTE_NOT_FOUND")

    def _check_token(self, request: EdgeRequest, preview: BlaxelPreview) -> None:
        if preview.public:
            return
        query = request.target.partition(b"?")[2].split(b"&")
        sent = request.values(TOKEN_HEADER) or [
            part.removeprefix(TOKEN_PARAMETER) for part in query if part.startswith(TOKEN_PARAMETER)
        ]
        if not sent:
            raise Refused("AUTHENTICATION_REQUIRED")
        now = self.state.clock()
        if not any(sent == [token.value.encode()] and now < token.ends for token in preview.tokens.values()):
            raise Refused("AUTHENTICATION_FAILED")

    def refusal(self, request: EdgeRequest, refused: Refused) -> Refusal:
        return self.state.edge_refusal(refused)


class BlaxelEmulator(Emulator):
    """Blaxel with sandboxes of your own. `api_key` is random; the API is below `api_url`, at ``/v0``."""

    def __init__(
        self,
        *,
        edge_domain: str = "preview.blaxel.localhost",
        ssl_context: ssl.SSLContext | None = None,
        switches: BlaxelSwitches | None = None,
    ) -> None:
        self.switches = switches or BlaxelSwitches()
        self._state = BlaxelState(self.switches, edge_domain, ssl_context is not None)
        super().__init__(self._state, BlaxelApi(self._state), BlaxelEdge(self._state, ssl_context))

    @property
    def api_key(self) -> str:
        return self._state.api_key

    @property
    def workspace(self) -> str:
        return self._state.workspace

    @property
    def previews(self) -> list[BlaxelPreview]:
        """Every preview, oldest first, with its tokens."""
        return list(self._state.previews())

    def add_sandbox(self, name: str, ports: Mapping[int, int | DevServer]) -> None:
        """Add a sandbox whose `ports` are served by dev servers or loopback ports."""
        self._state.sandboxes[name] = Sandbox(name, dict(ports))

    def add_preview(self, sandbox: str, name: str, port: int, *, public: bool) -> BlaxelPreview:
        """Add a preview as somebody else would have made it."""
        preview = self._state.sandboxes[sandbox].previews[name] = BlaxelPreview(sandbox, name, port, public)
        return preview

    def unavailable(self, sandbox: str, unavailable: bool = True) -> None:
        """Let the edge not reach the sandbox, or reach it again."""
        self._state.sandboxes[sandbox].available = not unavailable

    def expire(self) -> None:
        """Let every token end now."""
        for preview in self._state.previews():
            for token in preview.tokens.values():
                token.ends = min(token.ends, self.clock())

    def delete_previews(self) -> None:
        """Delete every preview with its tokens, as its owner would."""
        for sandbox in self._state.sandboxes.values():
            sandbox.previews.clear()

    def delete_sandbox(self, name: str) -> None:
        """Delete a sandbox with its previews."""
        del self._state.sandboxes[name]
