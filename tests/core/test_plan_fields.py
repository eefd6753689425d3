"""Fields that two rules meet in: nominated ones that take the short way, hints, trailers, and excess."""

from __future__ import annotations

from dataclasses import replace

import pytest

from preview_proxy.core.headers import USUAL_REQUEST, USUAL_RESPONSE
from preview_proxy.core.models import RawHeaders, Rejected
from preview_proxy.core.plan import (
    MAX_VALUE,
    compile_rules,
    plan_early_hint,
    plan_handshake,
    plan_request,
    plan_response,
    plan_trailers,
)
from preview_proxy.core.policy import Policy
from preview_proxy.core.secret import Secret
from tests.core.test_plan import CANARY, ENDPOINT, KEY, ROUTE, RULES, request, sent, visit
from tests.core.test_plan_response import kept, refused


@pytest.mark.parametrize("name", sorted(USUAL_REQUEST), ids=bytes.decode)
def test_h05_a_nominated_field_goes_however_usual_it_is(name: bytes) -> None:
    assert request((name, b"1"), (b"connection", b"close, " + name)).headers == sent()
    assert request((name, b"1"), (b"connection", b"close")).headers == sent((name, b"1"))


def test_h13_a_credential_s_name_goes_however_usual_it_is() -> None:
    endpoint = replace(ENDPOINT, credentials=((b"x-requested-with", Secret(CANARY)),))
    headers = (b"x-requested-with", b"spoofed"), (b"accept", b"1")
    assert plan_request(visit(*headers), ROUTE._replace(endpoint=endpoint), RULES).headers == sent((b"accept", b"1"))


@pytest.mark.parametrize("name", sorted(USUAL_RESPONSE), ids=bytes.decode)
def test_r01_a_nominated_field_of_a_response_goes_however_usual_it_is(name: bytes) -> None:
    assert kept((name, b"1"), (b"connection", name)) == ()
    assert kept((name, b"1"), (b"connection", b"close")) == ((name, b"1"),)


def test_w03_no_subprotocol_is_offered_where_the_session_is_read_from_it() -> None:
    private = compile_rules(Policy(), cookies=[], headers=["Sec-WebSocket-Protocol"], embedders=[])
    outbound = plan_handshake(visit(kind="websocket", subprotocols=("token",)), ROUTE, private, KEY)
    assert b"sec-websocket-protocol" not in [name for name, _ in outbound.headers]


def test_h09_an_address_that_no_header_can_hold_is_written_with_question_marks() -> None:
    assert request(client="fe80::1%\u20ac").headers[-1] == (b"x-forwarded-for", b"fe80::1%?")


def test_a11_a_control_in_a_user_s_name_is_encoded() -> None:
    told = plan_request(visit(), ROUTE._replace(user="a\x7f\n b~"), RULES).headers[-1]
    assert told == (b"x-preview-user", b"a%7F%0A b~")


@pytest.mark.parametrize("status", [200, 403, 407])
def test_r02_only_a_401_loses_its_challenge(status: int) -> None:
    challenge = (b"www-authenticate", b"Basic")
    assert challenge in plan_response("GET", status, (challenge,), ROUTE, RULES, navigates=True).headers


def test_r04_one_value_that_is_too_long_is_enough() -> None:
    assert refused((b"x-a", b"a"), (b"x-b", b"b" * (MAX_VALUE + 1)), (b"x-c", b"c"))


def test_r07_cookies_in_excess_take_no_other_field_along() -> None:
    headers: list[tuple[bytes, bytes]] = []
    for n in range(60):
        headers += [(b"set-cookie", b"c%d=1" % n), (b"x-%d" % n, b"1")]
    names = [name for name, _ in kept(*headers)]
    assert names.count(b"set-cookie") == 50
    assert [name for name in names if name != b"set-cookie"] == [b"x-%d" % n for n in range(60)]


LINK = (b"link", b"<https://m1-3000.edge.dev/a.css>; rel=preload")


def test_an_early_hint_is_its_links_at_the_public_origin() -> None:
    headers = (LINK, (b"set-cookie", b"a=1"), (b"x-app", b"1"), (b"link", b"</b?edge_token=1>"))
    assert plan_early_hint(headers, ROUTE, RULES) == [
        b"<https://3000-m1.previews.dev/a.css>; rel=preload",
        b"</b>",
    ]
    assert plan_early_hint((), ROUTE, RULES) == []


def test_r04_a_hint_or_trailer_that_must_not_go_out_is_refused() -> None:
    broken: RawHeaders = ((b"link", b"\r\n"),)
    for plan in (plan_early_hint, plan_trailers):
        with pytest.raises(Rejected):
            plan(broken, ROUTE, RULES)


def test_trailers_are_checked_like_headers() -> None:
    headers = (LINK, (b"server-timing", b"total;dur=1"), (b"grpc-status", b"0"), (b"alt-svc", b"h3"), (b"te", b"x"))
    assert plan_trailers(headers, ROUTE, RULES) == [
        (b"link", b"<https://3000-m1.previews.dev/a.css>; rel=preload"),
        (b"server-timing", b"total;dur=1"),
        (b"grpc-status", b"0"),
    ]


# RFC 9110 §6.5.1, name by name
NOT_AFTER_CONTENT = """
authorization cache-control expires host location set-cookie vary www-authenticate transfer-encoding connection
content-length content-type content-encoding content-range content-security-policy content-disposition
access-control-allow-origin access-control-allow-credentials access-control-expose-headers
"""


@pytest.mark.parametrize("name", NOT_AFTER_CONTENT.split())
def test_r01_what_a_browser_would_act_on_is_no_trailer(name: str) -> None:
    assert plan_trailers(((name.encode(), b"a=1"), (b"x-sum", b"1")), ROUTE, RULES) == [(b"x-sum", b"1")]


def test_r11_what_is_no_page_gets_nothing_added_whatever_else_it_has() -> None:
    adding = compile_rules(Policy(added_headers={"X-Own": "1"}), cookies=[], headers=[], embedders=[])
    image, page = (b"content-type", b"image/png"), (b"content-type", b"text/html")
    for content, added in ((image, False), (page, True)):
        headers = plan_response("GET", 200, (content, (b"x-app", b"1")), ROUTE, adding).headers
        assert ((b"x-own", b"1") in headers) is added
