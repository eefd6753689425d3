from __future__ import annotations

import re
from http.cookies import CookieError, SimpleCookie
from itertools import product

import pytest
from django.http.cookie import parse_cookie
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.requests import cookie_parser

from preview_proxy.core.cookies import (
    DEVELOPMENT_GATE_COOKIE,
    GATE_COOKIE,
    MAX_ATTRIBUTE,
    MAX_PAIR,
    MAX_SET_COOKIES,
    TOKEN,
    ReservedCookies,
    _pairs,
    _passes,
    cookie_values,
    filter_cookies,
    is_token,
    rewrite_set_cookie,
)

RESERVED = ReservedCookies.of(["session", "__Host-Sid"])


def read_by_starlette(text: str) -> list[str]:
    return list(cookie_parser(text))


def read_by_standard_library(text: str) -> list[str]:
    try:
        return list(SimpleCookie(text))
    except CookieError:
        return []


def read_by_django(text: str) -> list[str]:
    return list(parse_cookie(text))


def read_by_go(text: str) -> list[str]:
    """net/http readCookies, less its checks of values, which only drop more"""
    names = (part.strip(" \t").partition("=")[0].strip(" \t") for part in text.split(";"))
    return [name for name in names if is_token(name.encode("latin-1"))]


def read_by_node(text: str) -> list[str]:
    """npm's cookie: the key runs from the last ";" to the "="; JavaScript's trim() takes off what str.strip() does"""
    return [part.partition("=")[0].strip() for part in text.split(";") if "=" in part]


PARSERS = [read_by_starlette, read_by_standard_library, read_by_django, read_by_go, read_by_node]

# What a hostile page would build a cookie from
fragments = st.sampled_from(
    [b"session", b"SESSION", b"__Host-Http-pp", b"__host-http-PP2", b"pp-development", b"__Host-sid", b"__ns_x"]
    + [b"a", b"b=1", b"=", b"=", b";", b"; ", b" ", b"\t", b'"', b"\\", b"\\145", b",", b"$Path", b"%5f", b"Domain"]
    + [b"\xa0", b"\x85", b"\x1c", b"\x1f", b"\x0b", b"\x0c", b"\xad", b"[", b"]", b"Mon, 01-Jan-2026 00:00:00 GMT"]
)
hostile = st.lists(fragments, max_size=12).map(b"".join) | st.binary(max_size=40)


@pytest.mark.parametrize(
    "name", [GATE_COOKIE, GATE_COOKIE.upper(), GATE_COOKIE + "2", DEVELOPMENT_GATE_COOKIE, "session", "Session"]
)
@pytest.mark.parametrize(
    "form", ["{0}=SECRET", "{0}=SECRET; a=1", "a=1; {0}=SECRET", "a=1; {0}=SECRET; b=2", "a=1;{0}=SECRET;{0}=SECRET"]
)
def test_h06_a_reserved_cookie_is_stripped_wherever_it_stands(name: str, form: str) -> None:
    kept = filter_cookies([form.format(name).encode()], RESERVED)
    assert b"SECRET" not in kept
    assert kept == b"; ".join(pair for pair in (b"a=1", b"b=2") if pair in form.encode())


def test_h06_several_cookie_fields_become_one() -> None:
    assert filter_cookies([b"a=1", b"session=SECRET; b=2", b"c=3"], RESERVED) == b"a=1; b=2; c=3"
    assert filter_cookies([], RESERVED) == b""
    assert filter_cookies([b"session=SECRET"], RESERVED) == b""


@pytest.mark.parametrize(
    "pair",
    [
        b"a=1",
        b"a=",
        b'a="x y"',
        b"a=b=c",
        b"a=\xe9",
        b"a=x,y",
        b"sessions=1",
        b"xsession=1",
        b"__Host-x=1",
        b"a=my session",
        b"a=1\x0b",
        b"Xa=1X",
    ]
    + [b"a=%3B session%3D", b"__Secure-next-auth.session-token=x", b"a=b c=d", b"A=1"],
    ids=repr,
)
def test_h07_any_other_cookie_passes_byte_for_byte(pair: bytes) -> None:
    assert filter_cookies([pair], RESERVED) == pair


