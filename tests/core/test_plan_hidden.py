"""What becomes of a host that is a credential, in response heads."""

from __future__ import annotations

import pytest

from preview_proxy.core.models import Endpoint, HiddenOrigin
from preview_proxy.core.plan import plan_response
from preview_proxy.core.secret import Secret
from tests.core.test_plan import CANARY, PUBLIC, ROUTE, rules

HIDDEN = HiddenOrigin("https", f"3000-{CANARY}.edge.dev", 443, Secret(CANARY))
HIDDEN_ROUTE = ROUTE._replace(endpoint=Endpoint(HIDDEN, credentials=((b"host", Secret(HIDDEN.field)),)))


@pytest.mark.parametrize(
    ("name", "value", "becomes"),
    [
        (b"location", b"https://%b/next", b"https://%b/next"),
        (b"location", b"//%b/next", b"https://%b/next"),
        (b"access-control-allow-origin", b"https://%b", b"https://%b"),
        (b"content-security-policy", b"connect-src wss://%b", b"connect-src wss://%b"),
        (b"link", b"<https://%b/a.css>; rel=preload", b"<https://%b/a.css>; rel=preload"),
        (b"set-cookie", b"a=1; Domain=%b", None),
    ],
)
def test_h14_a_hidden_host_becomes_the_public_one(name: bytes, value: bytes, becomes: bytes | None) -> None:
    headers = ((name, value % HIDDEN.field),)
    kept = plan_response("GET", 302, headers, HIDDEN_ROUTE, rules()).headers[:-1]
    assert kept == ((name, becomes % PUBLIC.field if becomes else b"a=1"),)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"location", b"https://5173-%b.edge.dev/"),
        (b"location", b"https://elsewhere.example/?from=%b"),
        (b"content-security-policy", b"connect-src wss://5173-%b.edge.dev"),
        (b"set-cookie", b"home=%b"),
        (b"x-forwarded-host", b"3000-%b.edge.dev"),
        (b"via", b"1.1 3000-%b.EDGE.dev"),
    ],
)
@pytest.mark.parametrize("upper", [False, True])
def test_h14_a_field_that_says_a_hidden_host_in_any_other_way_goes(name: bytes, value: bytes, upper: bool) -> None:
    secret = CANARY.upper().encode() if upper else CANARY.encode()
    assert plan_response("GET", 302, ((name, value % secret),), HIDDEN_ROUTE, rules()).headers[:-1] == ()
