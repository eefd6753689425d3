"""The emulated OpenComputer API, as far as a preview proxy and OpenComputer's SDK call it."""

from __future__ import annotations

import secrets
from hashlib import sha256

from preview_proxy.testing.edge import Refusal, Refused
from preview_proxy.testing.http_server import Received
from preview_proxy.testing.json_api import Created, Json, JsonApiServer, matched, route
from preview_proxy.testing.opencomputer_state import OpenComputerState, OpenSandbox, PreviewRecord, api_refusal


class OpenComputerApi(JsonApiServer):
    """The key is checked on every request."""

    def __init__(self, state: OpenComputerState) -> None:
        super().__init__(state.changes)
        self.state = state

    async def call(self, received: Received, body: Json | None) -> object:
        if received.values(b"x-api-key") != [self.state.api_key.encode()]:
            raise Refused("unauthorized")
        known, parts = matched(ROUTES, received)
        if "sandbox" not in parts:
            return await known.answer(self, body or {})
        sandbox = self.state.sandboxes.get(parts.pop("sandbox"))
        if sandbox is None:
            raise Refused("not_found")
        return await known.answer(self, sandbox, body or {}, **parts)

    def refusal(self, refused: Refused) -> Refusal:
        return api_refusal(refused)

    async def create(self, body: Json) -> Created:
        sandbox = OpenSandbox(f"sb-{secrets.token_hex(4)}", self.state.defaults)
        made: Json = {"sandboxID": sandbox.id, "status": sandbox.status, "templateID": body.get("templateID")}
        auth = body.get("previewAuth")
        if auth is not None:
            token = auth.get("token") or "auto"
            if auth.get("scheme") != "bearer" or (token != "auto" and len(token) < 16):  # noqa: S105 - a word
                raise Refused("invalid_request")
            made["previewAuthToken"] = _issue(sandbox, None if token == "auto" else token)  # noqa: S105
        self.state.sandboxes[sandbox.id] = sandbox
        return Created(made)

    async def get(self, sandbox: OpenSandbox, body: Json) -> Json:
        return {"sandboxID": sandbox.id, "status": sandbox.status, "templateID": "base"}

    async def create_preview(self, sandbox: OpenSandbox, body: Json) -> object:
        port, domain = body.get("port"), body.get("domain")
        if type(port) is not int or not 1 <= port <= 65535 or domain not in (None, self.state.custom_domain):
            raise Refused("invalid_request")
        if port in sandbox.records:
            return self.state.record_json(sandbox, sandbox.records[port])
        record = sandbox.records[port] = PreviewRecord(port, domain)
        return Created(self.state.record_json(sandbox, record))

    async def list_previews(self, sandbox: OpenSandbox, body: Json) -> list[Json]:
        return [self.state.record_json(sandbox, record) for record in sandbox.records.values()]

    async def delete_preview(self, sandbox: OpenSandbox, body: Json, port: str) -> None:
        if sandbox.records.pop(int(port) if port.isdecimal() else 0, None) is None:
            raise Refused("not_found")

    async def rotate(self, sandbox: OpenSandbox, body: Json) -> Json:
        if sandbox.status == "stopped":
            raise Refused("stopped")
        return {"previewAuthToken": _issue(sandbox, None), "scheme": "bearer"}


def _issue(sandbox: OpenSandbox, token: str | None) -> str:
    """A token, of which the sandbox keeps the digest alone."""
    issued = token or secrets.token_urlsafe(32)
    sandbox.digest = sha256(issued.encode()).digest()
    return issued


ROUTES = [
    route("POST", "/api/sandboxes", OpenComputerApi.create),
    route("GET", "/api/sandboxes/{sandbox}", OpenComputerApi.get),
    route("POST", "/api/sandboxes/{sandbox}/preview", OpenComputerApi.create_preview),
    route("GET", "/api/sandboxes/{sandbox}/preview", OpenComputerApi.list_previews),
    route("POST", "/api/sandboxes/{sandbox}/preview/rotate", OpenComputerApi.rotate),
    route("DELETE", "/api/sandboxes/{sandbox}/preview/{port}", OpenComputerApi.delete_preview),
]
