from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preview_proxy.core.cookies import is_token
from preview_proxy.core.headers import USUAL_RESPONSE
from preview_proxy.core.models import Origin, RawHeaders, Rejected, Reply
from preview_proxy.core.plan import _REWRITES, Rules, plan_accept, plan_response
from preview_proxy.core.policy import Limits
from preview_proxy.core.websocket import accept_value
from tests.core.test_plan import CANARY, EMBEDDER, KEY, NEVER, PUBLIC, ROUTE, RULES, fields, named, rules, visit


def response(*headers: tuple[bytes, bytes], status: int = 200, method: str = "GET", rules: Rules = RULES) -> Reply:
    return plan_response(method, status, headers, ROUTE, rules)


FRAMES = (b"content-security-policy", b"frame-ancestors https://app.acme.com")


def kept(*headers: tuple[bytes, bytes], status: int = 200, method: str = "GET") -> RawHeaders:
    """What the browser gets of a response, less our own policy."""
    reply = response(*headers, status=status, method=method)
    assert reply.headers[-1] == FRAMES
    return reply.headers[:-1]


def refused(*headers: tuple[bytes, bytes], status: int = 200, limits: Limits | None = None) -> bool:
    limited = rules(limits=limits or Limits())
    with pytest.raises(Rejected) as caught:
        response(*headers, status=status, rules=limited)
    return caught.value.code == "upstream_protocol_error"


@pytest.mark.parametrize("status", [200, 201, 206, 299, 301, 400, 404, 418, 451, 499, 500, 502, 599])
def test_r03_the_app_s_own_status_passes(status: int) -> None:
    headers = (b"content-type", b"text/html"), (b"content-length", b"5")
    assert response(*headers, status=status) == Reply(status, (*headers, FRAMES), True)


@pytest.mark.parametrize("status", [-1, 0, 99, 100, 101, 103, 199, 600, 999, 1000])
def test_r03_any_other_status_is_refused(status: int) -> None:
    assert refused(status=status)


@pytest.mark.parametrize(("status", "length_kept"), [(204, False), (205, False), (304, False), (200, True)])
@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_r14_what_has_no_body_has_none(method: str, status: int, length_kept: bool) -> None:
    headers = (b"etag", b'"x"'), (b"content-length", b"5")
    reply = response(*headers, status=status, method=method)
    assert reply.has_body is (status == 200 and method == "GET")
    assert ((b"content-length", b"5") in reply.headers) is length_kept
    assert (b"etag", b'"x"') in reply.headers


def test_r01_a_chunked_response_has_no_length() -> None:
    assert kept((b"content-length", b"5"), (b"transfer-encoding", b"chunked"), (b"x", b"1")) == ((b"x", b"1"),)


@pytest.mark.parametrize("lengths", [[b"5", b"5"], [b"5", b"6"], [b"5, 5"], [b"+5"], [b"-1"], [b""], [b"x"], [b"\xb2"]])
def test_r01_a_response_with_an_unclear_length_is_refused(lengths: list[bytes]) -> None:
    assert refused(*((b"content-length", length) for length in lengths))


def test_r01_hop_by_hop_and_nominated_fields_stay_on_their_side() -> None:
    headers = [(b"connection", b""), (b"connection", b"X-Hop, set-cookie, content-security-policy"), (b"x-hop", b"1")]
    headers += [(b"keep-alive", b"5"), (b"proxy-authenticate", b"x"), (b"trailer", b"x"), (b"upgrade", b"h2c")]
    headers += [(b"set-cookie", b"a=1"), (b"content-security-policy", b"sandbox"), (b"x-kept", b"1")]
    assert kept(*headers) == ((b"x-kept", b"1"),)


def test_r02_what_speaks_of_the_public_host_is_stripped_last() -> None:
    names = b"alt-svc", b"strict-transport-security", b"clear-site-data", b"service-worker-allowed", b"x-accel-redirect"
    assert kept(*((name, b"x") for name in names)) == ()


def test_duplicates_pass_in_order() -> None:
    headers = tuple((name, b"%d" % n) for n in (1, 2) for name in (b"vary", b"www-authenticate", b"x-app"))
    assert kept(*headers) == headers


@pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"a\r", b"\xe9", b"a\n", b"(x)"])
def test_r04_a_name_that_is_no_token_is_refused(name: bytes) -> None:
    assert refused((name, b"x"))


@pytest.mark.parametrize("value", [b"\r\nx: y", b"a\r", b"a\n", b"\0", b"\x7f", b"\x1b[0m"])
@pytest.mark.parametrize("name", [b"x-app", b"location", b"set-cookie", b"strict-transport-security"])
def test_r04_a_value_that_could_end_a_line_is_refused(name: bytes, value: bytes) -> None:
    assert refused((name, value))


def test_r04_limits_hold_at_their_edge() -> None:
    limits = Limits(response_header_count=2, response_header_bytes=10)
    assert response((b"abc", b"de"), (b"abc", b"de"), rules=rules(limits=limits))
    assert refused((b"a", b""), (b"b", b""), (b"c", b""), limits=limits)
    assert refused((b"abc", b"de"), (b"abc", b"def"), limits=limits)


@pytest.mark.parametrize("name", [b"location", b"content-location", b"sourcemap", b"x-sourcemap"])
def test_r05_urls_point_at_the_public_origin(name: bytes) -> None:
    assert kept((name, b"http://localhost:3000/a?edge_token=1")) == ((name, b"https://3000-m1.previews.dev/a"),)
    assert kept((name, b"https://m1-3000.edge.dev/a")) == ((name, b"https://3000-m1.previews.dev/a"),)
    assert kept((name, b"https://example.com/")) == ((name, b"https://example.com/"),)


def test_r05_no_field_that_is_changed_takes_the_short_way() -> None:
    assert not USUAL_RESPONSE & _REWRITES.keys()


def test_r05_urls_inside_fields_too() -> None:
    link, refresh = (b"link", b"<https://m1-3000.edge.dev/a>; rel=x"), (b"refresh", b"0;url=https://m1-3000.edge.dev/a")
    assert kept(link, refresh) == (
        (b"link", b"<https://3000-m1.previews.dev/a>; rel=x"),
        (b"refresh", b"0;url=https://3000-m1.previews.dev/a"),
    )


@pytest.mark.parametrize(
    ("value", "told"),
    [(b"https://m1-3000.edge.dev", b"https://3000-m1.previews.dev"), (b" HTTPS://M1-3000.Edge.dev\t", None)]
    + [
        (value, value)
        for value in (
            b"*",
            b"null",
            b"Xhttps://m1-3000.edge.dev",
            b"https://example.com",
            b"https://m1-3000.edge.dev.evil.com",
        )
    ],
    ids=repr,
)
def test_r05_an_allowed_origin_is_the_public_one(value: bytes, told: bytes | None) -> None:
    name = b"access-control-allow-origin"
    assert kept((name, value)) == ((name, told or b"https://3000-m1.previews.dev"),)


@pytest.mark.parametrize(
    "value",
    [b"%b", b"x%by", b"https://example.com/?t=%b", b"a=%b; Path=/", b"/a#%b", b"default-src %b"],
)
@pytest.mark.parametrize("name", [b"x-echo", b"location", b"set-cookie", b"content-security-policy", b"link"])
def test_h18_a_field_that_repeats_the_credential_is_dropped(name: bytes, value: bytes) -> None:
    assert kept((name, value % CANARY.encode()), (b"x-kept", b"1")) == ((b"x-kept", b"1"),)


def test_h18_nor_does_a_name_that_repeats_the_credential() -> None:
    assert kept((b"x-" + CANARY.encode(), b"1"), (b"x-kept", b"1")) == ((b"x-kept", b"1"),)


def test_r07_set_cookies_pass_in_order_and_not_folded() -> None:
    headers = (b"set-cookie", b"a=1; Domain=acme.com"), (b"set-cookie", b"session=EVIL"), (b"set-cookie", b"b=2, 3")
    attributes = b"; Secure; SameSite=None; Partitioned"
    assert kept(*headers) == ((b"set-cookie", b"a=1" + attributes), (b"set-cookie", b"b=2, 3" + attributes))


