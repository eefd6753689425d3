from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from preview_proxy.core.cookies import is_token
from preview_proxy.core.models import Endpoint, HiddenOrigin, Inbound, Origin, Outbound, Preview, RawHeaders, Rejected
from preview_proxy.core.plan import (
    Route,
    Rules,
    compile_rules,
    plan_accept,
    plan_handshake,
    plan_request,
)
from preview_proxy.core.policy import Limits, Policy
from preview_proxy.core.secret import Secret
from preview_proxy.core.snapshot import raw_headers, snapshot
from preview_proxy.core.websocket import accept_value

CANARY = "canary-0123456789"
PUBLIC = Origin("https", "3000-m1.previews.dev", 443)
TOKEN = (b"x-nullspace-preview-proxy-token", Secret(CANARY))
ENDPOINT = Endpoint(Origin("https", "m1-3000.edge.dev", 443), b"", b"__ns_preview_transport=header", (TOKEN,))
ROUTE = Route(Preview("m1", 3000), PUBLIC, ENDPOINT)
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
EMBEDDER = "https://app.acme.com"


def rules(*embedders: str, **policy: Any) -> Rules:
    policy.setdefault("added_headers", {})  # tests of what passes look at nothing else
    return compile_rules(Policy(**policy), cookies=["session"], headers=["authorization"], embedders=embedders)


RULES = rules(EMBEDDER)


def visit(*headers: tuple[bytes, bytes], kind: Literal["http", "websocket"] = "http", **fields: Any) -> Inbound:
    inbound = Inbound(kind, "GET", "https", "1.1", PUBLIC.authority, b"/a", b"b=1", headers, "1.2.3.4", False, None)
    return inbound._replace(**fields)


def request(*headers: tuple[bytes, bytes], **fields: Any) -> Outbound:
    return plan_request(visit(*headers, **fields), ROUTE, RULES)


OURS = (
    (b"host", b"m1-3000.edge.dev"),
    (b"x-forwarded-host", b"3000-m1.previews.dev"),
    (b"x-forwarded-proto", b"https"),
    (b"x-forwarded-for", b"1.2.3.4"),
)


def sent(*headers: tuple[bytes, bytes]) -> RawHeaders:
    """What upstream gets for a request: our four fields, with the rest between the first and the others."""
    return (OURS[0], *headers, *OURS[1:])


def test_a_request_goes_out_as_it_came_with_four_fields_of_ours() -> None:
    accept = (b"accept", b"*/*"), (b"x-l", b"caf\xe9"), (b"accept", b"text/html")
    assert request(*accept) == Outbound(
        method="GET",
        endpoint=ENDPOINT,
        target=b"/a?b=1&__ns_preview_transport=header",
        headers=sent(*accept),
        has_body=False,
        content_length=None,
    )


def test_h14_the_credential_is_in_no_plan() -> None:
    assert CANARY not in repr(request())
    assert CANARY.encode() not in b"".join(value for _, value in request().headers)


def test_h13_the_visitor_s_own_copy_of_a_credential_header_is_dropped() -> None:
    endpoint = replace(ENDPOINT, credentials=((b"x-machine-key", Secret(CANARY)),))
    copies = (b"x-machine-key", b"spoofed-01"), (b"x-machine-key", b""), (b"x-machine-keys", b"1")
    outbound = plan_request(visit(*copies), ROUTE._replace(endpoint=endpoint), RULES)
    assert outbound.headers == sent((b"x-machine-keys", b"1"))


def test_h04_a_spelling_that_some_edge_reads_as_the_credentials_name_is_dropped() -> None:
    endpoint = replace(ENDPOINT, credentials=((b"x-machine-key", Secret(CANARY)),))
    copies = (b"x.machine.key", b"spoofed-01"), (b"x_machine_key", b"spoofed-01"), (b"x.machine", b"1")
    outbound = plan_request(visit(*copies), ROUTE._replace(endpoint=endpoint), RULES)
    assert outbound.headers == sent((b"x.machine", b"1"))


