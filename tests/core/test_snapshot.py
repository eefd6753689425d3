from __future__ import annotations

from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preview_proxy.core.models import HOST, Inbound, Rejected
from preview_proxy.core.policy import Limits
from preview_proxy.core.snapshot import host_field, parse_authority, raw_headers, snapshot

LIMITS = Limits()


def take(limits: Limits = LIMITS, headers: tuple[tuple[bytes, bytes], ...] = (), **scope: Any) -> Inbound:
    whole = {"type": "http", "method": "GET", "path": "/", "headers": headers, **scope}
    return snapshot(whole, raw_headers(whole), "a.dev", limits)


def refusal(limits: Limits = LIMITS, headers: tuple[tuple[bytes, bytes], ...] = (), **scope: Any) -> str:
    with pytest.raises(Rejected) as caught:
        take(limits, headers, **scope)
    return caught.value.code


def test_h01_headers_are_copied_so_that_a_trailer_cannot_change_them() -> None:
    live = [[b"Host", b"a.dev"]]
    copied = raw_headers({"headers": live})
    live.append([b"host", b"b.dev"])
    live[0][1] = b"c.dev"
    assert copied == ((b"host", b"a.dev"),)


def test_the_snapshot_has_all_that_the_scope_said() -> None:
    headers = ((b"Host", b"a.dev"), (b"Content-Length", b"5"))
    inbound = take(
        headers=headers,
        method="POST",
        scheme="https",
        http_version="1.1",
        raw_path=b"/a%2Fb",
        path="/a/b",
        query_string=b"x=1",
        client=("1.2.3.4", 5),
    )
    assert inbound == Inbound(
        kind="http",
        method="POST",
        scheme="https",
        http_version="1.1",
        authority="a.dev",
        path=b"/a%2Fb",
        query=b"x=1",
        headers=((b"host", b"a.dev"), (b"content-length", b"5")),
        client="1.2.3.4",
        has_body=True,
        content_length=5,
        subprotocols=(),
    )


@pytest.mark.parametrize("scope", [{}, {"client": None, "subprotocols": None, "extensions": None}])
def test_p22_what_a_server_leaves_out_has_a_default(scope: dict[str, Any]) -> None:
    inbound = take(**scope)
    assert (inbound.scheme, inbound.http_version, inbound.client, inbound.query) == ("http", "1.1", None, b"")
    assert inbound.subprotocols == ()


def test_w01_a_websocket_is_read_by_the_same_rules() -> None:
    inbound = take(type="websocket", method=None, subprotocols=["vite-hmr"], raw_path=b"/x")
    assert (inbound.kind, inbound.method, inbound.subprotocols) == ("websocket", "GET", ("vite-hmr",))
    assert (inbound.has_body, inbound.content_length) == (False, None)
    assert refusal(type="websocket", raw_path=b"http://evil.example/") == "bad_target"
    assert refusal(type="websocket", headers=((b"a", b"\r"),)) == "bad_header"


@pytest.mark.parametrize("hosts", [[], [b"a.dev", b"a.dev"], [b"a.dev", b"b.dev"]])
def test_p01_none_or_several_hosts_are_refused(hosts: list[bytes]) -> None:
    with pytest.raises(Rejected) as caught:
        host_field(tuple((b"host", host) for host in hosts))
    assert caught.value.code == "bad_host"


def test_p01_the_one_host_is_taken_as_sent() -> None:
    assert host_field(((b"accept", b"x"), (b"host", b"A.dev"))) == b"A.dev"


