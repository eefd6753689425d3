"""What the emulated Nullspace knows: machines, grants, the operator's switches, and what it answers when it refuses."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from preview_proxy.testing.dev_server import DevServer
from preview_proxy.testing.edge import Kind, Refusal, Refused
from preview_proxy.testing.emulator import Emulated
from preview_proxy.testing.http_server import Header

KINDS: tuple[Kind, ...] = ("http", "websocket")

TOKEN_HEADER = "x-nullspace-preview-proxy-token"  # noqa: S105 - a header's name
TRAFFIC_HEADER = "x-nullspace-traffic-access-token"
MARKER = b"__ns_preview_transport=header"
DEFAULT_TTL, MIN_TTL, MAX_TTL = 900, 60, 86_400


class Row(NamedTuple):
    """How one code is answered. `retry_after` is in seconds."""

    status: int
    message: str
    suggested_action: str
    retryable: bool = False
    retry_after: int | None = None


_FRESH_URL = "Request a fresh preview URL."
_FRESH_TARGET = "Create a fresh preview proxy target."
_OPERATOR = "Ask an operator to enable preview traffic again."
_RETRY = "Retry after the delay in Retry-After."

# Nullspace publishes the codes, and of the edge's statuses only 503 for a paused machine and 429.
# `EdgeSwitches.statuses` replaces the others, which are guesses.
REFUSALS: dict[str, Row] = {
    "bad_request": Row(400, "not a valid HTTP request", "Send valid HTTP/1.1."),
    "invalid_request": Row(400, "the request body is not valid", "Correct the field named in details."),
    "unauthorized": Row(401, "API key missing or invalid", "Send a valid API key."),
    "not_found": Row(404, "no such route", "Check the path."),
    "machine_not_found": Row(404, "no such machine", "Check the machine id."),
    "preview_grant_not_found": Row(404, "no such preview grant", "List the machine's preview URLs."),
    "machine_not_ready": Row(409, "the machine cannot be resumed", "Create a machine."),
    "unsupported_preview_port": Row(400, "port not supported for previews", "Use an application port."),
    "preview_service_not_ready": Row(503, "nothing listens on the port", "Bind the server to 0.0.0.0.", True),
    "edge_token_missing": Row(401, "edge access token missing", _FRESH_URL),
    "edge_token_invalid": Row(401, "edge access token invalid", _FRESH_URL),
    "edge_token_scope_mismatch": Row(401, "edge access token is for something else", _FRESH_URL),
    "edge_token_expired": Row(401, "edge access token expired", _FRESH_URL),
    "preview_grant_revoked": Row(401, "preview grant revoked", _FRESH_URL),
    "preview_grant_disabled": Row(403, "preview grant disabled", _OPERATOR),
    "preview_proxy_token_missing": Row(401, "preview proxy token missing", f"Send the header {TOKEN_HEADER}."),
    "preview_proxy_token_invalid": Row(401, "preview proxy token invalid", _FRESH_TARGET),
    "preview_proxy_token_scope_mismatch": Row(401, "preview proxy token is for something else", _FRESH_TARGET),
    "preview_proxy_token_expired": Row(401, "preview proxy token expired", _FRESH_TARGET),
    "preview_proxy_token_revoked": Row(401, "preview proxy token revoked", _FRESH_TARGET),
    "preview_proxy_token_disabled": Row(403, "preview proxy token disabled", _OPERATOR),
    "preview_machine_disabled": Row(403, "previews of the machine disabled", _OPERATOR),
    "traffic_access_token_missing": Row(401, "traffic access token missing", f"Send the header {TRAFFIC_HEADER}."),
    "traffic_access_token_invalid": Row(401, "traffic access token invalid", "Send the machine's own token."),
    "rate_limit_exceeded": Row(429, "too many preview requests", _RETRY, True),
    "machine_paused_auto_resume_disabled": Row(503, "the machine is paused", "Resume the machine.", False, 5),
    "machine_resume_timeout": Row(503, "the machine did not wake in time", _RETRY, True, 5),
    "edge_runtime_host_unreachable": Row(503, "the machine's host is unreachable", "Wait until it is ready.", True, 5),
}


@dataclass
class EdgeSwitches:
    """What Nullspace does not publish about its edge. Each default is the likeliest; a proxy must survive them all."""

    marker_required: Literal["always", "root", "never"] = "always"
    """Where the marker is needed: on every request, only on the path ``/``, or not at all."""
    strip_marker: bool = True
    """Whether the marker is taken off the query before the app sees it."""
    strip_token: bool = True
    """Whether the preview token is taken off before the app sees it."""
    revoked_code: str = "preview_proxy_token_revoked"
    """What a revoked header token is told; ``preview_grant_revoked`` is the other candidate."""
    slow_resume_code: str = "machine_resume_timeout"
    """What is said when a machine does not wake in time; its name is not published."""
    statuses: Mapping[str, int] = field(default_factory=dict)
    """Another HTTP status for a code, such as ``{"preview_proxy_token_scope_mismatch": 403}``."""
    revoke_closes_websockets: bool = False
    """Whether revoking a grant also ends the WebSockets it opened."""
    websocket_idle_seconds: float | None = None
    """After how long without a byte either way the edge drops a WebSocket."""
    rate_limit_by_forwarded_for: bool = False
    """Whether the rate limit tells clients apart by x-forwarded-for, or takes the whole proxy for one."""
    readiness_wakes: bool = False
    """Whether asking for readiness wakes a paused machine that may resume by itself."""
    continuation_cookie: str | None = None
    """The name of a cookie that the edge sets although the token came in a header."""
    path_style: bool = False
    """Whether URLs carry machine and port in their path, under one host, instead of in a host each."""


@dataclass
class Machine:
    """A machine and the loopback ports behind its guest ports."""

    id: str
    ports: dict[int, int | DevServer]
    status: str
    auto_resume: bool | Literal["slow"]
    traffic_token: str | None
    mask_request_host: str | None
    created_at: float
    disabled: bool = False
    unreachable: bool = False

    def loopback_port(self, port: int) -> int | None:
        """Where the guest port is served, or None for one that nobody serves."""
        server = self.ports.get(port)
        return server.port if isinstance(server, DevServer) else server

    def as_json(self) -> dict[str, object]:
        return {
            "id": self.id,
            "status": self.status,
            "config": {"vcpus": 2, "memory_mb": 512},
            "template": "base",
            "created_at": timestamp(self.created_at),
        }


@dataclass
class Grant:
    """A preview grant: the right to one port of one machine, its tokens and what they were used for."""

    machine_id: str
    port: int
    auth_mode: Literal["proxy", "direct"]
    tokens: dict[Kind, str] = field(repr=False)
    issued_at: float
    expires_at: float
    id: str = field(default_factory=lambda: f"pvg_{secrets.token_hex(16)}")
    revoked_at: float | None = None
    disabled_at: float | None = None
    disabled_tokens: set[Kind] = field(default_factory=set)
    requests: dict[Kind, int] = field(default_factory=lambda: {"http": 0, "websocket": 0})
    use_count: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    first_used_at: float | None = None
    last_used_at: float | None = None
    last_error: tuple[str, float] | None = None

    def status(self, now: float) -> str:
        if self.revoked_at is not None:
            return "revoked"
        if now >= self.expires_at:
            return "expired"
        return "active" if self.disabled_at is None else "disabled"

    def used(self, kind: Kind, now: float) -> None:
        self.use_count += 1
        self.requests[kind] += 1
        self.first_used_at = self.first_used_at or now
        self.last_used_at = now

    def as_json(self, now: float) -> dict[str, object]:
        """The API's form, without the tokens. The SDK refuses a field too many as well as one too few."""
        code, at = self.last_error or (None, None)
        return {
            "id": self.id,
            "machine_id": self.machine_id,
            "port": self.port,
            "status": self.status(now),
            "auth_mode": self.auth_mode,
            "bootstrap_transport": "header" if self.auth_mode == "proxy" else "query",
            "token_kinds": [f"{kind}_port" for kind in self.tokens],
            "principal_kind": "user",
            "principal_id": "usr_emulated",
            "issued_at": timestamp(self.issued_at),
            "expires_at": timestamp(self.expires_at),
            "revoked_at": timestamp(self.revoked_at),
            "disabled_at": timestamp(self.disabled_at),
            "use_count": self.use_count,
            "http_request_count": self.requests["http"],
            "websocket_connection_count": self.requests["websocket"],
            "bytes_in_count": self.bytes_in,
            "bytes_out_count": self.bytes_out,
            "first_used_at": timestamp(self.first_used_at),
            "last_used_at": timestamp(self.last_used_at),
            "last_error_code": code,
            "last_error_at": timestamp(at),
            "created_at": timestamp(self.issued_at),
            "updated_at": timestamp(self.last_used_at or self.issued_at),
        }