def test_h13_instructions_to_the_edge_go_last_and_a_visitor_cannot_give_others() -> None:
    endpoint = replace(ENDPOINT, instructions=((b"x-machine-cors", b"off"),))
    copy = (b"x-machine-cors", b"on"), (b"connection", b"x-machine-cors")
    outbound = plan_request(visit(*copy), ROUTE._replace(endpoint=endpoint), RULES)
    assert outbound.headers == (*sent(), (b"x-machine-cors", b"off"))


def test_h14_a_hidden_host_is_in_no_plan() -> None:
    origin = HiddenOrigin("https", f"3000-{CANARY}.edge.dev", 443, Secret(CANARY))
    endpoint = Endpoint(origin, credentials=((b"host", Secret(origin.field)),))
    for outbound in (
        plan_request(visit(), ROUTE._replace(endpoint=endpoint), RULES),
        plan_handshake(visit(kind="websocket"), ROUTE._replace(endpoint=endpoint), RULES, KEY),
    ):
        assert CANARY not in repr(outbound)
        assert b"host" not in dict(outbound.headers)


def test_h05_naming_our_fields_in_connection_does_not_remove_them() -> None:
    nominated = b"close, x-nullspace-preview-proxy-token, x-forwarded-host, x-forwarded-for, host, x-mine, te"
    headers = (
        (b"connection", b""),
        (b"connection", nominated),
        (b"x-mine", b"1"),
        (b"x-kept", b"1"),
        (b"te", b"trailers"),
    )
    assert request(*headers).headers == sent((b"x-kept", b"1"))


@pytest.mark.parametrize("name", [b"cookie", b"referer", b"Cookie", b"REFERER"])
def test_h05_a_nominated_cookie_or_referer_is_hop_by_hop(name: bytes) -> None:
    headers = (b"cookie", b"a=1"), (b"referer", str(PUBLIC).encode()), (b"connection", name)
    assert {field for field, _ in request(*headers).headers} & {b"cookie", b"referer"} == {b"cookie", b"referer"} - {
        name.lower()
    }


def test_h06_the_session_is_stripped_and_other_cookies_go_in_one_field() -> None:
    cookies = (b"cookie", b"a=1; session=S"), (b"cookie", b"__Host-Http-pp=S; b=2")
    assert request(*cookies).headers == sent((b"cookie", b"a=1; b=2"))
    assert request((b"cookie", b"session=S")).headers == sent()


def test_h06_authorization_is_withheld_where_the_session_is_read_from_it() -> None:
    field = (b"authorization", b"Bearer x")
    assert request(field).headers == sent()
    other = compile_rules(Policy(), cookies=[], headers=[], embedders=[])
    assert plan_request(visit(field), ROUTE, other).headers == sent(field)


def test_the_policy_s_private_names_are_withheld() -> None:
    withheld = rules(private_headers=("x-acme-*",), private_cookies=("acme",))
    headers = (b"x-acme-user", b"1"), (b"cookie", b"acme=S; a=1")
    assert plan_request(visit(*headers), ROUTE, withheld).headers == sent((b"cookie", b"a=1"))


@pytest.mark.parametrize("client", [None, ""])
def test_h09_the_forwarded_fields_are_ours_alone(client: str | None) -> None:
    spoofed = [(b"x-forwarded-%s" % name, b"evil") for name in (b"for", b"host", b"proto", b"port", b"prefix")]
    spoofed += [(b"forwarded", b"for=evil"), (b"x-real-ip", b"evil"), (b"via", b"evil"), (b"x_forwarded_for", b"evil")]
    assert request(*spoofed).headers == sent()
    assert request(*spoofed, client=client).headers == sent()[:-1]