@pytest.mark.parametrize(
    ("value", "scheme", "authority"),
    [
        (b"p1.previews.dev", "https", "p1.previews.dev"),
        (b"P1.PREVIEWS.DEV.:443", "https", "p1.previews.dev"),
        (b"p1.previews.dev:443", "http", "p1.previews.dev:443"),
        (b"p1.previews.dev:80", "http", "p1.previews.dev"),
        (b"p1.previews.dev:80", "ws", "p1.previews.dev"),
        (b"p1.previews.dev:443", "wss", "p1.previews.dev"),
        (b"p1.previews.dev:8443", "https", "p1.previews.dev:8443"),
        (b"p1.previews.dev:0080", "http", "p1.previews.dev"),
        (b"p1.previews.dev:65535", "http", "p1.previews.dev:65535"),
        (b"mch_a1.previews.dev", "https", "mch_a1.previews.dev"),
        (b"xn--mnchen-3ya.dev", "https", "xn--mnchen-3ya.dev"),
        (b"localhost:8000", "http", "localhost:8000"),
        (b"127.0.0.1", "http", "127.0.0.1"),
    ],
)
def test_p01_a_host_is_compared_in_one_spelling(value: bytes, scheme: str, authority: str) -> None:
    assert parse_authority(value, scheme) == authority


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b".",
        b"..",
        b"a..",
        b"a..b",
        b":80",
        b"a:",
        b"a:0",
        b"a:65536",
        b"a:123456",
        b"a:-1",
        b"a:+80",
        b"a:8 0",
        b"a:x",
    ]
    + [b"a:80:80", b"a b", b" a", b"a ", b"a\t", b"a/b", b"a?b", b"a#b", b"user@a", b"a%2eb", b"a\\b", b"a,b", b"a;b"]
    + [
        b"[::1]",
        b"[::1]:80",
        b"::1",
        b"\xe9.dev",
        b"a\xad.dev",
        b"a\0",
        b"a\n",
        b"*",
        b"-a",
        b"a" * 64,
        b"a." * 127 + b"a",
    ]
    + [b"a:\xb2", b"http://a", b"a.dev.:", b"a:80."],
    ids=repr,
)
def test_p01_what_is_no_host_is_none(value: bytes) -> None:
    assert parse_authority(value, "http") is None


@given(st.binary(max_size=20), st.sampled_from(["http", "https", "ws", "wss", ""]))
def test_p01_an_authority_is_always_a_host_and_a_port(value: bytes, scheme: str) -> None:
    authority = parse_authority(value, scheme)
    if authority is not None:
        host, _, port = authority.partition(":")
        assert HOST.match(host)
        assert port == "" or 1 <= int(port) <= 65535
        assert parse_authority(authority.encode(), scheme) == authority


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "PROPFIND", "QUERY", "PURGE", "M-SEARCH", "get"])
def test_p12_any_token_is_a_method(method: str) -> None:
    assert take(method=method).method == method


@pytest.mark.parametrize(
    "method",
    ["CONNECT", "TRACE", "TRACK", "PRI", "connect", "Trace", "track", "", "G T", "GET\n", "GÉT", "GET/", "\u20ac"],
)
def test_p12_tunnels_echoes_and_what_is_no_token_are_refused(method: str) -> None:
    assert refusal(method=method) == "method_not_allowed"


@pytest.mark.parametrize(
    "path",
    [
        b"/",
        b"//",
        b"//evil/x",
        b"/a/../b",
        b"/%2e%2e/",
        b"/a%2fb",
        b"/a//b",
        b"/;x",
        b"/%zz",
        b"/a\\b",
        b"/@evil",
        b"/%",
    ]
    + [
        b"/%5Bid%5D",
        b"/[id]",
        b"/{a}|^`",
        b"/%00",
        b'/"<>"',
        b"/:80",
        b"/http://evil/",
        b"/.well-known/preview-proxy/x",
    ],
    ids=repr,
)
def test_p05_a_path_in_origin_form_is_kept_byte_for_byte(path: bytes) -> None:
    assert take(raw_path=path, path=unquote(path)).path == path


@pytest.mark.parametrize(
    "path",
    [
        b"http://evil.example/x",
        b"https://evil/",
        b"@evil/x",
        b"evil",
        b"*",
        b"evil:443",
        b"\\evil",
        b"?",
        b" /",
        b"/ ",
        b"/a b",
    ]
    + [b"/\x00", b"/\x1f", b"/\x7f", b"/\x80", b"/\xff", b"/caf\xc3\xa9", b"/#", b"/a#b", b"/\r\nx: y", b"/\t", b"/\n"],
    ids=repr,
)
def test_p04_any_other_target_is_refused(path: bytes) -> None:
    assert refusal(raw_path=path) == "bad_target"


@pytest.mark.parametrize(
    "query", [b"", b"a=1&a=2&b&c=%20+&d=%2F&&e=", b"?", b"a=caf\xe9", b'"<>"', b"\\", b"=", b"[]", b"/"]
)
def test_p05_a_query_is_kept_byte_for_byte(query: bytes) -> None:
    assert take(raw_path=b"/x", query_string=query).query == query


