from __future__ import annotations

from dataclasses import fields

import pytest

from preview_proxy import Endpoint, Origin, Secret, Target
from preview_proxy.core.models import HiddenOrigin
from preview_proxy.providers.held import Minted
from preview_proxy.providers.packed import pack, unpack

ORIGIN = Origin("https", "3000-mch_1.example", 443)
HIDDEN = HiddenOrigin("https", "token-0123456789.example", 443, Secret("token-0123456789"))
CREDENTIALS = ((b"x-token", Secret("token-0123456789")), (b"x-traffic", Secret("traffic-0123456789")))


@pytest.mark.parametrize(
    "target",
    [
        Target("g", Endpoint(ORIGIN, b"/base", b"m=%20", CREDENTIALS), Endpoint(ORIGIN), 2e9),
        Target("g", None, Endpoint(Origin("http", "localhost", 5173), credentials=CREDENTIALS[:1])),
        Target("g", Endpoint(ORIGIN, max_socket_age=900, instructions=((b"x-skip", b"true"),)), None, 1.5),
        Target("g", Endpoint(HIDDEN, credentials=((b"host", Secret("token-0123456789.example")),)), None, 2e9),
    ],
)
def test_a_target_comes_back_as_it_was(target: Target) -> None:
    back = unpack(pack(Minted(target, 1234.5)))
    assert back == (target, 1234.5)
    for kind in ("http", "websocket"):
        one, other = getattr(target, kind), getattr(back.target, kind)
        assert (one and one.scope) == (other and other.scope)
        assert type(one and one.origin) is type(other and other.origin)


def test_no_field_is_left_behind() -> None:
    assert [field.name for field in fields(Target)] == ["id", "http", "websocket", "expires_at"]
    assert [field.name for field in fields(Endpoint)] == [
        "origin", "base_path", "marker", "credentials", "max_socket_age", "instructions",
    ]  # fmt: skip