@pytest.mark.parametrize(
    "pair",
    [b"=SECRET", b"SECRET", b"session", b"session =SECRET", b" session\t= SECRET", b"\xa0session=SECRET"]
    + [b"\x85__Host-Http-pp=SECRET", b"session\xa0=SECRET", b"\x1csession=SECRET", b"a b=SECRET", b'"session"=SECRET']
    + [b"s\xe9ssion=SECRET", b"a,b=SECRET", b"__ns_continue=SECRET", b"__NS-x=SECRET", b"nullspace_x=SECRET"]
    + [b"Nullspace-x=SECRET", b"daytona-sandbox-auth-m1=SECRET", b"bl_preview_token=SECRET"]
    + [b"\x0ba=SECRET", b"a=b session==SECRET"]
    + [b"a=b session=SECRET", b"a=b\tsession = SECRET", b'a="b" session=SECRET', b"a=b c=d SESSION =SECRET"],
    ids=repr,
)
def test_h07_a_name_that_some_parser_reads_as_reserved_is_dropped(pair: bytes) -> None:
    assert filter_cookies([b"a=1; " + pair + b"; b=2"], RESERVED) == b"a=1; b=2"


def test_h07_a_quoted_value_cannot_swallow_the_session() -> None:
    assert filter_cookies([b'a="x; session=SECRET; b=y"'], RESERVED) == b'a="x; b=y"'


@given(st.lists(hostile, max_size=3))
@example([b"a=b session=x"])
@example([b"\xa0session=x"])
def test_h07_no_reserved_name_survives_in_any_parser(values: list[bytes]) -> None:
    text = filter_cookies(values, RESERVED).decode("latin-1")
    for parser in PARSERS:
        for name in parser(text):
            assert name.strip().casefold().encode("latin-1", "replace") not in RESERVED, parser.__name__


names = st.from_regex(rb"[a-zA-Z0-9.!#-]{1,8}", fullmatch=True).filter(lambda name: name not in RESERVED)
pairs = st.builds(
    lambda name, value: name + b"=" + value, names, st.from_regex(rb"[\x21-\x3a\x3c-\xff]*", fullmatch=True)
)


@given(st.lists(pairs, max_size=6))
def test_h07_survivors_keep_their_bytes_and_order(kept: list[bytes]) -> None:
    assert filter_cookies([b"; ".join(kept)], RESERVED) == b"; ".join(kept)
    assert filter_cookies([b"session=x;" + b"; session=x; ".join(kept)], RESERVED) == b"; ".join(kept)


@pytest.mark.parametrize(
    ("fields", "values"),
    [
        ([], []),
        ([b"gate=1"], [b"1"]),
        ([b"a=0; gate=1"], [b"1"]),
        ([b"gate=1; gate=2", b"gate=3"], [b"1", b"2", b"3"]),
        ([b" gate\t=\t1 "], [b"1"]),
        ([b"gate="], [b""]),
        ([b"gate=a=b"], [b"a=b"]),
        ([b'gate="\\145vil"'], [b'"\\145vil"']),
        ([b"gate=%41"], [b"%41"]),
        ([b"gate=X1\x0b"], [b"X1\x0b"]),
        ([b"Gate=1; gates=2; xgate=3; gate; =gate"], []),
        ([b"\xa0gate=1; gate\xa0=2; \x85gate=3; \x1cgate=4"], []),
        ([b"a=b gate=1"], []),
    ],
    ids=repr,
)
def test_h08_our_own_cookie_is_read_by_its_exact_name_and_bytes(fields: list[bytes], values: list[bytes]) -> None:
    headers = ((b"host", b"gate=0"), *((b"cookie", field) for field in fields))
    assert cookie_values(headers, "gate") == values