@pytest.mark.parametrize("query", [b"#", b"a#b", b"a b", b"\t", b"\r\n", b"\x00", b"\x7f"])
def test_p04_a_query_that_would_end_the_request_line_is_refused(query: bytes) -> None:
    assert refusal(raw_path=b"/x", query_string=query) == "bad_target"


def test_p04_a_query_inside_the_raw_path_is_left_to_the_query_string() -> None:
    assert take(raw_path=b"/x?a=1", query_string=b"a=1").path == b"/x"


@pytest.mark.parametrize("raw", [{}, {"raw_path": None}, {"raw_path": b""}])
@pytest.mark.parametrize(
    ("path", "quoted"),
    [("/", b"/"), ("/a b", b"/a%20b"), ("/caf\u00e9", b"/caf%C3%A9"), ("/a?b#c", b"/a%3Fb%23c")]
    + [
        ("/a%2fb", b"/a%252fb"),
        ("/100%", b"/100%25"),
        ("/\x00\n", b"/%00%0A"),
        ("/a:@!$&'()*+,;=~-._", b"/a:@!$&'()*+,;=~-._"),
    ],
)
def test_p06_without_a_raw_path_the_path_is_quoted(raw: dict[str, Any], path: str, quoted: bytes) -> None:
    assert take(path=path, **raw).path == quoted


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_p06_a_quoted_path_reads_as_the_path(text: str) -> None:
    path = "/" + text
    if len(path.encode()) <= 2000:
        assert unquote_to_bytes(take(path=path).path) == path.encode()


def test_p06_a_path_without_a_slash_is_refused() -> None:
    assert refusal(path="evil") == refusal(path="") == refusal(path="*") == "bad_target"


@pytest.mark.parametrize(
    ("root", "path", "below"),
    [
        ("", b"/a", b"/a"),
        ("/", b"/a", b"/a"),
        ("/preview", b"/preview", b"/"),
        ("/preview", b"/preview/", b"/"),
        ("/preview/", b"/preview/a", b"/a"),
        ("/preview", b"/preview//a", b"//a"),
        ("/preview", b"/preview/preview/a", b"/preview/a"),
        ("/preview", b"/preview/a%2fb/../c", b"/a%2fb/../c"),
    ],
)
def test_p07_a_mount_is_taken_off_the_raw_path(root: str, path: bytes, below: bytes) -> None:
    assert take(root_path=root, raw_path=path).path == below


@pytest.mark.parametrize("path", [b"/previewevil", b"/pre%76iew/a", b"/Preview/a", b"/", b"/a/preview", b"/previe"])
def test_p07_a_path_that_is_not_below_the_mount_as_written_is_refused(path: bytes) -> None:
    assert refusal(root_path="/preview", raw_path=path) == "bad_target"


def test_p07_a_mount_that_cannot_be_compared_is_refused() -> None:
    assert refusal(root_path="/\u20ac", raw_path=b"/%E2%82%AC/a") == "bad_target"


CL, TE = b"Content-Length", b"Transfer-Encoding"


@pytest.mark.parametrize(
    ("headers", "version", "method", "framing"),
    [
        ((), "1.1", "GET", (False, None)),
        ((), "1.1", "POST", (False, None)),
        ((), "1.0", "POST", (False, None)),
        (((CL, b"0"),), "1.1", "POST", (False, 0)),
        (((CL, b"000"),), "1.1", "POST", (False, 0)),
        (((CL, b"5"),), "1.1", "GET", (True, 5)),
        (((CL, b"005"),), "1.1", "POST", (True, 5)),
        (((CL, b"5"),), "2", "DELETE", (True, 5)),
        (((CL, b"9" * 19),), "1.1", "POST", (True, 10**19 - 1)),
        (((TE, b"chunked"),), "1.1", "GET", (True, None)),
        (((TE, b" Chunked\t"),), "1.1", "POST", (True, None)),
        ((), "2", "GET", (False, None)),
        ((), "3", "HEAD", (False, None)),
        ((), "2", "POST", (True, None)),
    ],
)
def test_p14_a_body_is_framed_in_one_way(
    headers: tuple[tuple[bytes, bytes], ...], version: str, method: str, framing: tuple[bool, int | None]
) -> None:
    inbound = take(headers=headers, http_version=version, method=method)
    assert (inbound.has_body, inbound.content_length) == framing