@pytest.mark.parametrize(
    ("subject", "told"),
    [("ada", b"ada"), ("ada@acme.com", b"ada@acme.com"), ("Grüße 100%", b"Gr%C3%BC%C3%9Fe 100%25")],
)
def test_a11_upstream_is_told_the_user_only_where_it_is_asked_for(subject: str, told: bytes) -> None:
    spoofed = visit((b"x-preview-user", b"root"), (b"X-Preview-User", b"root"), (b"x.preview.user", b"root"))
    assert plan_request(spoofed, ROUTE, RULES).headers == sent()
    asked = plan_request(spoofed, ROUTE._replace(user=subject), RULES)
    assert asked.headers == (*sent(), (b"x-preview-user", told))


def test_h02_an_allow_list_holds_for_both_kinds() -> None:
    strict = rules(request_headers="allow-list", allowed_headers=("X-Mine",))
    headers = (b"accept", b"*/*"), (b"x-own", b"1"), (b"x-mine", b"1"), (b"cookie", b"a=1"), (b"authorization", b"x")
    passed = sent((b"accept", b"*/*"), (b"x-mine", b"1"), (b"cookie", b"a=1"))
    assert plan_request(visit(*headers), ROUTE, strict).headers == passed
    handshake = plan_handshake(visit(*headers, kind="websocket"), ROUTE, strict, KEY).headers
    assert handshake[: len(passed)] == passed


def test_w03_an_offer_that_the_session_is_read_from_goes_no_further() -> None:
    inbound = visit(kind="websocket", subprotocols=("vite-hmr", "bearer.canary"))
    private = rules(private_headers=("Sec-WebSocket-Protocol",))
    names = [name for name, _ in plan_handshake(inbound, ROUTE, private, KEY).headers]
    assert b"sec-websocket-protocol" not in names
    accepted = (b"upgrade", b"websocket"), (b"connection", b"upgrade"), (b"sec-websocket-accept", accept_value(KEY))
    assert plan_accept(accepted, KEY, inbound, ROUTE, private).subprotocol is None
    with pytest.raises(Rejected):
        plan_accept((*accepted, (b"sec-websocket-protocol", b"vite-hmr")), KEY, inbound, ROUTE, private)


def test_h10_scheme_and_host_come_from_the_mapping() -> None:
    spoofed = request((b"host", b"evil.example"), authority="evil.example", scheme="http").headers
    assert spoofed == sent()


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (b"https://3000-m1.previews.dev/a?b=1", b"https://3000-m1.previews.dev/a?b=1"),
        (b"https://3000-m1.previews.dev", b"https://3000-m1.previews.dev"),
        (b"https://app.acme.com/p?token=S", b"https://app.acme.com/"),
        (b"https://app.acme.com?token=S", b"https://app.acme.com/"),
        (b"https://app.acme.com/?next=https://x.dev/", b"https://app.acme.com/"),
        (b"https://app.acme.com:8443/p", b"https://app.acme.com:8443/"),
        (b"https://3000-m1.previews.dev.evil.com/S", b"https://3000-m1.previews.dev.evil.com/"),
        (b"https://3000-m1.previews.dev@evil.com/S", None),
        (b"https://user:S@app.acme.com/", None),
        (b"https://app.acme.com#S", None),
        (b"about:client", None),
        (b"/S", None),
        (b"", None),
        (b"\xe9", None),
    ],
    ids=repr,
)
def test_h11_of_another_site_only_the_origin_is_told(value: bytes, kept: bytes | None) -> None:
    expected = () if kept is None else ((b"referer", kept),)
    assert request((b"referer", value)).headers == sent(*expected)


def test_h11_only_the_first_of_several_referers_counts() -> None:
    assert request((b"referer", b"https://a.dev/x"), (b"referer", b"https://b.dev/")).headers == sent(
        (b"referer", b"https://a.dev/")
    )


