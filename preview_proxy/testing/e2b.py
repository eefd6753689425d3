"""An emulated E2B on loopback: its API, and its edge in front of dev servers.

    async with DevServer() as dev, E2BEmulator() as e2b:
        e2b.add_sandbox("i0ddba11", {3000: dev})
        provider = E2B(e2b.api_key, base_url=e2b.api_url, edge_url=e2b.edge_url, allow_insecure_loopback=True)

Messages and titles of the edge's errors are those of its source (``e2b-dev/infra``).
"""

from __future__ import annotations

import json
import re
import secrets
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field

from preview_proxy.testing.dev_server import DevServer
from preview_proxy.testing.edge import EdgeRequest, EmulatedEdge, Passage, Refusal, Refused
from preview_proxy.testing.emulator import Emulated, Emulator
from preview_proxy.testing.http_server import Received
from preview_proxy.testing.json_api import JSON_TYPE, Created, Json, JsonApiServer, matched, route
from preview_proxy.testing.passages import loopback_port
from preview_proxy.testing.tcp import Changes

CONTROL_PORT = 49983
_TOKEN = b"e2b-traffic-access-token"
_DROPPED = ("forwarded", "x-forwarded-")
_BROWSER = re.compile(rb"mozilla|chrome|safari|firefox|edge|opera|msie", re.IGNORECASE)


@dataclass
class Sandbox:
    """A sandbox, and the loopback ports behind its own. Without a `token` it is open to all."""

    id: str
    ports: dict[int, int | DevServer]
    state: str = "running"
    auto_resume: bool = False
    mask: str | None = None
    token: str | None = field(default_factory=lambda: secrets.token_hex(32), repr=False)

    def as_json(self) -> Json:
        """What creating it, and connecting to it, answers."""
        return {
            "templateID": "base",
            "sandboxID": self.id,
            "clientID": "emulated",
            "envdVersion": "0.2.0",
            "envdAccessToken": None,
            "trafficAccessToken": self.token,
            "domain": None,
        }


class E2BEmulator(Emulator):
    """E2B with sandboxes of your own. It runs while its `async with` block does, on asyncio. `api_key` is random."""

    def __init__(self, *, edge_domain: str = "e2b.localhost", ssl_context: ssl.SSLContext | None = None) -> None:
        self.api_key = f"e2b_{secrets.token_hex(20)}"
        self.sandboxes: dict[str, Sandbox] = {}
        state = Emulated(edge_domain, ssl_context is not None)
        super().__init__(state, _Api(self, state.changes), _Edge(self, state.changes, ssl_context))

    def add_sandbox(
        self,
        sandbox_id: str,
        ports: Mapping[int, int | DevServer],
        *,
        public: bool = False,
        auto_resume: bool = False,
        mask: str | None = None,
    ) -> Sandbox:
        """Add a running sandbox whose `ports` are served by dev servers or loopback ports.

        A `public` one has no traffic token. `auto_resume` has a request wake it. `mask`, such as
        ``localhost:${PORT}``, is the `Host` that the app sees.
        """
        sandbox = Sandbox(sandbox_id, dict(ports), auto_resume=auto_resume, mask=mask)
        if public:
            sandbox.token = None
        self.sandboxes[sandbox_id] = sandbox
        return sandbox

    def set_state(self, sandbox_id: str, state: str) -> None:
        """``running``, ``paused``, or the title of an error that the edge answers meanwhile."""
        self.sandboxes[sandbox_id].state = state


class _Api(JsonApiServer):
    def __init__(self, e2b: E2BEmulator, changes: Changes) -> None:
        super().__init__(changes)
        self.e2b = e2b

    async def call(self, received: Received, body: Json | None) -> object:
        if received.values(b"x-api-key") != [self.e2b.api_key.encode()]:
            raise Refused("unauthorized")
        known, parts = matched(_ROUTES, received)
        return await known.answer(self, body or {}, **parts)

    def refusal(self, refused: Refused) -> Refusal:
        status = {"unauthorized": 401, "not_found": 404}.get(refused.code, 400)
        return status, [JSON_TYPE], json.dumps({"code": status, "message": refused.code}).encode()

    async def create(self, body: Json) -> Created:
        public = body.get("network", {}).get("allowPublicTraffic", True)
        return Created(self.e2b.add_sandbox(f"i{secrets.token_hex(8)}", {}, public=public).as_json())

    async def connect(self, body: Json, sandbox: str) -> Json:
        found = self.e2b.sandboxes.get(sandbox)
        if found is None:
            raise Refused("not_found")
        if found.state == "paused":
            found.state = "running"
        return found.as_json()


