"""An emulated Daytona on loopback: its API, and its edge in front of dev servers.

    async with DevServer() as dev, DaytonaEmulator() as daytona:
        daytona.add_sandbox("0ddba11", {3000: dev})
        provider = Daytona(daytona.api_key, base_url=daytona.api_url, domains=[daytona.edge_domain],
                           allow_insecure_loopback=True)

It follows the source of Daytona's own proxy; where releases differ there is a switch.
"""

from __future__ import annotations

import json
import re
import secrets
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from preview_proxy.testing.dev_server import DevServer
from preview_proxy.testing.edge import EdgeRequest, EmulatedEdge, Passage, Refusal, Refused
from preview_proxy.testing.emulator import Emulated, Emulator
from preview_proxy.testing.http_server import Header, Received
from preview_proxy.testing.json_api import JSON_TYPE, Json, JsonApiServer, matched, route
from preview_proxy.testing.passages import Added, loopback_port
from preview_proxy.testing.tcp import Changes

_NOW = "2026-04-23T12:00:00Z"
_HTML: Header = ("Content-Type", "text/html; charset=utf-8")
_TOKEN = b"x-daytona-preview-token"
_DROPPED = {b"host", _TOKEN, b"x-daytona-disable-cors", b"x-forwarded-host"}
_BROWSER = re.compile(rb"mozilla", re.IGNORECASE)


@dataclass
class Sandbox:
    """A sandbox, and the loopback ports behind its own. Each start gives it another token."""

    id: str
    ports: dict[int, int | DevServer]
    state: str = "started"
    token: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)

    def as_json(self) -> Json:
        """As much as the SDK insists on."""
        return {
            **dict.fromkeys(("organizationId", "user", "target", "toolboxProxyUrl"), "emulated"),
            **dict.fromkeys(("cpu", "memory", "disk"), 1),
            **dict.fromkeys(("public", "networkBlockAll", "kvm"), False),
            "id": self.id,
            "name": self.id,
            "env": {},
            "labels": {},
            "gpu": 0,
            "state": self.state,
        }


class DaytonaEmulator(Emulator):
    """Daytona with sandboxes of your own. It runs while its `async with` block does, on asyncio.

    `login` tells what a credential that does not hold is answered with: a redirect to the login, as released, or the
    401 that newer documentation has. With `coded` its errors have the newer codes. While `refuse_start` is set no
    sandbox can be started. `api_key` is random.
    """

    def __init__(
        self,
        *,
        edge_domain: str = "daytona.localhost",
        ssl_context: ssl.SSLContext | None = None,
        login: bool = True,
        coded: bool = True,
    ) -> None:
        self.api_key = f"dtn_{secrets.token_hex(24)}"
        self.login = login
        self.coded = coded
        self.sandboxes: dict[str, Sandbox] = {}
        self.refuse_start = False
        state = Emulated(edge_domain, ssl_context is not None)
        super().__init__(state, _Api(self, state.changes), _Edge(self, state.changes, ssl_context))

    @property
    def api_url(self) -> str:
        """``http://127.0.0.1:port/api``."""
        return f"{super().api_url}/api"

    def add_sandbox(self, sandbox_id: str, ports: Mapping[int, int | DevServer], *, state: str = "started") -> Sandbox:
        """Add a sandbox whose `ports` are served by dev servers or loopback ports."""
        sandbox = self.sandboxes[sandbox_id] = Sandbox(sandbox_id, dict(ports), state)
        return sandbox

    def stop(self, sandbox_id: str) -> None:
        self.sandboxes[sandbox_id].state = "stopped"

    def start(self, sandbox_id: str) -> None:
        """Start a sandbox: its token is another one from now on."""
        sandbox = self.sandboxes[sandbox_id]
        sandbox.state, sandbox.token = "started", secrets.token_hex(16)


class _Api(JsonApiServer):
    def __init__(self, daytona: DaytonaEmulator, changes: Changes) -> None:
        super().__init__(changes)
        self.daytona = daytona

    async def call(self, received: Received, body: Json | None) -> object:
        if received.values(b"authorization") != [f"Bearer {self.daytona.api_key}".encode()]:
            raise Refused("unauthorized")
        known, parts = matched(_ROUTES, received)
        sandbox = self.daytona.sandboxes.get(parts["sandbox"])
        if sandbox is None:
            raise Refused("not_found")
        return await known.answer(self, sandbox, **{name: text for name, text in parts.items() if name != "sandbox"})

    def refusal(self, refused: Refused) -> Refusal:
        status = {"unauthorized": 401, "not_found": 404}.get(refused.code, 400)
        body = {"statusCode": status, "message": refused.code, "timestamp": _NOW, "path": "/api", "method": "GET"}
        return status, [JSON_TYPE], json.dumps(body).encode()

    async def get(self, sandbox: Sandbox) -> Json:
        return sandbox.as_json()

    async def start(self, sandbox: Sandbox) -> Json:
        if sandbox.state == "started" or self.daytona.refuse_start:
            raise Refused("invalid_request")
        self.daytona.start(sandbox.id)
        return sandbox.as_json()

    async def preview_url(self, sandbox: Sandbox, port: str) -> Json:
        if not 1 <= int(port) <= 65535:
            raise Refused("invalid_request")
        url = self.daytona.edge_url.replace("://", f"://{port}-{sandbox.id}.")
        return {"sandboxId": sandbox.id, "url": url, "token": sandbox.token}


