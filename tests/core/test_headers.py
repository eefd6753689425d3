from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preview_proxy.core.cookies import is_token
from preview_proxy.core.headers import (
    HANDSHAKE_PREFIX,
    USUAL_REQUEST,
    USUAL_RESPONSE,
    check_controls,
    nominated,
    request_filter,
    response_name_passes,
)
from preview_proxy.core.models import Rejected

PASSES = request_filter([])


def spellings(name: str) -> list[bytes]:
    return [name.encode(), name.upper().encode(), name.title().encode()]


# H-03, name by name: the table of the requirement, not that of the code
NEVER_SENT_UPSTREAM = """
connection keep-alive proxy-authorization proxy-connection proxy-anything te trailer transfer-encoding upgrade
http2-settings host content-length expect via forwarded x-forwarded-for x-forwarded-host x-forwarded-proto
x-forwarded-prefix x-forwarded-user x-forwarded-uri x-forwarded-client-cert x-real-ip x-original-url
x-original-host x-rewrite-url true-client-ip cf-connecting-ip cf-ray cf-access-jwt-assertion
cf-access-client-secret x-envoy-original-path x-envoy-external-address x-amzn-trace-id x-amzn-oidc-data
x-amzn-oidc-accesstoken x-middleware-subrequest x-http-method-override x-nullspace-preview-proxy-token
x-nullspace-anything x-blaxel-preview-token x-bl-anything x-oc-preview-token x-daytona-preview-token
x-daytona-skip-preview-warning e2b-traffic-access-token x-goog-iap-jwt-assertion
x-goog-authenticated-user-email x-ms-client-principal x-ms-client-principal-id x-auth-request-user
x-auth-request-access-token x-pomerium-claim-email x-pomerium-jwt-assertion x-client-cert x-client-cert-dn
ssl-client-verify ssl-client-s-dn remote-user tailscale-user-login x-preview-proxy-error x-client-ip
x-preview-user x.preview.user
"""


@pytest.mark.parametrize("name", NEVER_SENT_UPSTREAM.split())
def test_h03_a_reserved_request_header_never_passes(name: str) -> None:
    for spelling in spellings(name):
        assert not PASSES(spelling)


@pytest.mark.parametrize("name", ["cookie", "referer"])
def test_h03_what_is_written_anew_is_not_copied(name: str) -> None:
    assert not PASSES(name.encode())


@pytest.mark.parametrize(
    "name",
    [b"accept", b"accept-encoding", b"accept-language", b"authorization", b"cache-control", b"content-type", b"dnt"]
    + [b"if-none-match", b"last-event-id", b"next-action", b"next-router-state-tree", b"origin", b"pragma", b"priority"]
    + [b"range", b"rsc", b"sec-ch-ua", b"sec-fetch-dest", b"sec-gpc", b"sec-websocket-key", b"user-agent"]
    + [b"x-csrf-token", b"x-requested-with", b"x-my-app", b"traceparent", b"cdn-loop", b"proxied", b"hosts", b"x.dot"],
)
def test_h02_what_a_browser_sends_to_an_app_passes(name: bytes) -> None:
    assert PASSES(name)


# H-02, name by name
ALLOWED = """
accept accept-language accept-encoding content-type range if-none-match if-modified-since if-range if-match user-agent
cache-control pragma origin sec-fetch-dest sec-fetch-mode sec-ch-ua sec-ch-ua-platform priority last-event-id dnt
sec-gpc rsc next-action next-router-state-tree x-requested-with x-csrf-token
"""


@pytest.mark.parametrize("name", ALLOWED.split())
def test_h02_an_allow_list_lets_pass_what_a_browser_sends(name: str) -> None:
    assert request_filter([], allowed=[])(name.encode())


@given(st.from_regex(r"[a-z-]{1,20}", fullmatch=True))
def test_h02_an_allow_list_lets_nothing_else_pass(name: str) -> None:
    passes = request_filter([], allowed=["X-Mine"])
    assert passes(b"x-mine")
    listed = name in (*ALLOWED.split(), "x-mine") or name.startswith(("if-", "sec-fetch-", "sec-ch-ua", "next-"))
    assert passes(name.encode()) is listed


@pytest.mark.parametrize("name", ["x-forwarded-for", "cookie", "x-nullspace-anything", "connection", "x-mine", "if_a"])
def test_h03_an_allow_list_lets_no_reserved_or_private_name_pass(name: str) -> None:
    assert not request_filter(["x-mine"], allowed=[name])(name.encode())


@pytest.mark.parametrize(
    "name",
    [b"X_Nullspace_Preview_Proxy_Token", b"x-nullspace_preview-proxy-token", b"X.Forwarded.Host", b"x_forwarded_for"]
    + [b"X-Forwarded_Host", b"Transfer.Encoding", b"x_my_app", b"_", b"a_", b"", b" ", b"a b", b"x-a ", b"x\tb", b"a:b"]
    + [b"host\x00", b"x-\xe9", b"x-\r", b"(a)", b"a,b", b'"a"', b"remote.user", b"cf.ray"],
    ids=repr,
)
def test_h04_a_name_that_some_server_reads_as_another_never_passes(name: bytes) -> None:
    assert not PASSES(name)


