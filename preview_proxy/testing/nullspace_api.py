"""The emulated Nullspace API: as much of ``/v1`` as a preview proxy and the Nullspace SDK call."""

from __future__ import annotations

import asyncio
import re
from time import monotonic
from typing import cast
from urllib.parse import parse_qs

from preview_proxy.testing.edge import Kind, Refusal, Refused
from preview_proxy.testing.http_server import Received
from preview_proxy.testing.json_api import Json, JsonApiServer, matched, route
from preview_proxy.testing.nullspace_state import (
    DEFAULT_TTL,
    KINDS,
    MARKER,
    REFUSALS,
    TOKEN_HEADER,
    TRAFFIC_HEADER,
    Grant,
    Machine,
    State,
    is_preview_port,
    timestamp,
)


class Call:
    """What a route needs of one API request: its path's parts, query and JSON body."""

    def __init__(self, parts: dict[str, str], query: str, body: Json) -> None:
        self.parts = parts
        self.query = query
        self.body = body

    def port(self, text: object) -> int:
        """A port that previews may show. Raises `Refused` for any other."""
        port = int(text) if isinstance(text, int | str) and re.fullmatch(r"\d{1,6}", str(text)) else 0
        if not is_preview_port(port):
            raise Refused("unsupported_preview_port", port=text)
        return port

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """A field of the body within bounds. Raises `Refused` otherwise."""
        value = self.body.get(name, default)
        if type(value) is not int or not low <= value <= high:
            raise Refused("invalid_request", field=name)
        return value

    def choice(self, name: str, default: str, *choices: str) -> str:
        value = self.body.get(name, default)
        if value not in choices:
            raise Refused("invalid_request", field=name)
        return cast(str, value)


class NullspaceApi(JsonApiServer):
    """The key is checked on every request."""

    def __init__(self, state: State) -> None:
        super().__init__(state.changes)
        self.state = state

    async def call(self, received: Received, body: Json | None) -> Json:
        if received.values(b"authorization") != [f"Bearer {self.state.api_key}".encode()]:
            raise Refused("unauthorized")
        known, parts = matched(ROUTES, received)
        query = received.target.partition(b"?")[2].decode("latin-1")
        return cast(Json, await known.answer(self, self._machine(parts["machine"]), Call(parts, query, body or {})))

    def refusal(self, refused: Refused) -> Refusal:
        return self.state.answer(refused)

    def _machine(self, machine_id: str) -> Machine:
        try:
            return self.state.machines[machine_id]
        except KeyError:
            raise Refused("machine_not_found", machine_id=machine_id) from None

    async def get_machine(self, machine: Machine, call: Call) -> Json:
        return machine.as_json()

    async def resume(self, machine: Machine, call: Call) -> Json:
        if machine.status not in ("paused", "running"):
            raise Refused("machine_not_ready", status=machine.status)
        machine.status = "running"
        return machine.as_json()

    async def set_timeout(self, machine: Machine, call: Call) -> Json:
        return {"timeout_ms": call.integer("timeout_ms", 0, 1, 2**53), "timeout_action": "destroy"}

    async def proxy_target(self, machine: Machine, call: Call) -> Json:
        port = call.port(call.parts["port"])
        kinds = _transports(call)
        call.choice("token_transport", "header", "header")
        ttl = call.integer("expires_in_seconds", DEFAULT_TTL, 1, 2**31)
        grant = self.state.mint(machine, port, "proxy", kinds, ttl)
        target: Json = {
            "grant": grant.as_json(self.state.clock()),
            "machine_id": machine.id,
            "port": port,
            "token_header_name": TOKEN_HEADER,
            "expires_at": timestamp(grant.expires_at),
            "token_transport": "header",
            "required_forwarded_headers": ["x-forwarded-host", "x-forwarded-proto", "x-forwarded-for"],
            "warnings": [],
        }
        for kind in KINDS:
            token = grant.tokens.get(kind)
            target[f"{kind}_url"] = token and f"{self.state.url(kind, grant)}?{MARKER.decode()}"
            target[f"{kind}_token"] = token
        if call.body.get("include_traffic_token_hint", True):
            target["traffic_access_required"] = machine.traffic_token is not None
            if machine.traffic_token is not None:
                target["traffic_access_header_name"] = TRAFFIC_HEADER
        return target

    async def signed_url(self, machine: Machine, call: Call) -> Json:
        port = call.port(call.parts["port"])
        ttl = call.integer("expires_in_seconds", DEFAULT_TTL, 1, 2**31)
        return self._direct(self.state.mint(machine, port, "direct", list(KINDS), ttl))

    async def host(self, machine: Machine, call: Call) -> Json:
        port = call.port(call.body.get("port"))
        grant = self.state.mint(machine, port, "direct", list(KINDS), DEFAULT_TTL)
        direct = self._direct(grant)
        del direct["grant"]
        return {"host": self.state.url("http", grant).partition("://")[2].partition("/")[0], **direct}

    def _direct(self, grant: Grant) -> Json:
        return {
            "grant": grant.as_json(self.state.clock()),
            "url": f"{self.state.url('http', grant)}?edge_token={grant.tokens['http']}",
            "websocket_url": f"{self.state.url('websocket', grant)}?edge_token={grant.tokens['websocket']}",
            "access_token_expires_at": timestamp(grant.expires_at),
            "access_token_transport": "query",
        }

    async def list_grants(self, machine: Machine, call: Call) -> Json:
        wanted = parse_qs(call.query).get("port")
        grants = [grant for grant in self.state.grants.values() if grant.machine_id == machine.id]
        now = self.state.clock()
        return {"items": [grant.as_json(now) for grant in grants if wanted is None or [str(grant.port)] == wanted]}

    async def revoke(self, machine: Machine, call: Call) -> Json:
        grant = self.state.grants.get(call.parts["grant"])
        if grant is None or grant.machine_id != machine.id:
            raise Refused("preview_grant_not_found", grant_id=call.parts["grant"])
        grant.revoked_at = grant.revoked_at or self.state.clock()
        self.state.changes.notify()
        return {"success": True, "grant": grant.as_json(self.state.clock())}

    async def readiness(self, machine: Machine, call: Call) -> Json:
        """Try until the port answers or the time is over; an app that does not listen is no error."""
        port = call.port(call.parts["port"])
        kind = call.choice("kind", "tcp", "tcp", "http")
        patience = call.integer("timeout_secs", 30, 1, 120)
        interval = call.integer("interval_ms", 500, 100, 5000) / 1000
        path = str(call.body.get("path", "/"))
        if machine.status == "paused" and machine.auto_resume is True and self.state.switches.readiness_wakes:
            machine.status = "running"
        started = monotonic()
        attempts = 1
        while (failure := await _probe(machine, port, path if kind == "http" else None)) is not None:
            if monotonic() - started + interval > patience:
                break
            await asyncio.sleep(interval)
            attempts += 1
        checked: Json = {
            "ready": failure is None,
            "route_ready": failure in (None, "preview_service_not_ready"),
            "service_ready": failure is None,
            "machine_id": machine.id,
            "port": port,
            "kind": kind,
            "checked_at": timestamp(self.state.clock()),
            "elapsed_ms": int((monotonic() - started) * 1000),
            "attempts": attempts,
        }
        if failure is not None:
            refusal = REFUSALS[failure]
            checked |= {"code": failure, "error": refusal.message, "suggested_action": refusal.suggested_action}
        return checked