@pytest.mark.parametrize(
    ("headers", "version"),
    [
        (((CL, b"5"), (TE, b"chunked")), "1.1"),
        (((TE, b"chunked"), (CL, b"5")), "1.1"),
        (((TE, b"chunked"), (TE, b"chunked")), "1.1"),
        (((TE, b"chunked"), (TE, b"identity")), "1.1"),
        (((CL, b"5"), (CL, b"5")), "1.1"),
        (((CL, b"5"), (CL, b"6")), "1.1"),
        (((TE, b"chunked"),), "1.0"),
        (((TE, b"chunked"),), "2"),
        *[(((TE, value),), "1.1") for value in (b"", b"gzip", b"gzip, chunked", b"chunked, chunked", b"xchunked")],
        *[(((TE, value),), "1.1") for value in (b"identity", b"chunked;q=1", b"\xa0chunked")],
        *[
            (((CL, value),), "1.1")
            for value in (b"", b"+5", b"-5", b"5 ", b" 5", b"0x5", b"5,5", b"5.0", b"1_0", b"\xb2")
        ],
        (((CL, b"1" + b"0" * 19),), "1.1"),
    ],
    ids=repr,
)
def test_p13_a_length_that_two_servers_may_read_differently_is_refused(
    headers: tuple[tuple[bytes, bytes], ...], version: str
) -> None:
    assert refusal(headers=headers, http_version=version, method="POST") == "bad_framing"


BODY = (CL, b"5")


@pytest.mark.parametrize("value", [b"h2c", b"websocket, h2c", b"TLS/1.0", b"", b"websockets"])
def test_p15_an_upgrade_that_is_not_websocket_is_refused_beside_a_body(value: bytes) -> None:
    upgrade = (b"Upgrade", value)
    assert refusal(headers=(upgrade, BODY), method="POST") == "bad_upgrade"
    assert refusal(headers=(upgrade, (TE, b"chunked"))) == "bad_upgrade"
    assert not take(headers=(upgrade,)).has_body


def test_p15_a_websocket_upgrade_is_no_conflict() -> None:
    upgrade = (b"Upgrade", b" WebSocket\t")
    assert take(headers=(upgrade, BODY), method="POST").has_body
    assert take(headers=(upgrade, BODY), type="websocket").kind == "websocket"


def test_p18_each_limit_holds_at_its_edge() -> None:
    limits = Limits(header_count=2, header_bytes=10, path_bytes=5, query_bytes=3)
    assert take(limits, ((b"abc", b"de"), (b"abc", b"de")), raw_path=b"/1234", query_string=b"a=1")
    assert refusal(limits, ((b"a", b""),) * 3) == "headers_too_large"
    assert refusal(limits, ((b"abc", b"de"), (b"abc", b"def"))) == "headers_too_large"
    assert refusal(limits, raw_path=b"/12345") == "target_too_long"
    assert refusal(limits, raw_path=b"/", query_string=b"a=12") == "target_too_long"


@given(
    st.lists(
        st.tuples(st.binary(max_size=8) | st.sampled_from([CL, TE, b"upgrade"]), st.binary(max_size=8)), max_size=4
    ),
    st.text(max_size=8) | st.sampled_from(["GET", "POST"]),
    st.binary(max_size=12) | st.binary(max_size=12).map(b"/".__add__),
    st.binary(max_size=12),
    st.sampled_from(["1.0", "1.1", "2", "3"]),
    st.sampled_from(["http", "websocket"]),
)
def test_nothing_is_raised_but_rejections(
    headers: list[tuple[bytes, bytes]], method: str, path: bytes, query: bytes, version: str, kind: str
) -> None:
    scope: dict[str, Any] = {"type": kind, "method": method, "http_version": version, "raw_path": path}
    scope["query_string"] = query
    try:
        inbound = take(LIMITS, tuple(headers), **scope)
    except Rejected:
        return
    assert inbound.path[:1] == b"/"
    assert not {*range(0x21), 0x23, 0x7F} & {*inbound.path, *inbound.query}