@pytest.mark.parametrize(
    "planted", [b"\xa0__Host-Http-pp=E", b"\x85session=E", b"__Host-Http-pp=E", b"__ns_x=E", b"=E"]
)
def test_r07_a_planted_cookie_is_dropped(planted: bytes) -> None:
    assert kept((b"set-cookie", planted + b"; Domain=acme.com; Secure; Path=/")) == ()


def test_r07_the_first_fifty_cookies_are_enough() -> None:
    headers = tuple((b"set-cookie", b"c%d=1" % n) for n in range(60))
    assert [value.partition(b"=")[0] for _, value in kept(*headers)] == [b"c%d" % n for n in range(50)]


@pytest.mark.parametrize(
    ("public", "embedders", "attributes"),
    [
        (PUBLIC, [EMBEDDER], b"; Secure; SameSite=None; Partitioned"),
        (PUBLIC, [], b""),
        (Origin("http", "p.localhost", 8000), [EMBEDDER], b"; Secure; SameSite=None; Partitioned"),
        (Origin("http", "p.dev", 80), [EMBEDDER], b""),
    ],
)
def test_r08_cookies_are_made_for_frames_where_there_are_any(
    public: Origin, embedders: list[str], attributes: bytes
) -> None:
    reply = plan_response("GET", 200, ((b"set-cookie", b"a=1"),), ROUTE._replace(public=public), rules(*embedders))
    assert reply.headers[0] == (b"set-cookie", b"a=1" + attributes)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (b"frame-ancestors 'none'", None),
        (b"FRAME-Ancestors *", None),
        (b"frame-ancestors", None),
        (b"default-src 'self'; frame-ancestors 'none'; img-src *", b"default-src 'self'; img-src *"),
        (b"default-src 'self', frame-ancestors 'none', img-src *", b"default-src 'self', img-src *"),
        (b"\tframe-ancestors\ta ;; sandbox ", b"sandbox"),
        (b"frame-src a; x-frame-ancestors b", b"frame-src a; x-frame-ancestors b"),
        (b"", None),
        (b" ; , ;", None),
    ],
    ids=repr,
)
def test_r10_frame_ancestors_is_the_operator_s_to_say(value: bytes, told: bytes | None) -> None:
    name = b"content-security-policy"
    assert kept((name, value), (b"x-frame-options", b"DENY")) == (() if told is None else ((name, told),))


def test_r10_several_policies_stay_several() -> None:
    name = b"content-security-policy"
    assert kept((name, b"sandbox"), (name, b"frame-ancestors *"), (name, b"img-src *")) == (
        (name, b"sandbox"),
        (name, b"img-src *"),
    )


directives = st.sampled_from(
    [
        b"frame-ancestors",
        b"Frame-Ancestors *",
        b"default-src",
        b"img-src *",
        b";",
        b",",
        b" ",
        b"\t",
        b"'none'",
        b"-",
        b"\xa0",
    ]
)


@given(st.lists(directives | st.from_regex(rb"[\t\x20-\x7e\x80-\xff]{0,3}", fullmatch=True)).map(b"".join))
def test_r10_no_policy_of_the_sandbox_says_who_may_frame_it(value: bytes) -> None:
    policies = [policy for name, policy in kept((b"content-security-policy", value)) if name != b"x"]
    for policy in b",".join(policies).split(b","):  # CSP 3 §2.2.2, by ASCII whitespace
        for directive in policy.split(b";"):
            assert directive.strip(b"\t\n\f\r ").split(b" ")[0].split(b"\t")[0].lower() != b"frame-ancestors"
    wanted = [
        part.strip() for part in re.split(b"[;,]", value) if not re.match(rb"(?i)\s*(frame-ancestors(\s|\Z)|\Z)", part)
    ]
    assert [part.strip() for part in re.split(b"[;,]", b",".join(policies)) if part] == wanted