def rewrite(value: bytes, *, embedded: bool = False, secure: bool = True) -> bytes | None:
    return rewrite_set_cookie(value, RESERVED, embedded=embedded, secure=secure)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"a",
        b"=a",
        b" =a",
        b"a b=1",
        b"\x0ba=1",
        b"\xa0a=1",
        b"\x85__Host-x=1",
        b"\xc3\xa9=1",
        b"a\0=1",
        b"a,b=1",
        b'"a"=1',
    ]
    + [b"session=1", b"SESSION=1", b" session =1; Domain=acme.com", b"__Host-Http-pp=1; Secure; Path=/"]
    + [b"__host-http-pp-2=1; Secure; Path=/", b"pp-development=1", b"__Host-sid=1; Secure; Path=/"]
    + [b"__ns_continue=1", b"nullspace-x=1", b"daytona-sandbox-auth-m=1"]
    + [b"a=" + b"x" * (MAX_PAIR - 1)],
    ids=lambda value: repr(value[:40]),
)
def test_r07_a_cookie_that_is_not_the_sandbox_s_to_set_is_dropped(value: bytes) -> None:
    assert rewrite(value) is None
    assert rewrite(value + b"; Secure; Path=/", embedded=True) is None


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (b"a=1", b"a=1"),
        (b" a =1 ", b"a =1"),
        (b"Xsession=1X\x0b; Path=/X", b"Xsession=1X\x0b; Path=/X"),
        (b"a=1; \x0bPath=/; Path=/x\x0b; XDomain=Y", b"a=1; Path=/x\x0b; XDomain=Y"),
        (b"a=1; Domain=acme.com", b"a=1"),
        (b"a=1;domain = .acme.com ;Path=/x", b"a=1; Path=/x"),
        (b"a=1; Domain", b"a=1"),
        (b"a=1; DOMAIN=a; Domain=b", b"a=1"),
        (b"a=1; \xa0Domain=acme.com", b"a=1"),
        (b"a=1; Path=/x; Path=/y", b"a=1; Path=/y"),
        (b"a=1; path=/x; HttpOnly; PATH=/y", b"a=1; HttpOnly; PATH=/y"),
        (b"a=1; Path=/" + b"x" * MAX_ATTRIBUTE, b"a=1"),
        (b"a=1; Path=/y; Path=/" + b"x" * MAX_ATTRIBUTE, b"a=1; Path=/y"),
        (b"a=1; Path=/" + b"x" * (MAX_ATTRIBUTE - 1), b"a=1; Path=/" + b"x" * (MAX_ATTRIBUTE - 1)),
        (b"a=1;;; ; =x; HttpOnly", b"a=1; HttpOnly"),
        (
            b"a=1; Max-Age=5; Expires=Mon, 01 Jan 2030 00:00:00 GMT",
            b"a=1; Max-Age=5; Expires=Mon, 01 Jan 2030 00:00:00 GMT",
        ),
        (b"a=1; SameSite=Lax; Priority=High; NewThing", b"a=1; SameSite=Lax; Priority=High; NewThing"),
        (b'a="x y"; HttpOnly', b'a="x y"; HttpOnly'),
        (b"a=b=c", b"a=b=c"),
        (b"a=", b"a="),
        (b"a=\xff\xa0", b"a=\xff\xa0"),
        (b"a=" + b"x" * (MAX_PAIR - 2), b"a=" + b"x" * (MAX_PAIR - 2)),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_r07_domain_goes_and_the_last_of_each_attribute_stays(value: bytes, kept: bytes) -> None:
    assert rewrite(value) == kept


@pytest.mark.parametrize(
    ("value", "passes"),
    [
        (b"__Host-a=1; Secure; Path=/", True),
        (b"__HOST-a=1; secure; PATH=/", True),
        (b"__Host-a=1; Secure; Path=/; Domain=acme.com", True),
        (b"__Host-a=1; Path=/", False),
        (b"__Host-a=1; Secure", False),
        (b"__Host-a=1; Secure; Path=/x", False),
        (b"__Host-a=1; Secure; Path=/; Path=/x", False),
        (b"__Secure-a=1; Secure", True),
        (b"__secure-a=1", False),
    ],
    ids=repr,
)
@pytest.mark.parametrize("embedded", [True, False])
def test_r08_a_prefix_holds_its_rules_or_the_cookie_is_dropped(value: bytes, passes: bool, embedded: bool) -> None:
    assert (rewrite(value, embedded=embedded) is not None) is passes


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (b"a=1", b"a=1; Secure; SameSite=None; Partitioned"),
        (b"a=1; samesite=strict; Path=/", b"a=1; SameSite=None; Path=/; Secure; Partitioned"),
        (b"a=1; partitioned; secure; HttpOnly", b"a=1; Partitioned; Secure; HttpOnly; SameSite=None"),
        (b"a=; Max-Age=0", b"a=; Max-Age=0; Secure; SameSite=None; Partitioned"),
    ],
    ids=repr,
)
def test_r08_an_embedded_preview_s_cookies_reach_its_frame(value: bytes, kept: bytes) -> None:
    assert rewrite(value, embedded=True) == kept
    assert rewrite(value, embedded=True, secure=False) == rewrite(value)


