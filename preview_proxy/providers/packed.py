"""A target as bytes and back, for a store that workers share. It holds credentials: only ever keep it sealed."""

from __future__ import annotations

import json
from typing import Any

from preview_proxy.core.models import Endpoint, HiddenOrigin, Origin, Target
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
    hidden = _text(origin.secret.reveal()) if isinstance(origin, HiddenOrigin) else None
    return [
        [origin.scheme, origin.host, origin.port, hidden],
        _text(endpoint.base_path),
        _text(endpoint.marker),
        [[_text(name), _text(secret.reveal())] for name, secret in endpoint.credentials],
        endpoint.max_socket_age,
        [[_text(name), _text(value)] for name, value in endpoint.instructions],
    ]


def _endpoint(fields: list[Any] | None) -> Endpoint | None:
    if fields is None:
        return None
    (scheme, host, port, hidden), base_path, marker, credentials, max_socket_age, instructions = fields
    return Endpoint(
        Origin(scheme, host, port) if hidden is None else HiddenOrigin(scheme, host, port, Secret(hidden)),
        _raw(base_path),
        _raw(marker),
        tuple((_raw(name), Secret(value)) for name, value in credentials),
        max_socket_age,
        tuple((_raw(name), _raw(value)) for name, value in instructions),
    )


def _text(raw: bytes) -> str:
    return raw.decode("latin-1")


def _raw(text: str) -> bytes:
    return text.encode("latin-1")