_ROUTES = [
    route("POST", "/v2/sandboxes", _Api.create),
    route("POST", "/v2/sandboxes/{sandbox}/connect", _Api.connect),
]

_SECURED = "Sandbox is secured with traffic access token."
_DENIED = "This sandbox can't be resumed with the credentials provided. Check your access token and try again."
# Status and message of each error of the edge, by the title of its page.
_ERRORS: dict[str, tuple[int, str]] = {
    "Missing Traffic Access Token": (403, f"{_SECURED} Token header '{_TOKEN.decode()}' is missing"),
    "Invalid Traffic Access Token": (403, f"{_SECURED} Provided token in header '{_TOKEN.decode()}' is invalid"),
    "Unable to Resume Sandbox": (403, _DENIED),
    "Sandbox Paused": (409, "The sandbox is paused"),
    "Sandbox Still Transitioning": (409, "The sandbox is still transitioning. Try again in a moment."),
    "Sandbox Snapshot In Progress": (409, "Sandbox snapshot is currently being created"),
    "Too Many Connections": (429, "The sandbox has too many concurrent incoming connections (limit: 1)"),
    "Sandbox Limit Reached": (429, "Sandbox limit reached"),
    "Sandbox Not Found": (502, "The sandbox was not found"),
    "Closed Port Error": (502, "The sandbox is running but port is not open"),
}


class _Edge(EmulatedEdge):
    not_listening = "Closed Port Error"

    def __init__(self, e2b: E2BEmulator, changes: Changes, ssl_context: ssl.SSLContext | None) -> None:
        super().__init__(changes, ssl_context)
        self.e2b = e2b

    def admit(self, request: EdgeRequest, client: str) -> Passage:
        match = re.fullmatch(r"(\d{1,5})-([^.]+)\.(.+?)(?::\d+)?", request.host)
        if match is None or match[3] != self.e2b.edge_domain:
            raise Refused("bad host")
        sandbox, port = self.e2b.sandboxes.get(match[2]), int(match[1])
        if sandbox is None:
            raise Refused("Sandbox Not Found")
        self._check_state(sandbox, request)
        self._check_token(sandbox, port, request)
        return Passage(loopback_port(sandbox.ports, port), request.target, _headers(request, sandbox, port))

    def _check_state(self, sandbox: Sandbox, request: EdgeRequest) -> None:
        if sandbox.state == "paused" and sandbox.auto_resume:
            if sandbox.token is not None and request.values(_TOKEN) != [sandbox.token.encode()]:
                raise Refused("Unable to Resume Sandbox")
            sandbox.state = "running"
        if sandbox.state == "paused":
            raise Refused("Sandbox Not Found")
        if sandbox.state != "running":
            raise Refused(sandbox.state)

    def _check_token(self, sandbox: Sandbox, port: int, request: EdgeRequest) -> None:
        if sandbox.token is None or port == CONTROL_PORT:
            return
        if not (sent := request.values(_TOKEN)):
            raise Refused("Missing Traffic Access Token")
        if sent != [sandbox.token.encode()]:
            raise Refused("Invalid Traffic Access Token")

    def refusal(self, request: EdgeRequest, refused: Refused) -> Refusal:
        """A page for what looks like a browser's navigation, JSON for everything else."""
        if refused.code not in _ERRORS:
            return 400, [("Content-Type", "text/plain")], b"Invalid host"
        status, message = _ERRORS[refused.code]
        if _is_navigation(request):
            head = f'<html lang="en">\n<head>\n    <title>{refused.code}</title>\n</head>'
            page = f"{head}<body>{request.host}</body></html>"
            return status, [("Content-Type", "text/html; charset=utf-8")], page.encode()
        body = json.dumps({"sandboxId": "emulated", "message": message, "code": status})
        return status, [("Content-Type", "application/json; charset=utf-8")], body.encode()


def _is_navigation(request: EdgeRequest) -> bool:
    if any(mode != b"navigate" for mode in request.values(b"sec-fetch-mode")) or request.values(b"x-requested-with"):
        return False
    return any(_BROWSER.search(agent) for agent in request.values(b"user-agent"))


def _headers(request: EdgeRequest, sandbox: Sandbox, port: int) -> list[tuple[bytes, bytes]]:
    """The head as the app sees it: token and all, but without a client's own account of where it comes from."""
    host = request.host if sandbox.mask is None else sandbox.mask.replace("${PORT}", str(port))
    kept = [(n, v) for n, v in request.headers if n.lower() != b"host" and not n.lower().decode().startswith(_DROPPED)]
    masked = [] if sandbox.mask is None else [(b"X-Forwarded-Host", request.host.encode())]
    return [(b"Host", host.encode()), *kept, *masked]