@given(st.binary(max_size=20))
def test_h04_no_name_with_an_underscore_or_without_being_a_token_passes(name: bytes) -> None:
    if PASSES(name):
        assert b"_" not in name
        assert is_token(name)
        assert not PASSES(name.replace(b"-", b"_", 1)) or b"-" not in name


@pytest.mark.parametrize(
    "private", ["X-Acme-User", "x-acme-user", "X_Acme_User", "x.acme.user", "x-acme-*", "X_ACME_*"]
)
@pytest.mark.parametrize("name", [b"x-acme-user", b"X-Acme-User", b"x.acme.user", b"X_Acme_User"])
def test_h04_a_private_name_is_kept_back_however_it_is_written(private: str, name: bytes) -> None:
    passes = request_filter([private])
    assert not passes(name)
    assert passes(b"x-acm") and passes(b"x-acme")
    assert passes(b"x-acme-users") is ("*" not in private)


def test_a_private_name_ends_where_it_ends() -> None:
    passes = request_filter(["authorization", "x-team*"])
    assert not passes(b"authorization")
    assert passes(b"authorization-extra")
    assert not passes(b"x-team")
    assert not passes(b"x-team-id")
    assert not request_filter(["*"])(b"accept")


def test_a_private_name_that_no_header_can_have_is_refused() -> None:
    with pytest.raises(ValueError, match="latin-1"):
        request_filter(["x-\u20ac"])


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([], set()),
        ([b"close"], {b"close"}),
        ([b"keep-alive, Upgrade"], {b"keep-alive", b"upgrade"}),
        ([b"", b"X-Foo"], {b"", b"x-foo"}),
        ([b"X-Foo ,\tcookie", b"te"], {b"x-foo", b"cookie", b"te"}),
        ([b",,"], {b""}),
        ([b"\x0bX-Foo"], {b"\x0bx-foo"}),
    ],
    ids=lambda value: repr(sorted(value)),
)
def test_h05_every_connection_field_nominates(values: list[bytes], names: set[bytes]) -> None:
    headers = ((b"accept", b"x"), *((b"connection", value) for value in values))
    assert nominated(headers) == names


# R-02, name by name
NEVER_SENT_DOWNSTREAM = """
alt-svc strict-transport-security clear-site-data service-worker-allowed service-worker-navigation-preload
public-key-pins public-key-pins-report-only expect-ct report-to reporting-endpoints nel
content-security-policy-report-only activate-storage-access origin-agent-cluster sec-session-registration
secure-session-registration set-login accept-ch critical-ch proxy-authenticate surrogate-control surrogate-key
cdn-cache-control cloudflare-cdn-cache-control vercel-cdn-cache-control x-accel-redirect x-accel-buffering
x-accel-anything x-sendfile x-nullspace-anything x-blaxel-preview-token x-bl-anything x-oc-anything
x-daytona-anything e2b-anything connection keep-alive proxy-connection te trailer transfer-encoding upgrade
x-frame-options date server x-preview-proxy-error
"""


@pytest.mark.parametrize("name", NEVER_SENT_DOWNSTREAM.split())
def test_r02_a_fact_about_the_public_host_is_not_the_sandbox_s_to_state(name: str) -> None:
    assert not response_name_passes(name.encode())


@pytest.mark.parametrize(
    "name",
    [b"content-type", b"content-encoding", b"content-length", b"cache-control", b"etag", b"last-modified", b"location"]
    + [b"set-cookie", b"vary", b"link", b"www-authenticate", b"x-powered-by", b"access-control-allow-origin"]
    + [b"content-security-policy", b"x-nextjs-cache", b"retry-after", b"accept-ranges", b"server-timing", b"trailers"],
)
def test_what_an_app_tells_a_browser_passes(name: bytes) -> None:
    assert response_name_passes(name)


@pytest.mark.parametrize("byte", [*range(0x20), 0x7F])
def test_p20_a_control_character_in_a_value_is_refused(byte: int) -> None:
    values = b"fine" + b"x%cy" % byte + b"fine"
    if byte == 0x09:
        return check_controls(values, "bad_header")
    with pytest.raises(Rejected) as caught:
        check_controls(values, "bad_header")
    assert caught.value.code == "bad_header"


def test_p20_every_other_byte_is_fine() -> None:
    check_controls(bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)]), "bad_header")


def test_w04_what_speaks_of_the_other_handshake_begins_alike() -> None:
    assert HANDSHAKE_PREFIX == b"sec-websocket-"


def test_no_rule_has_a_word_in_what_takes_the_short_way() -> None:
    assert all(map(PASSES, USUAL_REQUEST))
    assert all(map(response_name_passes, USUAL_RESPONSE))
    assert not USUAL_REQUEST & {b"cookie", b"referer"}