@pytest.mark.parametrize(
    ("fields", "framing"),
    [
        ({"has_body": False, "content_length": None}, ()),
        ({"has_body": False, "content_length": 0}, ((b"content-length", b"0"),)),
        ({"has_body": True, "content_length": 5}, ((b"content-length", b"5"),)),
        ({"has_body": True, "content_length": None}, ((b"transfer-encoding", b"chunked"),)),
    ],
)
def test_p14_the_framing_is_written_anew(fields: dict[str, Any], framing: RawHeaders) -> None:
    spoofed = (b"content-length", b"7"), (b"transfer-encoding", b"x"), (b"connection", b"content-length")
    outbound = request(*spoofed, **fields)
    assert outbound.headers == (*sent(), *framing)
    assert (outbound.has_body, outbound.content_length) == (fields["has_body"], fields["content_length"])


def test_p16_expect_te_trailer_and_upgrade_are_not_forwarded() -> None:
    names = b"expect", b"te", b"trailer", b"upgrade", b"keep-alive", b"proxy-connection", b"http2-settings"
    assert request(*((name, b"x") for name in names)).headers == sent()


HANDSHAKE = (
    (b"connection", b"Upgrade"),
    (b"upgrade", b"websocket"),
    (b"sec-websocket-version", b"13"),
    (b"sec-websocket-key", KEY),
)


@pytest.mark.parametrize("offered", [(), ("vite-hmr",), ("a", "b")])
def test_w04_the_handshake_is_ours(offered: tuple[str, ...]) -> None:
    theirs = [
        (b"sec-websocket-%s" % name, b"evil") for name in (b"key", b"version", b"extensions", b"protocol", b"accept")
    ]
    inbound = visit(
        *theirs, (b"upgrade", b"websocket"), (b"origin", b"https://x"), kind="websocket", subprotocols=offered
    )
    outbound = plan_handshake(inbound, ROUTE, RULES, KEY)
    offer = ((b"sec-websocket-protocol", ", ".join(offered).encode()),) if offered else ()
    assert outbound.headers == (*sent((b"origin", b"https://x")), *HANDSHAKE, *offer)
    assert outbound.target == b"/a?b=1&__ns_preview_transport=header"


def test_w03_a_handshake_with_a_malformed_offer_is_refused() -> None:
    with pytest.raises(Rejected):
        plan_handshake(visit(kind="websocket", subprotocols=("a b",)), ROUTE, RULES, KEY)


# Names that must never cross, names that may, and every way to nominate one
loaded = st.sampled_from(
    [
        b"Host",
        b"Connection",
        b"connection",
        b"Keep-Alive",
        b"TE",
        b"Trailer",
        b"Transfer-Encoding",
        b"Upgrade",
        b"Expect",
    ]
    + [
        b"Content-Length",
        b"Proxy-Authorization",
        b"X-Forwarded-For",
        b"x_forwarded_for",
        b"X-Nullspace-Preview-Proxy-Token",
    ]
    + [
        b"X_Nullspace_Preview_Proxy_Token",
        b"X.Forwarded.Host",
        b"CF-Ray",
        b"Authorization",
        b"Cookie",
        b"Referer",
        b"Set-Cookie",
    ]
    + [
        b"Location",
        b"Accept",
        b"X-App",
        b"Content-Security-Policy",
        b"X-Frame-Options",
        b"Clear-Site-Data",
        b"X-Accel-Foo",
    ]
)
values = st.binary(max_size=16) | st.lists(loaded, min_size=1, max_size=4).map(b", ".join)
fields = st.lists(st.tuples(loaded | st.binary(max_size=6), values), max_size=10)

NEVER = (
    {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"http2-settings"},
    (b"proxy-", b"x-nullspace-", b"x-preview-proxy-"),
)
ADDED = {name for name, _ in OURS} | {b"content-length", b"transfer-encoding"}


