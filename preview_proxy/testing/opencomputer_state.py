"""What the emulated OpenComputer knows: sandboxes, the digests of their tokens, and what it answers when it refuses."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal

from preview_proxy.testing.dev_server import DevServer
from preview_proxy.testing.edge import Refusal, Refused
from preview_proxy.testing.emulator import Emulated
from preview_proxy.testing.http_server import Header
from preview_proxy.testing.json_api import JSON_TYPE, Json

TOKEN_HEADER = b"x-oc-preview-token"
Status = Literal["running", "hibernated", "migrating", "stopped", "no credits"]

# Status and text of what the edge says, in JSON under "error". The texts of 402 and 410 are not published.
EDGE_REFUSALS = {
    "token_missing": (401, "preview URL requires authentication"),
    "token_wrong": (401, "invalid preview token"),
    "no_credits": (402, "sandbox {sandbox} is hibernated and the free credits are used up"),
    "not_found": (404, "sandbox {sandbox} not found"),
    "stopped": (410, "sandbox {sandbox} is stopped"),
    "unavailable": (502, "sandbox {sandbox}: upstream unavailable"),
    "migrating": (503, "sandbox {sandbox} is being migrated, retry shortly"),
}
API_REFUSALS = {
    "invalid_request": (400, "invalid request"),
    "unauthorized": (401, "invalid API key"),
    "not_found": (404, "not found"),
    "stopped": (410, "sandbox is stopped"),
}
RELOADING = b'<!doctype html><meta http-equiv="refresh" content="3"><title>Waking up</title>'

# The edge writes these over whatever the app says about CORS.
CORS = {"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Methods": "*", "Access-Control-Allow-Headers": "*"}


@dataclass
class PreviewRecord:
    """A preview URL on record. The host shows the port without one too."""

    port: int
    domain: str | None
    id: str = field(default_factory=lambda: secrets.token_hex(8))


@dataclass
class OpenSandbox:
    """A sandbox, the loopback ports behind its own, and the digest of its preview token."""

    id: str
    ports: Mapping[int, int | DevServer]
    digest: bytes | None = None
    status: Status = "running"
    records: dict[int, PreviewRecord] = field(default_factory=dict)

    def loopback_port(self, port: int) -> int | None:
        server = self.ports.get(port)
        return server.port if isinstance(server, DevServer) else server

    def admits(self, token: bytes) -> bool:
        return sha256(token).digest() == self.digest


class OpenComputerState(Emulated):
    """Everything that the API and the edge share. New sandboxes get the ports of `defaults`."""

    def __init__(self, edge_domain: str, tls: bool) -> None:
        super().__init__(edge_domain, tls)
        self.api_key = f"oc_{secrets.token_urlsafe(24)}"
        self.custom_domain: str | None = None
        self.sandboxes: dict[str, OpenSandbox] = {}
        self.defaults: Mapping[int, int | DevServer] = {}

    def host(self, sandbox: str, port: int) -> str:
        return f"{sandbox}-p{port}.{self.edge_domain}"

    def record_json(self, sandbox: OpenSandbox, record: PreviewRecord) -> Json:
        found: Json = {
            "id": record.id,
            "sandboxId": sandbox.id,
            "orgId": "org_emulated",
            "hostname": self.host(sandbox.id, record.port),
            "port": record.port,
            "sslStatus": "active",
            "authConfig": {},
            "createdAt": "2026-08-07T00:00:00Z",
        }
        if record.domain:
            found["customHostname"] = f"{sandbox.id}-p{record.port}.{record.domain}"
        return found


def edge_refusal(refused: Refused, sandbox: str, accepts_html: bool) -> Refusal:
    """What the edge says. A browser gets a page that reloads itself where nobody listens."""
    if refused.code == "unavailable" and accepts_html:
        return 503, [("Content-Type", "text/html; charset=utf-8")], RELOADING
    status, text = EDGE_REFUSALS[refused.code]
    headers: list[Header] = [JSON_TYPE]
    if refused.code == "token_missing":
        headers.append(("WWW-Authenticate", 'Bearer realm="preview"'))
    return status, headers, json.dumps({"error": text.format(sandbox=sandbox)}).encode()


def api_refusal(refused: Refused) -> Refusal:
    """What the API says."""
    status, text = API_REFUSALS[refused.code]
    return status, [JSON_TYPE], json.dumps({"error": text}).encode()
