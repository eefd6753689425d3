"""A target as bytes and back, for a store that workers share. It holds credentials: only ever keep it sealed."""

from __future__ import annotations

import json
from typing import Any

from preview_proxy.core.models import Endpoint, Origin, Target
from preview_proxy.core.secret import Secret
from preview_proxy.providers.held import Minted


def pack(minted: Minted) -> bytes:
    """The bytes that `unpack` reads."""
    target, minted_at = minted
    fields = [target.id, target.expires_at, minted_at, _fields(target.http), _fields(target.websocket)]
    return json.dumps(fields).encode()


def unpack(packed: bytes) -> Minted:
    """What was packed."""
    name, expires_at, minted_at, http, websocket = json.loads(packed)
    return Minted(Target(name, _endpoint(http), _endpoint(websocket), expires_at), minted_at)


def _fields(endpoint: Endpoint | None) -> list[Any] | None:
    if endpoint is None:
        return None
    origin = endpoint.origin
    credentials = [[_text(name), _text(secret.reveal())] for name, secret in endpoint.credentials]
    return [origin.scheme, origin.host, origin.port, _text(endpoint.base_path), _text(endpoint.marker), credentials]


def _endpoint(fields: list[Any] | None) -> Endpoint | None:
    if fields is None:
        return None
    scheme, host, port, base_path, marker, pairs = fields
    credentials = tuple((name.encode("latin-1"), Secret(value)) for name, value in pairs)
    return Endpoint(Origin(scheme, host, port), base_path.encode("latin-1"), marker.encode("latin-1"), credentials)


def _text(raw: bytes) -> str:
    return raw.decode("latin-1")
