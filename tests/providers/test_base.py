from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preview_proxy.core.models import Endpoint, Origin
from preview_proxy.core.secret import Secret
from preview_proxy.providers.base import endpoint_from_url

CANARY = "canary-0123456789"
DOMAINS = ("nullspace.dev",)
MARKER = b"__ns_preview_transport=header"


@pytest.mark.parametrize(
    ("url", "origin", "base_path", "marker"),
    [
        ("https://a.nullspace.dev", "https://a.nullspace.dev", b"", b""),
        ("https://a.nullspace.dev/", "https://a.nullspace.dev", b"", b""),
        ("https://a.nullspace.dev:443/", "https://a.nullspace.dev", b"", b""),
        ("HTTPS://3000-MCH_a.Nullspace.Dev/Base/", "https://3000-mch_a.nullspace.dev", b"/Base", b""),
        ("wss://a.nullspace.dev/?__ns_preview_transport=header", "https://a.nullspace.dev", b"", MARKER),
        ("https://nullspace.dev/p/%20;x=1/3000?a=1&b", "https://nullspace.dev", b"/p/%20;x=1/3000", b"a=1&b"),
        ("https://a.nullspace.dev?", "https://a.nullspace.dev", b"", b""),
    ],
)
def test_a_url_becomes_origin_base_path_and_marker(url: str, origin: str, base_path: bytes, marker: bytes) -> None:
    endpoint = endpoint_from_url(url, domains=DOMAINS)
    assert endpoint == Endpoint(Origin.parse(origin), base_path, marker)


def test_h15_credentials_are_bound_to_the_endpoint() -> None:
    endpoint = endpoint_from_url("https://a.nullspace.dev", [(b"x-token", Secret(CANARY))])
    assert endpoint.credentials == ((b"x-token", Secret(CANARY)),)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.nullspace.dev",
        "//a.nullspace.dev/",
        "ftp://a.nullspace.dev/",
        "https:///a.nullspace.dev",
        "https://",
        "https://a.nullspace.dev:/",
        "https://a.nullspace.dev:0/",
        "https://a.nullspace.dev:99999/",
        "https://a.nullspace.dev:443x/",
        "https://user@a.nullspace.dev/",
        "https://user:pass@a.nullspace.dev/",
        "https://evil.example\\@a.nullspace.dev/",
        "https://evil.example\\.a.nullspace.dev/",
        "https://a.nullspace.dev#x",
        "https://a.nullspace.dev/#",
        "https://a..nullspace.dev/",
        "https://-a.nullspace.dev/",
        "https://a.nullspace.dev./",
        "https://ä.nullspace.dev/",
        "https://a\u212a.nullspace.dev/",
        "https://%61.nullspace.dev/",
        "https://[::1]/",
        " https://a.nullspace.dev/",
        "https://a.nullspace.dev/\n",
        "https://a.nullspace.dev/a b",
        "https://a.nullspace.dev//b",
        "https://a.nullspace.dev/a//",
        "https://a.nullspace.dev/..",
        "https://a.nullspace.dev/./b",
        "https://a.nullspace.dev/a/%2E%2e/b",
        "https://a.nullspace.dev/a\\b",
        "https://a.nullspace.dev/?a#b",
        "https://a.nullspace.dev/?a b",
    ],
)
def test_p09_what_is_not_a_plain_absolute_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^the URL must"):
        endpoint_from_url(url, domains=DOMAINS)


@pytest.mark.parametrize(
    "host",
    ["nullspace.dev.evil.example", "evilnullspace.dev", "nullspace.example", "dev", "127.0.0.1", "0x7f.1", "localhost"],
)
def test_p09_only_hosts_under_the_domains_are_taken(host: str) -> None:
    with pytest.raises(ValueError, match="must"):
        endpoint_from_url(f"https://{host}/", domains=DOMAINS)


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.5", "0x7f.1", "0177.0.0.1", "2130706433", "a.0x"])
def test_p09_an_ip_address_in_any_spelling_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="DNS name"):
        endpoint_from_url(f"https://{host}/")


def test_p09_an_operator_may_choose_the_port_and_an_answer_may_not() -> None:
    assert endpoint_from_url("https://a.nullspace.dev:8443").origin.port == 8443
    with pytest.raises(ValueError, match="port 443"):
        endpoint_from_url("https://a.nullspace.dev:8443", domains=DOMAINS)


@pytest.mark.parametrize("url", ["http://a.nullspace.dev", "ws://a.nullspace.dev", "http://localhost:3000"])
def test_h16_plain_http_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="https"):
        endpoint_from_url(url)


def test_h16_plain_http_to_another_computer_is_refused_in_development_too() -> None:
    with pytest.raises(ValueError, match="https"):
        endpoint_from_url("http://a.nullspace.dev", allow_insecure_loopback=True)


@pytest.mark.parametrize("host", ["localhost", "3000-mch_1.nullspace.localhost", "127.0.0.1"])
@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_loopback_may_be_plain_http_at_any_port_in_development(scheme: str, host: str) -> None:
    endpoint = endpoint_from_url(f"{scheme}://{host}:5173/", allow_insecure_loopback=True)
    assert endpoint.origin == Origin("http", host, 5173)


def test_p09_loopback_has_to_be_under_the_domains_too() -> None:
    with pytest.raises(ValueError, match=r"under one of: nullspace\.localhost"):
        endpoint_from_url("http://localhost:80/", domains=("nullspace.localhost",), allow_insecure_loopback=True)


@pytest.mark.parametrize(
    "query",
    [
        f"edge_token={CANARY}",
        f"__ns_preview_transport=header&Edge%5FToken={CANARY}",
        f"a;bl_preview_token={CANARY}",
        "__ns_preview_transport=query",
        f"x={CANARY}",
    ],
)
def test_h14_a_query_that_carries_a_credential_is_refused_and_not_told(query: str) -> None:
    with pytest.raises(ValueError, match="must not carry a credential") as caught:
        endpoint_from_url(f"https://a.nullspace.dev/?{query}", [(b"x-token", Secret(CANARY))], domains=DOMAINS)
    assert CANARY not in str(caught.value)


@given(st.text(alphabet="htps:/wev.@#?%\\[]0123456789nulspacd-_ \n", max_size=60))
def test_p09_whatever_is_taken_points_under_the_domains_at_443(rest: str) -> None:
    try:
        endpoint = endpoint_from_url("https://" + rest, domains=DOMAINS)
    except ValueError:
        return
    assert endpoint.origin.port == 443
    assert f".{endpoint.origin.host}".endswith(".nullspace.dev")


def test_instructions_for_the_edge_come_along() -> None:
    fields = ((b"x-edge-cors", b"off"),)
    assert endpoint_from_url("https://up.example", instructions=fields).instructions == fields
