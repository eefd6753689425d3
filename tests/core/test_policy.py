from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from preview_proxy.core.policy import Limits, Policy


def test_p18_every_default_is_finite_but_the_body() -> None:
    unlimited = [field.name for field in fields(Limits) if getattr(Limits(), field.name) is None]
    assert unlimited == ["body_bytes"]


KIB, MIB = 1024, 1024 * 1024


def test_v01_the_defaults_are_a_promise() -> None:
    assert {field.name: getattr(Limits(), field.name) for field in fields(Limits)}.items() >= {
        ("header_count", 100),
        ("header_bytes", 32 * KIB),
        ("path_bytes", 8 * KIB),
        ("query_bytes", 16 * KIB),
        ("body_bytes", None),
        ("response_header_count", 128),
        ("response_header_bytes", 64 * KIB),
        ("message_bytes", 4 * MIB),
        ("requests_per_subject", 1000),
        ("requests_per_preview", 500),
        ("requests", 4000),
        ("sockets_per_subject", 250),
        ("sockets_per_preview", 500),
        ("sockets", 8000),
        ("handshakes_per_minute", 600),
        ("connections", 500),
        ("pool_timeout", 2),
        ("connect_timeout", 5),
        ("head_timeout", 60),
        ("idle_timeout", 120),
        ("write_timeout", 30),
        ("check_timeout", 2),
        ("provider_timeout", 15),
        ("decision_ttl", 5),
        ("recheck_interval", 30),
        ("drain_timeout", 10),
    }


def test_r11_what_a_page_gets_is_a_promise() -> None:
    denied = [
        "camera=(), microphone=(), geolocation=(), payment=(), usb=(), serial=(), hid=(), midi=(), display-capture=()",
        "publickey-credentials-get=(), publickey-credentials-create=(), identity-credentials-get=()",
        "otp-credentials=(), storage-access=()",
    ]
    assert Policy().added_headers == {
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "strict-origin-when-cross-origin",
        "Cross-Origin-Opener-Policy": "same-origin-allow-popups",
        "Origin-Agent-Cluster": "?1",
        "X-Robots-Tag": "noindex",
        "Permissions-Policy": ", ".join(denied),
    }


@pytest.mark.parametrize("name", [field.name for field in fields(Limits)])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_v01_a_limit_that_would_refuse_everything_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"Limits.{name} must be greater than 0"):
        Limits(**{name: value})


@pytest.mark.parametrize("value", [1, 0.001, 10**12])
def test_any_positive_limit_is_taken(value: Any) -> None:
    assert Limits(idle_timeout=value, body_bytes=1).idle_timeout == value


def test_v02_by_default_nobody_waits_for_a_connection_and_no_preview_fills_the_process() -> None:
    limits = Limits()
    assert limits.requests_per_preview <= limits.connections
    assert limits.requests_per_preview < limits.requests_per_subject < limits.requests / 2
    assert limits.sockets_per_preview < limits.sockets / 2


def test_a07_a_yes_stands_for_30_seconds_at_most() -> None:
    assert Limits(decision_ttl=30).decision_ttl == 30
    with pytest.raises(ValueError, match="decision_ttl must be at most 30 seconds"):
        Limits(decision_ttl=30.1)


def test_e13_embedders_are_origins() -> None:
    assert Policy(embedders=("https://app.acme.com", "http://localhost:3000")).embedders
    for embedder in ("*", "app.acme.com", "https://app.acme.com/", "https://*.acme.com"):
        with pytest.raises(ValueError, match="is not an origin"):
            Policy(embedders=(embedder,))


@pytest.mark.parametrize("name", ["x-forwarded-for", "cookie", "x_mine", "", "a b", "x-oc-token", "caf\xe9", "\u0130"])
def test_h02_a_name_that_must_not_pass_cannot_be_listed(name: str) -> None:
    assert Policy(request_headers="allow-list", allowed_headers=("X-Mine", "authorization"))
    with pytest.raises(ValueError, match="allowed_headers cannot"):
        Policy(request_headers="allow-list", allowed_headers=(name,))


def test_h02_a_list_is_for_the_allow_list_alone() -> None:
    with pytest.raises(ValueError, match="every name passes"):
        Policy(allowed_headers=("x-mine",))
    with pytest.raises(ValueError, match="must be 'pass' or 'allow-list'"):
        Policy(request_headers="strict")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [("content-length", "1"), ("Set-Cookie", "a=1"), ("x-frame-options", "DENY"), ("connection", "x"), ("a b", "1")]
    + [("content-security-policy", "sandbox"), ("", "1"), ("\u20ac", "1"), ("x-a", "1\r\nx-b: 2"), ("x-a", "caf\xe9")],
)
def test_r11_a_field_that_is_decided_elsewhere_cannot_be_added(name: str, value: str) -> None:
    assert Policy(added_headers={"X-Own": "1"})
    with pytest.raises(ValueError, match="added_headers cannot"):
        Policy(added_headers={name: value})


def test_a_policy_can_be_left_out() -> None:
    assert Policy() == Policy(private_headers=(), private_cookies=(), embedders=(), limits=Limits())
    assert not Policy().send_user and not Policy().private_upstreams