class State(Emulated):
    """Everything that the API and the edge share."""

    def __init__(self, switches: EdgeSwitches, edge_domain: str, tls: bool) -> None:
        super().__init__(edge_domain, tls)
        self.switches = switches
        self.api_key = f"nsk_{secrets.token_urlsafe(24)}"
        self.machines: dict[str, Machine] = {}
        self.grants: dict[str, Grant] = {}
        self.mints = 0
        self.rate_limit: tuple[int, float] | None = None
        self.windows: dict[tuple[object, ...], tuple[float, int]] = {}

    def mint(self, machine: Machine, port: int, mode: Literal["proxy", "direct"], kinds: list[Kind], ttl: int) -> Grant:
        """A new grant with a token for each kind, for `ttl` seconds within the documented bounds."""
        now = self.clock()
        tokens = {kind: secrets.token_urlsafe(32) for kind in kinds}
        grant = Grant(machine.id, port, mode, tokens, now, now + min(max(ttl, MIN_TTL), MAX_TTL))
        self.grants[grant.id] = grant
        self.mints += 1
        self.changes.notify()
        return grant

    def find(self, token: str) -> tuple[Grant, Kind] | None:
        """The grant that a token belongs to, and what for."""
        held = ((grant, kind) for grant in self.grants.values() for kind in grant.tokens)
        return next(((grant, kind) for grant, kind in held if grant.tokens[kind] == token), None)

    def url(self, kind: Kind, grant: Grant) -> str:
        """Where `kind` of the grant's port is reached, ending in ``/`` and without a query."""
        scheme = ("wss" if self.scheme == "https" else "ws") if kind == "websocket" else self.scheme
        if self.switches.path_style:
            return f"{scheme}://{self.edge_domain}:{self.edge_port}/{grant.machine_id}/{grant.port}/"
        return f"{scheme}://{grant.port}-{grant.machine_id}.{self.edge_domain}:{self.edge_port}/"

    def answer(self, refused: Refused) -> Refusal:
        """A refusal as the API and the edge both send it: status, header fields, JSON."""
        refusal = REFUSALS.get(refused.code, REFUSALS["machine_resume_timeout"])
        body = {
            "error": refusal.message,
            "code": refused.code,
            "request_id": f"req_{secrets.token_hex(8)}",
            "retryable": refusal.retryable,
            "suggested_action": refusal.suggested_action,
            "details": refused.details,
        }
        headers: list[Header] = [("Content-Type", "application/json")]
        retry_after = refused.retry_after or refusal.retry_after
        if retry_after is not None:
            headers.append(("Retry-After", str(retry_after)))
        return self.switches.statuses.get(refused.code, refusal.status), headers, json.dumps(body).encode()


def is_preview_port(port: int) -> bool:
    """Whether Nullspace exposes the port at all: 22 is SSH, 5900 to 5999 the desktop viewer."""
    return 1 <= port <= 65535 and port != 22 and not 5900 <= port <= 5999


def timestamp(moment: float | None) -> str | None:
    """Unix seconds as RFC 3339 with ``Z``."""
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")