@pytest.mark.parametrize(
    ("policy", "tickets", "expected"),
    [
        ((), (), b"frame-ancestors 'none'"),
        ((), (EMBEDDER,), b"frame-ancestors https://app.acme.com"),
        (
            ("https://b.dev",),
            ("https://a.dev:8443", "https://b.dev"),
            b"frame-ancestors https://a.dev:8443 https://b.dev",
        ),
        (("HTTPS://B.dev:443",), (), b"frame-ancestors https://b.dev"),
    ],
)
def test_e13_who_may_frame_is_a_list_of_origins(
    policy: tuple[str, ...], tickets: tuple[str, ...], expected: bytes
) -> None:
    compiled = rules(*tickets, embedders=policy)
    assert compiled.frame_ancestors == expected
    assert compiled.embedded is (b"'none'" not in expected)


def test_e13_an_embedder_that_is_no_origin_is_refused() -> None:
    with pytest.raises(ValueError, match="is not an origin"):
        rules("https://*.acme.com")


@pytest.mark.parametrize("name", [b"www-authenticate", b"proxy-authenticate"])
def test_r02_no_page_makes_the_browser_ask_for_a_password(name: bytes) -> None:
    challenge = (name, b'Basic realm="Acme"')
    page = plan_response("GET", 401, (challenge,), ROUTE, RULES, navigates=True)
    assert page.headers == (FRAMES,)
    script = plan_response("GET", 401, (challenge,), ROUTE, RULES)
    assert script.headers == ((challenge, FRAMES) if name == b"www-authenticate" else (FRAMES,))


def test_r04_each_value_is_bounded() -> None:
    assert kept((b"x-a", b"a" * 16384), (b"x-b", b"b" * 16384))
    assert refused((b"x-a", b"a" * 16385))


ACCEPTED = ((b"upgrade", b"websocket"), (b"connection", b"Upgrade"), (b"sec-websocket-accept", accept_value(KEY)))


def test_an_accepted_handshake_passes_its_subprotocol_and_fields_on() -> None:
    theirs = (b"set-cookie", b"a=1; Domain=x.dev"), (b"x-app", b"1"), (b"content-length", b"0"), (b"date", b"now")
    headers = (*ACCEPTED, (b"sec-websocket-protocol", b"vite-hmr"), *theirs)
    inbound = visit(kind="websocket", subprotocols=("vite-hmr",))
    accept = plan_accept(headers, KEY, inbound, ROUTE, RULES)
    assert accept.subprotocol == "vite-hmr"
    assert accept.headers == ((b"set-cookie", b"a=1; Secure; SameSite=None; Partitioned"), (b"x-app", b"1"))


@pytest.mark.parametrize(
    "headers",
    [(), ACCEPTED[1:], (*ACCEPTED, (b"x", b"\r\n")), (*ACCEPTED, (b"sec-websocket-protocol", b"x"))],
    ids=repr,
)
def test_w05_a_handshake_that_must_not_be_accepted_is_refused(headers: RawHeaders) -> None:
    with pytest.raises(Rejected) as caught:
        plan_accept(headers, KEY, visit(kind="websocket"), ROUTE, RULES)
    assert caught.value.code == "upstream_protocol_error"


@given(fields, st.integers(100, 700), st.sampled_from(["GET", "HEAD"]))
def test_r01_no_response_emits_what_must_not_cross(
    headers: list[tuple[bytes, bytes]], status: int, method: str
) -> None:
    received = tuple((name.lower(), value) for name, value in headers)
    try:
        reply = plan_response(method, status, received, ROUTE, RULES)
    except Rejected:
        return
    assert reply.headers[-1] == FRAMES
    assert 200 <= reply.status <= 599
    assert [name for name, _ in reply.headers].count(b"content-length") <= 1
    for name, value in reply.headers[:-1]:
        assert is_token(name)
        assert name not in NEVER[0] | {b"x-frame-options", b"clear-site-data"}
        assert not name.startswith((*NEVER[1], b"x-accel-"))
        assert name not in named(received)
        assert not {*range(0x09), *range(0x0A, 0x20), 0x7F} & {*value}


def test_a_policy_for_upstream_s_own_host_becomes_one_for_the_public_host() -> None:
    policy = b"default-src 'self'; connect-src wss://%b https://api.example; frame-ancestors *"
    assert kept((b"content-security-policy", policy % ROUTE.endpoint.origin.field)) == (
        (b"content-security-policy", b"default-src 'self'; connect-src wss://%b https://api.example" % PUBLIC.field),
    )