def named(headers: RawHeaders) -> set[bytes]:
    values = b",".join(value for name, value in headers if name == b"connection")
    return {token.strip(b" \t").lower() for token in values.split(b",")}


@given(fields, st.sampled_from(["GET", "POST"]), st.sampled_from(["1.0", "1.1", "2"]))
@example([(b"Connection", b"cookie"), (b"Cookie", b"a=1")], "GET", "1.1")
def test_h05_no_request_emits_what_must_not_cross(
    headers: list[tuple[bytes, bytes]], method: str, version: str
) -> None:
    scope = {"type": "http", "method": method, "http_version": version, "path": "/", "headers": headers}
    try:
        inbound = snapshot(scope, raw_headers(scope), PUBLIC.authority, Limits())
        outbound = plan_request(inbound, ROUTE, RULES)
    except Rejected:
        return
    for pair in OURS[:3]:
        assert [field for field in outbound.headers if field[0] == pair[0]] == [pair]
    theirs = [name for name, _ in outbound.headers if name not in ADDED]
    for name in theirs:
        assert is_token(name)
        assert b"_" not in name
        assert name not in NEVER[0]
        assert not name.startswith((*NEVER[1], b"x-forwarded-", b"cf-"))
        assert name not in (b"authorization", b"expect", b"x.forwarded.host")
        assert name not in named(inbound.headers)
    assert theirs.count(b"cookie") <= 1
    assert theirs.count(b"referer") <= 1


@given(fields, st.binary(max_size=20), st.binary(max_size=20), st.booleans())
@example([(b"Host", b"evil.example"), (b"X-Forwarded-Host", b"evil.example")], b"/evil.example/", b"@evil", False)
@example([], b"/\\evil.example", b"//evil.example", True)
def test_p08_whatever_the_visitor_sends_only_the_mapping_says_where_it_goes(
    headers: list[tuple[bytes, bytes]], path: bytes, query: bytes, below: bool
) -> None:
    endpoint = replace(ENDPOINT, base_path=b"/base") if below else ENDPOINT
    scope = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/" + path, "query_string": query}
    try:
        inbound = snapshot({**scope, "headers": headers}, raw_headers({"headers": headers}), "any.example", Limits())
        outbound = plan_request(inbound, ROUTE._replace(endpoint=endpoint), RULES)
    except Rejected:
        return
    assert outbound.endpoint is endpoint
    assert outbound.target.startswith(endpoint.base_path + b"/")
    assert [value for name, value in outbound.headers if name == b"host"] == [ENDPOINT.origin.field]


@given(fields, st.lists(st.text(max_size=6), max_size=3))
def test_w04_no_handshake_emits_what_must_not_cross(headers: list[tuple[bytes, bytes]], offered: list[str]) -> None:
    scope = {"type": "websocket", "path": "/", "headers": headers, "subprotocols": offered}
    try:
        inbound = snapshot(scope, raw_headers(scope), PUBLIC.authority, Limits())
        outbound = plan_handshake(inbound, ROUTE, RULES, KEY)
    except Rejected:
        return
    names = [name for name, _ in outbound.headers]
    assert not [name for name in names if b"_" in name or name.startswith(NEVER[1])]
    for pair in HANDSHAKE:
        assert [field for field in outbound.headers if field[0] == pair[0]] == [pair]


def test_h05_nominated_fields_go_and_the_others_keep_order_bytes_and_duplicates() -> None:
    headers = (
        (b"x-b", b"2"),
        (b"connection", b""),
        (b"x-hop", b"1"),
        (b"x-a", b"1"),
        (b"connection", b"close, X-Hop"),
        (b"x-b", b"caf\xe9"),
        (b"upgrade", b"h2c"),
    )
    assert request(*headers).headers == sent((b"x-b", b"2"), (b"x-a", b"1"), (b"x-b", b"caf\xe9"))
    assert request((b"x-b", b"1"), (b"host", b"a")).headers == sent((b"x-b", b"1"))