_ROUTES = [
    route("GET", "/api/sandbox/{sandbox}", _Api.get),
    route("POST", "/api/sandbox/{sandbox}/start", _Api.start),
    route("GET", "/api/sandbox/{sandbox}/ports/{port}/preview-url", _Api.preview_url),
]

# Code, status and message of each error; the earlier code where that is another.
_ERRORS: dict[str, tuple[int, str, str]] = {
    "BAD_REQUEST": (400, "bad request: failed to get runner info", "BAD_REQUEST"),
    "FORBIDDEN": (403, "forbidden", "FORBIDDEN"),
    "NOT_FOUND": (404, "not found", "NOT_FOUND"),
    "SANDBOX_NOT_FOUND": (404, "sandbox not found", "NOT_FOUND"),
    "SANDBOX_NOT_STARTED": (400, "bad request: no IP address found. Is the Sandbox started?", "BAD_REQUEST"),
    "RUNNER_UNREACHABLE": (502, "runner is unreachable", "BAD_REQUEST"),
    "UNAUTHORIZED": (401, "unauthorized", "UNAUTHORIZED"),
}


class _Edge(EmulatedEdge):
    not_listening = "silence"

    def __init__(self, daytona: DaytonaEmulator, changes: Changes, ssl_context: ssl.SSLContext | None) -> None:
        super().__init__(changes, ssl_context)
        self.daytona = daytona

    def admit(self, request: EdgeRequest, client: str) -> Passage:
        cors = self._cors(request)
        skips = request.kind == "websocket" or request.values(b"x-daytona-skip-preview-warning") == [b"true"]
        if not skips and any(_BROWSER.search(agent) for agent in request.values(b"user-agent")):
            raise Refused("warning")
        sandbox, port = self._route(request.host)
        if request.values(_TOKEN) != [sandbox.token.encode()]:
            raise Refused("login" if self.daytona.login else "UNAUTHORIZED")
        if sandbox.state != "started":
            raise Refused("SANDBOX_NOT_STARTED")
        return Added(loopback_port(sandbox.ports, port), request.target, _headers(request, port, client), fields=cors)

    def _cors(self, request: EdgeRequest) -> list[tuple[bytes, bytes]]:
        """The fields for any origin at all; a preflight is answered here."""
        if request.values(b"x-daytona-disable-cors") == [b"true"] or not (origins := request.values(b"origin")):
            return []
        if request.method == b"OPTIONS":
            raise Refused("preflight")
        return [(b"Access-Control-Allow-Origin", origins[0]), (b"Access-Control-Allow-Credentials", b"true")]

    def _route(self, host: str) -> tuple[Sandbox, int]:
        match = re.fullmatch(r"(\d{1,5})-([^.]+)\.(.+?)(?::\d+)?", host)
        if match is None or match[3] != self.daytona.edge_domain:
            raise Refused("NOT_FOUND")
        sandbox = self.daytona.sandboxes.get(match[2])
        if sandbox is None:
            raise Refused("SANDBOX_NOT_FOUND")
        return sandbox, int(match[1])

    def refusal(self, request: EdgeRequest, refused: Refused) -> Refusal:
        if refused.code in _ERRORS:
            return self._error(request, refused.code)
        login = {"redirect_uri": f"{self.daytona.edge_url}/callback"}
        location = f"https://login.daytona.invalid/authorize?{urlencode({'response_type': 'code'} | login)}"
        answers: dict[str, Refusal] = {
            "login": (307, [("Location", location), ("Set-Cookie", "pkce_verifier=v; Path=/; HttpOnly")], b""),
            "preflight": (204, [("Access-Control-Allow-Origin", b"".join(request.values(b"origin")))], b""),
            "silence": (502, [], b""),
            "starting": (503, [_HTML, ("Retry-After", "5")], b"<!DOCTYPE html><title>Sandbox Starting...</title>"),
            "warning": (200, [_HTML], b"<!doctype html><title>Preview URL Warning</title>"),
        }
        return answers[refused.code]

    def _error(self, request: EdgeRequest, code: str) -> Refusal:
        status, message, former = _ERRORS[code]
        body: dict[str, Any] = {"statusCode": status, "message": message, "timestamp": _NOW}
        body |= {"path": request.target.decode("latin-1"), "method": request.method.decode()}
        body |= {"code": code, "source": "DAYTONA_PROXY"} if self.daytona.coded else {"code": former}
        return status, [JSON_TYPE], json.dumps(body).encode()


def _headers(request: EdgeRequest, port: int, client: str) -> list[tuple[bytes, bytes]]:
    """The head as the app sees it: a host of its own, and the addresses of both proxies."""
    forwarded = b", ".join([*request.values(b"x-forwarded-host"), request.host.encode()])
    kept = [(name, value) for name, value in request.headers if name.lower() not in _DROPPED]
    return [(b"Host", b"localhost:%d" % port), *kept, (b"X-Forwarded-Host", forwarded)]
