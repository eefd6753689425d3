"""What the emulated Blaxel knows: sandboxes, their previews and tokens, and what it answers when it refuses."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from preview_proxy.testing.dev_server import DevServer
from preview_proxy.testing.edge import Refusal, Refused
from preview_proxy.testing.emulator import Emulated
from preview_proxy.testing.http_server import Header
from preview_proxy.testing.json_api import JSON_TYPE, Json

TOKEN_HEADER = b"x-blaxel-preview-token"
TOKEN_PARAMETER = b"bl_preview_token="

# The answer to a preflight, and the fields of every other answer where the app has set none of its own.
CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE, OPTIONS, PATCH",
    "Access-Control-Allow-Headers": "Content-Type, Authorization, X-Blaxel-Preview-Token",
    "Access-Control-Allow-Credentials": "true",
    "Access-Control-Expose-Headers": "X-Blaxel-Source, X-Blaxel-Error-Code, X-Blaxel-Dispatch-State, Retry-After",
    "Access-Control-Max-Age": "86400",
}


class Row(NamedTuple):
    """How the edge answers one code."""

    status: int
    retryable: bool
    message: str


EDGE_REFUSALS = {
    "AUTHENTICATION_REQUIRED": Row(401, False, "Authentication required"),
    "AUTHENTICATION_FAILED": Row(401, False, "Authentication failed"),
    "USAGE_LIMIT_EXCEEDED": Row(402, False, "Usage limit exceeded"),
    "FORBIDDEN": Row(403, False, "Forbidden"),
    "POLICY_VIOLATION": Row(403, False, "Policy violation"),
    "ROUTE_NOT_FOUND": Row(404, False, "Preview not found"),
    "WORKLOAD_NOT_FOUND": Row(404, False, "Workload not found"),
    "WORKSPACE_NOT_FOUND": Row(404, False, "Workspace not found"),
    "WORKLOAD_UNAVAILABLE": Row(404, True, "Workload unavailable"),
    "REQUEST_ENTITY_TOO_LARGE": Row(413, False, "Request entity too large"),
    "BAD_REQUEST": Row(400, False, "Bad request"),
}
API_REFUSALS = {"unauthorized": 401, "not_found": 404, "conflict": 409, "invalid_request": 400}
NOT_LISTENING = "NOT_LISTENING"
"""The verdict on a request for a port where nobody listens. The edge gives it no code."""
PREFLIGHT = "PREFLIGHT"
"""The verdict on a preflight, which the edge answers itself."""


@dataclass
class BlaxelSwitches:
    """What Blaxel does not publish about its edge. Each default is the likeliest; a proxy must survive them all."""

    strip_token: bool = True
    """Whether the preview token is taken off before the app sees it."""
    marks_bad_gateway: bool = True
    """Whether the 502 for a port where nobody listens bears the platform's mark."""
    socket_seconds: float = 900.0
    """How old a WebSocket gets before the edge drops it. Published: fifteen minutes."""


@dataclass
class Token:
    """A preview token. `expires_at` is as it was asked for."""

    name: str
    value: str = field(repr=False)
    expires_at: str
    ends: float


@dataclass
class BlaxelPreview:
    """A preview of one port, and its tokens by their names."""

    sandbox: str
    name: str
    port: int
    public: bool
    custom_domain: str | None = None
    response_headers: Mapping[str, str] = field(default_factory=dict)
    status: str = "DEPLOYED"
    id: str = field(default_factory=lambda: secrets.token_hex(11))
    tokens: dict[str, Token] = field(default_factory=dict)


@dataclass
class Sandbox:
    """A sandbox and the loopback ports behind its own."""

    name: str
    ports: Mapping[int, int | DevServer]
    previews: dict[str, BlaxelPreview] = field(default_factory=dict)
    available: bool = True

    def loopback_port(self, port: int) -> int | None:
        server = self.ports.get(port)
        return server.port if isinstance(server, DevServer) else server


class BlaxelState(Emulated):
    """Everything that the API and the edge share."""

    def __init__(self, switches: BlaxelSwitches, edge_domain: str, tls: bool) -> None:
        super().__init__(edge_domain, tls)
        self.switches = switches
        self.api_key = f"bl_{secrets.token_urlsafe(24)}"
        self.workspace = "acme"
        self.sandboxes: dict[str, Sandbox] = {}

    def previews(self) -> Iterator[BlaxelPreview]:
        return (preview for sandbox in self.sandboxes.values() for preview in sandbox.previews.values())

    def host(self, preview: BlaxelPreview) -> str:
        return preview.custom_domain or f"{preview.id}.{self.edge_domain}"

    def preview_json(self, preview: BlaxelPreview) -> Json:
        return {
            "metadata": {
                "name": preview.name,
                "resourceName": preview.sandbox,
                "resourceType": "sandbox",
                "workspace": self.workspace,
            },
            "spec": {
                "port": preview.port,
                "public": preview.public,
                "url": f"{self.scheme}://{self.host(preview)}:{self.edge_port}",
                "responseHeaders": dict(preview.response_headers),
                **({"customDomain": preview.custom_domain} if preview.custom_domain else {}),
            },
            "status": preview.status,
        }

    def token_json(self, preview: BlaxelPreview, token: Token) -> Json:
        return {
            "metadata": {
                "name": token.name,
                "previewName": preview.name,
                "resourceName": preview.sandbox,
                "resourceType": "sandbox",
                "workspace": self.workspace,
            },
            "spec": {"token": token.value, "expiresAt": token.expires_at, "expired": self.clock() >= token.ends},
        }

    def edge_refusal(self, refused: Refused) -> Refusal:
        """What the edge says: marked as the platform's, with the code in a header and in the body."""
        if refused.code == PREFLIGHT:
            return 200, [*CORS.items()], b""
        if refused.code == NOT_LISTENING and not self.switches.marks_bad_gateway:
            return 502, [("Content-Type", "text/plain")], b"Bad Gateway"
        row = EDGE_REFUSALS.get(refused.code, Row(502, True, "Bad Gateway"))
        error: Json = {
            "action": "none",
            "do_not": "retry at once",
            "docs_url": "https://docs.blaxel.ai",
            "message": row.message,
            "origin": "platform",
            "retryable": row.retryable,
            "status": row.status,
        }
        headers: list[Header] = [JSON_TYPE, ("X-Blaxel-Source", "platform"), *CORS.items()]
        if refused.code in EDGE_REFUSALS:
            error["code"] = refused.code
            headers.append(("X-Blaxel-Error-Code", refused.code))
        return row.status, headers, json.dumps({"error": error}).encode()


def api_refusal(refused: Refused) -> Refusal:
    """What the API says."""
    status = API_REFUSALS[refused.code]
    body = {"error": refused.code, "code": status, "message": f"emulated {refused.code}"}
    return status, [JSON_TYPE], json.dumps(body).encode()
