"""Targets for the parsers of one value: of a header field, a query, a host, a key set, an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from preview_proxy.core.models import Origin, Preview
from preview_proxy.sessions import Session
from preview_proxy.tickets import MemoryTicketStore, Tickets
from tests import test_hosts, test_jwks
from tests.core import test_cookies, test_models, test_plan_response, test_snapshot, test_urls, test_urls_in_fields
from tests.providers import test_nullspace_errors


def property_of(test: Any) -> Callable[..., None]:
    """What a Hypothesis test asserts, to be called with arguments from elsewhere."""
    assertion: Callable[..., None] = test.hypothesis.inner_test
    return assertion


def choice(options: list[Any], data: bytes) -> tuple[Any, bytes]:
    """One of `options` by the first byte, and the bytes after it."""
    return options[(data[0] if data else 0) % len(options)], data[1:]


def without_controls(data: bytes) -> bytes:
    """As a header value gets to its parser (RFC 9110 §5.5)."""
    return data.translate(None, bytes(byte for byte in (*range(0x20), 0x7F) if byte != 0x09))


_no_reserved_name = property_of(test_cookies.test_h07_no_reserved_name_survives_in_any_parser)
_set_cookie = property_of(test_cookies.test_r07_no_set_cookie_names_a_domain_or_a_reserved_cookie)
_query = property_of(test_urls.test_h17_no_reserved_parameter_survives_in_any_reading)
_query_order = property_of(test_urls.test_h17_what_survives_is_in_order_and_byte_for_byte)
_path = property_of(test_urls.test_p05_no_reading_of_a_path_leads_out_of_a_base_path)
_url = property_of(test_urls.test_r05_nothing_is_raised_and_the_result_is_stable)
_link = property_of(test_urls_in_fields.test_r05_no_link_target_leads_to_the_upstream)
_refresh = property_of(test_urls_in_fields.test_r05_no_refresh_leads_to_the_upstream)
_policy = property_of(test_plan_response.test_r10_no_policy_of_the_sandbox_says_who_may_frame_it)
_authority = property_of(test_snapshot.test_p01_an_authority_is_always_a_host_and_a_port)
_host = property_of(test_hosts.test_p02_any_bytes_are_a_preview_outside_the_zone_or_refused)
_origin = property_of(test_models.test_nothing_but_an_ascii_origin_is_ever_read_as_one)
_key_set = property_of(test_jwks.test_a05_whatever_an_issuer_says_only_public_keys_of_the_algorithms_count)
_edge_error = property_of(test_nullspace_errors.test_any_answer_is_an_error_that_repeats_no_more_than_a_code)


def cookies(data: bytes) -> None:
    """`Cookie` fields, one a line."""
    _no_reserved_name(data.split(b"\n"))


def set_cookie(data: bytes) -> None:
    """Two flags in the first byte, then a `Set-Cookie` value."""
    flags, value = choice([(True, True), (True, False), (False, True), (False, False)], data)
    _set_cookie(value, *flags)


def query(data: bytes) -> None:
    _query(data)
    _query_order(data)


def path(data: bytes) -> None:
    _path(data)


def url(data: bytes) -> None:
    _url(without_controls(data), "")


def link(data: bytes) -> None:
    _link(without_controls(data))


def refresh(data: bytes) -> None:
    seconds, separator, rest = without_controls(data).partition(b";")
    _refresh(seconds, separator, rest)


def policy(data: bytes) -> None:
    """A `Content-Security-Policy` value."""
    _policy(without_controls(data))


def authority(data: bytes) -> None:
    """A `Host` value, and the preview that it names."""
    scheme, value = choice(["http", "https", "ws", "wss"], data)
    _authority(value, scheme)
    _host(test_hosts.PATTERN, value, b"")
    _host(test_hosts.PATTERN, value, b".previews.dev")


def origin(data: bytes) -> None:
    _origin(data.decode("utf-8", "surrogateescape"))


def key_set(data: bytes) -> None:
    _key_set(data)


def edge_error(data: bytes) -> None:
    status, rest = choice([401, 403, 404, 429, 502, 503], data)
    wait, _, content = rest.partition(b"\n")
    _edge_error(status, wait, content)


_ORIGIN, _PREVIEW = Origin("https", "3000-m1.previews.dev", 443), Preview("m1", 3000)
_TICKETS = Tickets("a secret of at least 32 random bytes", ["https://app.acme.com"], store=MemoryTicketStore())
_SESSION = Session("ann", "login-1")
_GATE = _TICKETS.gate(origin=_ORIGIN, preview=_PREVIEW, session=_SESSION)[0].encode()
_TICKET = _TICKETS.issue(origin=_ORIGIN, preview=_PREVIEW, session=_SESSION).encode()


def gate(data: bytes) -> None:
    """A gate cookie's value: as it is, or written over a gate or a ticket at a place of its choice."""
    base, rest = choice([b"", _GATE, _TICKET], data)
    place, patch = choice(list(range(256)), rest)
    value = base[: 2 * place] + patch + base[2 * place + len(patch) :]
    session = _TICKETS.read_gate(value, origin=_ORIGIN, preview=_PREVIEW)
    # Base64 has several spellings, also of the signature, but what is signed has one.
    assert session is None or value.rpartition(b".")[0] == _GATE.rpartition(b".")[0]
