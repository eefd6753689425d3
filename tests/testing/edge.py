"""A proxy's view of the emulated edge, over raw sockets."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx

from preview_proxy.testing import DevServer, Grant, NullspaceEmulator
from preview_proxy.testing.nullspace_state import TOKEN_HEADER

MACHINE = "mch_a1b2c3d4"
MARKER = "__ns_preview_transport=header"
UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


async def mint(
    nullspace: NullspaceEmulator, call: str = "preview-proxy-target", machine: str = MACHINE
) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {nullspace.api_key}"}
    async with httpx.AsyncClient(base_url=nullspace.api_url, headers=headers, trust_env=False) as api:
        answer = await api.post(f"/v1/machines/{machine}/ports/3000/{call}")
    return dict(answer.json())


class Edge:
    """A proxy's view of the emulator: a grant for port 3000, and requests over raw sockets."""

    def __init__(self, nullspace: NullspaceEmulator, dev: DevServer) -> None:
        self.nullspace = nullspace
        self.dev = dev
        self.host = f"3000-{MACHINE}.nullspace.localhost:{nullspace.edge_port}"
        self.grant: Grant

    async def mint(self, call: str = "preview-proxy-target") -> Grant:
        target = await mint(self.nullspace, call)
        return self.nullspace.grants[target["grant"]["id"]]

    def get(self, target: str, *fields: str, token: str | None = "", host: str = "", method: str = "GET") -> bytes:
        if token is not None:
            fields = (f"{TOKEN_HEADER}: {token or self.grant.tokens['http']}", *fields)
        return "\r\n".join([f"{method} {target} HTTP/1.1", f"Host: {host or self.host}", *fields, "", ""]).encode()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.nullspace.edge_port)

    async def talk(self, data: bytes) -> bytes:
        reader, writer = await self.connect()
        writer.write(data)
        try:
            return await reader.read()
        finally:
            writer.close()

    async def ask(self, target: str = f"/?{MARKER}", *fields: str, **options: Any) -> tuple[int, dict[str, Any], str]:
        """Status, JSON (empty where it is none) and head."""
        answer = await self.talk(self.get(target, "Connection: close", *fields, **options))
        head, _, body = answer.partition(b"\r\n\r\n")
        is_json = b"application/json" in head
        return int(head.split()[1]), json.loads(body) if is_json else {}, head.decode()

    async def code(self, *arguments: str, **options: Any) -> tuple[int, str]:
        status, body, _ = await self.ask(*arguments, **options)
        code = body.get("code", "served")
        assert self.nullspace.edge_requests[-1].verdict == code
        return status, code
