"""The careful fields of pages."""

from __future__ import annotations

import pytest

from preview_proxy.core.models import Endpoint, Origin, Preview
from preview_proxy.core.plan import Route, compile_rules, plan_response
from preview_proxy.core.policy import ADDED_HEADERS, Policy
from preview_proxy.core.secret import Secret
from tests.core.test_plan import EMBEDDER, PUBLIC, rules
from tests.core.test_plan_response import FRAMES, response

CAREFUL = tuple((name.lower().encode(), value.encode()) for name, value in ADDED_HEADERS.items())


def test_r11_careful_fields_are_added_where_the_sandbox_sent_none() -> None:
    default = rules(EMBEDDER, added_headers=ADDED_HEADERS)
    assert response((b"x-app", b"1"), rules=default).headers == ((b"x-app", b"1"), *CAREFUL, FRAMES)
    own = (b"referrer-policy", b"no-referrer"), (b"permissions-policy", b"camera=(self)")
    names = {name for name, _ in own}
    others = tuple(pair for pair in CAREFUL if pair[0] not in names)
    assert response(*own, rules=default).headers == (*own, *others, FRAMES)
    denied = dict(CAREFUL)[b"permissions-policy"]
    assert b"camera=()" in denied and b"publickey-credentials-get=()" in denied and b"storage-access=()" in denied


@pytest.mark.parametrize(
    "content_types",
    [[b"text/html"], [b"application/xhtml+xml"], [b"image/svg+xml"], [b"x"], [b""], [b"text/xml"], []]
    + [[b"text/plain, text/html"], [b"text/plain", b"text/html"]],
)
def test_r11_whatever_may_run_as_a_page_gets_them(content_types: list[bytes]) -> None:
    default = rules(EMBEDDER, added_headers=ADDED_HEADERS)
    kinds = tuple((b"content-type", content_type) for content_type in content_types)
    assert response(*kinds, rules=default).headers == (*kinds, *CAREFUL, FRAMES)


@pytest.mark.parametrize(
    "content_type", [b"text/javascript", b"Text/CSS; charset=utf-8", b"image/png", b"application/json"]
)
def test_r11_what_cannot_be_one_is_left_alone(content_type: bytes) -> None:
    default = rules(EMBEDDER, added_headers=ADDED_HEADERS)
    kind = (b"content-type", content_type)
    assert response(kind, rules=default).headers == (kind, FRAMES)


def test_r11_a_field_that_never_passes_is_not_taken_for_sent() -> None:
    default = rules(EMBEDDER, added_headers=ADDED_HEADERS)
    assert response((b"origin-agent-cluster", b"?0"), rules=default).headers == (*CAREFUL, FRAMES)


def test_r11_below_the_customers_own_domain_no_page_may_ask_for_passkeys() -> None:
    policy = Policy(added_headers={}, embedders=(EMBEDDER,))
    same_site = compile_rules(policy, cookies=[], headers=[], embedders=[], same_site=True)
    denied = (b"permissions-policy", b"publickey-credentials-get=(), publickey-credentials-create=()")
    # RFC 9651 §4.2: a line that does not parse, beside ours, would void both
    for own in (b"publickey-credentials-get=(self)", b"(((", b"A=1", b""):
        assert response((b"permissions-policy", own), rules=same_site).headers == (denied, FRAMES)


def test_r11_what_the_operator_says_of_other_features_stands_before_that() -> None:
    policy = Policy(added_headers={"Permissions-Policy": "camera=(self)"})
    same_site = compile_rules(policy, cookies=[], headers=[], embedders=[], same_site=True)
    value = dict(response(rules=same_site).headers)[b"permissions-policy"]
    assert value == b"camera=(self), publickey-credentials-get=(), publickey-credentials-create=()"


@pytest.mark.parametrize(
    "sent",
    [
        ((b"connection", b"content-type"), (b"content-type", b"text/plain")),
        ((b"content-type", b"text/plain; x=s3cr3ts3cr3t"),),
        ((b"connection", b"permissions-policy, x-content-type-options"), *CAREFUL),
    ],
    ids=["nominated type", "type with the credential", "nominated careful fields"],
)
def test_r11_what_does_not_go_out_was_not_sent(sent: tuple[tuple[bytes, bytes], ...]) -> None:
    credentials = ((b"x-token", Secret("s3cr3ts3cr3t")),)
    route = Route(Preview("m1", 3000), PUBLIC, Endpoint(Origin("https", "up.dev", 443), credentials=credentials))
    default = rules(EMBEDDER, added_headers=ADDED_HEADERS)
    reply = plan_response("GET", 200, sent, route, default)
    assert sorted(reply.headers) == sorted((*CAREFUL, FRAMES))
