"""The emulated Blaxel API: sandboxes, previews and tokens, as far as a preview proxy and Blaxel's SDK call it."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Any

from preview_proxy.testing.blaxel_state import BlaxelPreview, BlaxelState, Sandbox, Token, api_refusal
from preview_proxy.testing.edge import Refusal, Refused
from preview_proxy.testing.http_server import Received
from preview_proxy.testing.json_api import Json, JsonApiServer, matched, route


class BlaxelApi(JsonApiServer):
    """Key and workspace are checked on every request."""

    def __init__(self, state: BlaxelState) -> None:
        super().__init__(state.changes)
        self.state = state

    async def call(self, received: Received, body: Json | None) -> object:
        key = f"Bearer {self.state.api_key}".encode()
        if key not in received.values(b"x-blaxel-authorization") + received.values(b"authorization"):
            raise Refused("unauthorized")
        if received.values(b"x-blaxel-workspace") != [self.state.workspace.encode()]:
            raise Refused("unauthorized")
        known, parts = matched(ROUTES, received)
        sandbox = self.state.sandboxes.get(parts.pop("sandbox"))
        if sandbox is None:
            raise Refused("not_found")
        return await known.answer(self, sandbox, body or {}, **parts)

    def refusal(self, refused: Refused) -> Refusal:
        return api_refusal(refused)

    async def get_sandbox(self, sandbox: Sandbox, body: Json) -> Json:
        return {"metadata": {"name": sandbox.name}, "spec": {}, "status": "DEPLOYED", "events": []}

    async def list_previews(self, sandbox: Sandbox, body: Json) -> list[Json]:
        return [self.state.preview_json(preview) for preview in sandbox.previews.values()]

    async def create_preview(self, sandbox: Sandbox, body: Json) -> Json:
        spec, name = body.get("spec") or {}, str((body.get("metadata") or {}).get("name", ""))
        port = spec.get("port")
        if not name or type(port) is not int or not 1 <= port <= 65535 or port == 80:
            raise Refused("invalid_request")
        if name in sandbox.previews:
            raise Refused("conflict")
        preview = BlaxelPreview(
            sandbox.name,
            name,
            port,
            spec.get("public") is not False,
            spec.get("customDomain"),
            spec.get("responseHeaders") or {},
        )
        sandbox.previews[name] = preview
        return self.state.preview_json(preview)

    async def get_preview(self, sandbox: Sandbox, body: Json, preview: str) -> Json:
        return self.state.preview_json(_found(sandbox.previews, preview))

    async def delete_preview(self, sandbox: Sandbox, body: Json, preview: str) -> Json:
        deleted = _found(sandbox.previews, preview)
        del sandbox.previews[preview]
        return self.state.preview_json(deleted)

    async def create_token(self, sandbox: Sandbox, body: Json, preview: str) -> Json:
        found = _found(sandbox.previews, preview)
        expires_at = str((body.get("spec") or {}).get("expiresAt"))
        try:
            ends = datetime.fromisoformat(expires_at).timestamp()
        except ValueError:
            raise Refused("invalid_request") from None
        name = (body.get("metadata") or {}).get("name") or f"token-{secrets.token_hex(4)}"
        token = Token(name, secrets.token_urlsafe(32), expires_at, ends)
        found.tokens[name] = token
        return self.state.token_json(found, token)

    async def list_tokens(self, sandbox: Sandbox, body: Json, preview: str) -> list[Json]:
        found = _found(sandbox.previews, preview)
        return [self.state.token_json(found, token) for token in found.tokens.values()]

    async def delete_token(self, sandbox: Sandbox, body: Json, preview: str, token: str) -> Json:
        found = _found(sandbox.previews, preview)
        deleted = _found(found.tokens, token)
        del found.tokens[token]
        self.state.changes.notify()
        return self.state.token_json(found, deleted)


def _found(things: dict[str, Any], name: str) -> Any:
    try:
        return things[name]
    except KeyError:
        raise Refused("not_found") from None


_PREVIEWS = "/v0/sandboxes/{sandbox}/previews"
ROUTES = [
    route("GET", "/v0/sandboxes/{sandbox}", BlaxelApi.get_sandbox),
    route("GET", _PREVIEWS, BlaxelApi.list_previews),
    route("POST", _PREVIEWS, BlaxelApi.create_preview),
    route("GET", _PREVIEWS + "/{preview}", BlaxelApi.get_preview),
    route("DELETE", _PREVIEWS + "/{preview}", BlaxelApi.delete_preview),
    route("GET", _PREVIEWS + "/{preview}/tokens", BlaxelApi.list_tokens),
    route("POST", _PREVIEWS + "/{preview}/tokens", BlaxelApi.create_token),
    route("DELETE", _PREVIEWS + "/{preview}/tokens/{token}", BlaxelApi.delete_token),
]