def read_by_browser(value: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """RFC 6265bis §5.6: name and attributes."""
    pair, *attributes = value.split(b";")
    read = {}
    for attribute in attributes:
        key, _, text = attribute.partition(b"=")
        if len(text.strip(b" \t")) <= 1024:
            read[key.strip(b" \t").lower()] = text.strip(b" \t")
    return pair.partition(b"=")[0].strip(b" \t"), read


attributes = st.sampled_from(
    [
        b"Domain=acme.com",
        b"domain",
        b" DOMAIN\t=x",
        b"Path=/",
        b"path=/x",
        b"Secure",
        b"HttpOnly",
        b"SameSite=Lax",
        b"\x0b",
    ]
)
set_cookies = hostile | st.builds(
    lambda pair, rest: b";".join([pair, *rest]),
    st.builds(lambda a, b: a + b"=" + b, names, hostile),
    st.lists(attributes),
)


@given(set_cookies, st.booleans(), st.booleans())
def test_r07_no_set_cookie_names_a_domain_or_a_reserved_cookie(value: bytes, embedded: bool, secure: bool) -> None:
    rewritten = rewrite(value, embedded=embedded, secure=secure)
    if rewritten is None:
        return
    name, read = read_by_browser(rewritten)
    assert is_token(name)
    assert name not in RESERVED
    assert b"domain" not in read
    assert {b"secure", b"partitioned"} <= read.keys() or not (embedded and secure)
    assert not name.lower().startswith(b"__host-") or ({b"secure", b"path"} <= read.keys() and read[b"path"] == b"/")
    assert rewrite(rewritten, embedded=embedded, secure=secure) == rewritten


def test_the_bounds_of_rfc_6265bis_and_ours() -> None:
    assert (MAX_ATTRIBUTE, MAX_PAIR, MAX_SET_COOKIES) == (1024, 4096, 50)


@pytest.mark.parametrize(
    "name", [b"__ns_preview", b"__NS-x", b"nullspace_session", b"Nullspace-Go", b"bl_preview_token"]
)
def test_r09_a_cookie_of_the_provider_s_edge_passes_in_neither_direction(name: bytes) -> None:
    none = ReservedCookies.of([])
    assert filter_cookies([b"a=1; " + name + b"=x; b=2"], none) == b"a=1; b=2"
    assert rewrite_set_cookie(name + b"=x; Path=/", none, embedded=True, secure=True) is None


def test_e04_the_gate_cookie_has_a_name_that_no_script_can_plant() -> None:
    assert GATE_COOKIE == "__Host-Http-pp"
    assert not DEVELOPMENT_GATE_COOKIE.startswith("__")


@pytest.mark.parametrize("name", [b"a", b"!#$%&'*+-.^_`|~", b"A9"])
def test_a_token_is_a_token(name: bytes) -> None:
    assert is_token(name)


@given(st.binary(max_size=4))
def test_nothing_else_is_a_token(name: bytes) -> None:
    assert is_token(name) is (re.fullmatch(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", name) is not None)


def test_a_reserved_name_that_no_header_can_have_is_refused() -> None:
    with pytest.raises(ValueError, match="latin-1"):
        ReservedCookies.of(["ses\u20acsion"])


def test_h07_a_name_may_hold_every_character_of_a_token() -> None:
    whole = b"; ".join(b"%c=1" % byte for byte in sorted(TOKEN))
    assert filter_cookies([whole], RESERVED) == filter_cookies([whole.replace(b" ", b"")], RESERVED) == whole


def test_h07_the_short_way_is_taken_by_what_browsers_send_alone() -> None:
    reserved = ReservedCookies.of(["s"])
    parts = [b"a=XX", b"s=1", b";", b"; ", b" ", b"\t", b"\x0b"]
    for value in map(b"".join, product(parts, repeat=5)):
        long = b"; ".join(pair for pair, name in _pairs([value]) if _passes(pair, name, reserved))
        assert filter_cookies([value], reserved) == long


@given(st.lists(st.text('ab=; \t\x0b"é_-p', max_size=12).map(lambda text: text.encode("latin-1")), max_size=3))
def test_h07_the_short_way_says_what_the_long_one_says(values: list[bytes]) -> None:
    reserved = ReservedCookies.of(["ab", "p"])
    long = b"; ".join(pair for pair, name in _pairs(values) if _passes(pair, name, reserved))
    assert filter_cookies(values, reserved) == long