async def _probe(machine: Machine, port: int, path: str | None) -> str | None:
    """Why the port is not ready, as a code, or None. With a `path` it must answer HTTP with less than 500."""
    if machine.unreachable:
        return "edge_runtime_host_unreachable"
    if machine.status == "paused":
        return "machine_paused_auto_resume_disabled"
    loopback = machine.loopback_port(port)
    try:
        if loopback is None:
            raise ConnectionRefusedError
        reader, writer = await asyncio.open_connection("127.0.0.1", loopback)
        try:
            if path is None:
                return None
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n".encode())
            line = await asyncio.wait_for(reader.readline(), 1)
            return None if re.match(rb"HTTP/1\.\d [1-4]", line) else "preview_service_not_ready"
        finally:
            writer.close()
    except OSError:
        return "preview_service_not_ready"


def _transports(call: Call) -> list[Kind]:
    wanted = call.body.get("transports", list(KINDS))
    if not isinstance(wanted, list) or not wanted or not set(wanted) <= set(KINDS):
        raise Refused("invalid_request", field="transports")
    return [kind for kind in KINDS if kind in wanted]


ROUTES = [
    route("GET", "/v1/machines/{machine}", NullspaceApi.get_machine),
    route("POST", "/v1/machines/{machine}/resume", NullspaceApi.resume),
    route("POST", "/v1/machines/{machine}/timeout", NullspaceApi.set_timeout),
    route("POST", "/v1/machines/{machine}/host", NullspaceApi.host),
    route("POST", "/v1/machines/{machine}/ports/{port}/preview-proxy-target", NullspaceApi.proxy_target),
    route("POST", "/v1/machines/{machine}/ports/{port}/readiness", NullspaceApi.readiness),
    route("POST", "/v1/machines/{machine}/ports/{port}/signed-preview-url", NullspaceApi.signed_url),
    route("GET", "/v1/machines/{machine}/ports/{port}/preview-url", NullspaceApi.signed_url),
    route("GET", "/v1/machines/{machine}/preview-urls", NullspaceApi.list_grants),
    route("DELETE", "/v1/machines/{machine}/preview-urls/{grant}", NullspaceApi.revoke),
]
