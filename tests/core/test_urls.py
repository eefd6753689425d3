from __future__ import annotations

import re
from posixpath import normpath
from time import process_time
from urllib.parse import parse_qsl, unquote, unquote_plus, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preview_proxy.core.models import Endpoint, Origin, Rejected
from preview_proxy.core.urls import (
    RESERVED_PARAMETERS,
    request_target,
    rewrite_url,
    strip_parameters,
)

UPSTREAM = Origin("https", "m1-3000.edge.dev", 443)
PUBLIC = Origin("https", "3000-m1.previews.dev", 443)
MARKER = b"__ns_preview_transport=header"
ENDPOINT = Endpoint(UPSTREAM, marker=MARKER)


def is_reserved(name: str) -> bool:
    return name.strip().casefold() in RESERVED_PARAMETERS


def names_read(query: bytes) -> set[str]:
    """Every name that a server may read, whether it splits on "&", on ";" or on both, in UTF-8 or in Latin-1."""
    text, read = query.decode("latin-1"), set()
    for encoding in ("utf-8", "latin-1"):
        for separator in "&;":
            read |= {name for name, _ in parse_qsl(text, True, separator=separator, encoding=encoding)}
        read |= {unquote_plus(part.partition("=")[0], encoding) for part in re.split("[&;]", text)}
    return read


@pytest.mark.parametrize(
    "query",
    [b"", b"a=1", b"a=1&a=2&b&c=%20+&d=%2F&&e=", b"&", b"&&", b";", b"a;b;c", b"a=caf\xe9&%zz=%", b"x=edge_token"]
    + [
        b"my_edge_token=1",
        b"edge_tokens=1",
        b"edge-token=1",
        b"edge_token%00=1",
        b"token=1",
        b"a=1&",
        b"&a=1",
        b"=edge_token",
    ]
    + [b"edge%255ftoken=1", b"t=?edge_token", b"__ns=1", b"\xff=1", b"a[]=1", b"a.b=1"],
    ids=repr,
)
def test_h17_every_other_parameter_is_kept_byte_for_byte(query: bytes) -> None:
    assert strip_parameters(query) == query


SPELLINGS = b"""
    edge_token=S edge_token edge_token= EDGE_Token=S %65dge_token=S edge%5ftoken=S
    %45%44%47%45%5F%54%4F%4B%45%4E=S +edge_token+=S %20edge_token%09=S %C2%A0edge_token=S edge_to%E2%84%AAen=S
    edge_to\xe2\x84\xaaen=S edge_token=S=edge_token __ns_preview_transport=S %5f%5Fns_preview_transport=S
    \x85edge_token\xa0=S edge_token%85=S %A0edge_token=S
    __n%C5%BF_preview_tran%C5%BFport=S bl_preview_token=S DAYTONA_SANDBOX_AUTH_KEY=S
""".split()


@pytest.mark.parametrize("reserved", SPELLINGS, ids=repr)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"%b", b""),
        (b"%b&a=1", b"a=1"),
        (b"%b;a=1", b"a=1"),
        (b"a=1&%b", b"a=1"),
        (b"a=1;%b", b"a=1"),
        (b"a=1&%b&b=%%zz", b"a=1&b=%zz"),
        (b"a=1;%b&b=2", b"a=1&b=2"),
        (b"&%b&a=1", b"&a=1"),
        (b"%b&", b""),
        (b"%b&&a=1", b"&a=1"),
    ],
    ids=repr,
)
def test_h17_a_reserved_parameter_goes_however_it_is_written(reserved: bytes, before: bytes, after: bytes) -> None:
    assert strip_parameters(before % reserved) == after


def test_h17_duplicates_all_go_and_join_nothing() -> None:
    assert strip_parameters(b"edge_token=1&edge_token=2;edge_token=3") == b""
    assert strip_parameters(b"edge_&edge_token=1&token=2") == b"edge_&token=2"
    assert strip_parameters(b"edge_;edge_token=1;token=2&edge_token") == b"edge_;token=2"


def test_h17_twenty_thousand_parameters_hide_nothing_and_take_no_time() -> None:
    begun = process_time()
    assert strip_parameters(b"a=%20&" * 20_000 + b"%65dge_token=1") == (b"a=%20&" * 20_000)[:-1]
    assert process_time() - begun < 2


parameters = st.sampled_from(SPELLINGS) | st.from_regex(rb"[a-zA-Z0-9_%+=.\[\]?/\x80-\xff]{0,12}", fullmatch=True)
queries = st.lists(st.tuples(st.sampled_from([b"&", b";", b"&&", b";&"]), parameters), max_size=8).map(
    lambda parts: b"".join(separator + parameter for separator, parameter in parts)[1:]
) | st.binary(max_size=40)


@given(queries)
def test_h17_no_reserved_parameter_survives_in_any_reading(query: bytes) -> None:
    kept = strip_parameters(query)
    assert not [name for name in names_read(kept) if is_reserved(name)]
    assert strip_parameters(kept) == kept
    if not any(map(is_reserved, names_read(query))) and query.isascii():
        assert kept == query


@given(queries)
def test_h17_what_survives_is_in_order_and_byte_for_byte(query: bytes) -> None:
    left = iter(re.split(rb"[&;]", query))
    assert all(part in left for part in re.split(rb"[&;]", strip_parameters(query)) if part)


@given(st.from_regex(rb"/[\x21\x22\x24-\x3e\x40-\x7e]{0,20}", fullmatch=True), queries)
def test_p05_path_and_query_are_equal_and_the_marker_is_there_once_and_last(path: bytes, query: bytes) -> None:
    target = request_target(path, query, ENDPOINT)
    sent_path, _, sent_query = target.partition(b"?")
    assert sent_path == path
    kept = strip_parameters(query)
    assert sent_query == (kept + b"&" + MARKER if kept else MARKER)
    assert sum(map(is_reserved, (name for name, _ in parse_qsl(sent_query.decode("latin-1"), True)))) == 1


@pytest.mark.parametrize(
    "path",
    [
        b"/a/../b",
        b"/%2e%2e/",
        b"//evil/x",
        b"/a%2fb",
        b"/a//b",
        b"/;x",
        b"/%zz",
        b"/a\\b",
        b"/..;/x",
        b"/../../etc/passwd",
    ],
    ids=repr,
)
def test_p05_without_a_base_path_dot_segments_are_the_app_s_own(path: bytes) -> None:
    assert request_target(path, b"", Endpoint(UPSTREAM)) == path


@pytest.mark.parametrize(
    ("path", "query", "target"),
    [
        (b"/", b"", b"/base/"),
        (b"/a//b/./c%2fd;x", b"y=1", b"/base/a//b/./c%2fd;x?y=1"),
        (b"/...", b"", b"/base/..."),
        (b"/..a/a../.", b"", b"/base/..a/a../."),
        (b"/%252e%252e/", b"", b"/base/%252e%252e/"),
        (b"/a", b"edge_token=1", b"/base/a"),
        (b"/a", b"x=../..", b"/base/a?x=../.."),
    ],
)
def test_a_base_path_comes_first(path: bytes, query: bytes, target: bytes) -> None:
    assert request_target(path, query, Endpoint(UPSTREAM, base_path=b"/base")) == target


@pytest.mark.parametrize(
    "path",
    [
        b"/..",
        b"/../8422/admin",
        b"/%2e%2e/8422",
        b"/.%2E/",
        b"/a/../../../../etc/passwd",
        b"/a/../b",
        b"//..//x",
        b"/a\\..\\x",
    ]
    + [
        b"/..%2fx",
        b"/..%5cx",
        b"/a%2f../..",
        b"/a%2fb/../..",
        b"/a\\b/../..",
        b"/..;/x",
        b"/..;a=b/x",
        b"/..%3b/x",
        b"/./..",
    ],
    ids=repr,
)
def test_p05_no_dot_segment_leads_out_of_a_base_path(path: bytes) -> None:
    with pytest.raises(Rejected) as caught:
        request_target(path, b"", Endpoint(UPSTREAM, base_path=b"/base"))
    assert caught.value.code == "bad_target"


def paths_read(path: bytes) -> set[str]:
    """As servers read one: decoded or not, with "\\" for "/" or not, with or without parameters of segments."""
    forms = {path.decode("latin-1"), unquote(path, "latin-1")}
    forms |= {form.replace("\\", "/") for form in forms}
    return {normpath(form) for form in forms | {re.sub(";[^/]*", "", form) for form in forms}}


segments = st.sampled_from(
    [b"..", b".", b"%2e", b"%2E.", b"/", b"%2f", b"%5c", b"\\", b";", b"a", b"..;x", b"%252e", b"//"]
)


@given(st.lists(segments).map(b"".join))
def test_p05_no_reading_of_a_path_leads_out_of_a_base_path(rest: bytes) -> None:
    try:
        target = request_target(b"/" + rest, b"", Endpoint(UPSTREAM, base_path=b"/a/base"))
    except Rejected:
        assert b"." in rest or b"%2" in rest
        return
    assert target == b"/a/base/" + rest
    assert not [path for path in paths_read(target) if path != "/a/base" and not path.startswith("/a/base/")]


def rewrite(url: bytes, upstream: Origin = UPSTREAM, public: Origin = PUBLIC) -> bytes:
    return rewrite_url(url, upstream, public, 3000)


@pytest.mark.parametrize(
    ("url", "rest"),
    [
        (b"https://m1-3000.edge.dev/a?b=1#c", b"/a?b=1#c"),
        (b"https://m1-3000.edge.dev", b"/"),
        (b"https://m1-3000.edge.dev?x", b"/?x"),
        (b"https://m1-3000.edge.dev#x", b"/#x"),
        (b"https://m1-3000.edge.dev//x", b"//x"),
        (b"HTTPS://M1-3000.EDGE.DEV/a", b"/a"),
        (b"http://m1-3000.edge.dev/a", b"/a"),
        (b"wss://m1-3000.edge.dev/a", b"/a"),
        (b"//m1-3000.edge.dev/a", b"/a"),
        (b"///m1-3000.edge.dev/a", b"/a"),
        (b"\\\\m1-3000.edge.dev\\a", b"/a"),
        (b"/\\m1-3000.edge.dev/a", b"/a"),
        (b"https:m1-3000.edge.dev/a", b"/a"),
        (b"https:/m1-3000.edge.dev/a", b"/a"),
        (b"https:////m1-3000.edge.dev/a", b"/a"),
        (b"https:\\\\m1-3000.edge.dev/a", b"/a"),
        (b"https://m1-3000.edge.dev\\@evil.example/a", b"/@evil.example/a"),
        (b"https://m1-3000.edge.dev/a?b=\\", b"/a?b=\\"),
        (b"https://m1-3000.edge.dev:443/a", b"/a"),
        (b"https://m1-3000.edge.dev:/a", b"/a"),
        (b"https://m1-3000.edge.dev:00443/a", b"/a"),
        (b"http://m1-3000.edge.dev:80/a", b"/a"),
        (b"https://m1-3000.edge.dev./a", b"/a"),
        (b"https://user:pass@m1-3000.edge.dev/a", b"/a"),
        (b"https://evil.example@m1-3000.edge.dev/a", b"/a"),
        (b"https://a@b@m1-3000.edge.dev/a", b"/a"),
        (b"https://m1-3000%2Eedge%2edev/a", b"/a"),
        (b"https://%6d1-3000.edge.dev/a", b"/a"),
        ("https://m1-3000\u3002edge\uff0edev/a".encode(), b"/a"),
        ("https://\uff4d1-3000.edge.dev/a".encode(), b"/a"),
        (b"https://m1-3000.ed%C2%ADge.dev/a", b"/a"),
        (b" \thttps://m1-\t3000.edge.dev/a \x01", b"/a"),
        (b"h\tttps://m1-3000.edge.dev/a", b"/a"),
        (b"https://m1-3000.edge.dev/a?edge_token=S&b=1", b"/a?b=1"),
        (b"https://m1-3000.edge.dev/a?edge_token=S#f", b"/a#f"),
        (b"https://m1-3000.edge.dev/?", b"/?"),
        (b"http://localhost:3000/a", b"/a"),
        (b"http://LOCALHOST:3000/a", b"/a"),
        (b"ws://127.0.0.1:3000/a", b"/a"),
        (b"http://0.0.0.0:3000", b"/"),
        (b"http://[::1]:3000/a", b"/a"),
        (b"http://[::]:3000/a", b"/a"),
        (b"//localhost:3000/a", b"/a"),
        (b"https://3000-m1.previews.dev/a?edge_token=S", b"/a"),
        (b"http://3000-m1.previews.dev/a", b"/a"),
    ],
    ids=repr,
)
def test_r05_a_url_of_the_upstream_points_at_the_public_origin(url: bytes, rest: bytes) -> None:
    assert rewrite(url) == b"https://3000-m1.previews.dev" + rest


@pytest.mark.parametrize(
    "url",
    [
        b"https://example.com/?edge_token=1",
        b"//example.com/a",
        b"https://m1-3000.edge.dev.evil.com/",
        b"https://edge.dev/",
    ]
    + [b"https://xm1-3000.edge.dev/", b"https://m1-3000.edge.dev:8443/", b"https://m1-3000.edge.dev@evil.com/"]
    + [
        b"https://m1-3000.edge.dev%40evil.com/",
        b"https://m1-3000%252eedge.dev/",
        b"https://localhost/",
        b"http://[::1]/",
    ]
    + [b"http://localhost:3001/", b"http://localhost.evil.com:3000/", b"http://127.0.0.1.evil.com:3000/"]
    + [
        b"mailto:a@m1-3000.edge.dev",
        b"data:text/html,//m1-3000.edge.dev",
        b"javascript:alert(1)",
        b"myapp://callback?x",
    ]
    + [
        b"https://",
        b"https:",
        b"https:///",
        b"//",
        b"https://a..b/",
        b"https://\xff/",
        b"https://" + b"x" * 70 + b".dev/",
    ]
    + [b"https://[::1", b"https://[m1-3000.edge.dev]/"],
    ids=repr,
)
def test_r05_every_other_url_is_unchanged(url: bytes) -> None:
    assert rewrite(url) == url


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        (b"", b""),
        (b"/", b"/"),
        (b"a/b?c=1#d", b"a/b?c=1#d"),
        (b"/a?edge_token=S", b"/a"),
        (b"/a?edge_\ttoken=S&b=1", b"/a?b=1"),
        (b"?edge_token=S&b=1#edge_token", b"?b=1#edge_token"),
        (b"/a?", b"/a?"),
        (b"#x?edge_token=S", b"#x?edge_token=S"),
        (b"./a:b", b"./a:b"),
        (b"/login?next=https://m1-3000.edge.dev/", b"/login?next=https://m1-3000.edge.dev/"),
    ],
    ids=repr,
)
def test_r05_a_relative_url_loses_reserved_parameters_only(url: bytes, kept: bytes) -> None:
    assert rewrite(url) == kept


def test_r05_an_internationalised_host_is_one_host_in_both_spellings() -> None:
    upstream = Origin("https", "xn--mnchen-3ya.dev", 443)
    for host in ("münchen.dev", "MÜNCHEN.dev", "m%C3%BCnchen.dev", "xn--mnchen-3ya.dev", "XN--MNCHEN-3YA.dev"):
        assert rewrite(f"https://{host}/a".encode(), upstream=upstream) == b"https://3000-m1.previews.dev/a"


def test_r05_a_host_of_ours_that_is_no_internationalised_name_is_compared_as_it_is() -> None:
    upstream = Origin("https", "xn--a-.dev", 443)
    assert rewrite(b"https://XN--a-.dev/a", upstream=upstream) == b"https://3000-m1.previews.dev/a"


def test_r05_ports_that_are_not_the_default_count() -> None:
    upstream, public = Origin("http", "127.0.0.1", 5173), Origin("http", "3000-m1.preview.localhost", 8000)
    assert rewrite(b"http://127.0.0.1:5173/a", upstream, public) == b"http://3000-m1.preview.localhost:8000/a"
    assert rewrite(b"http://127.0.0.1/a", upstream, public) == b"http://3000-m1.preview.localhost:8000/a"
    assert rewrite(b"http://127.0.0.1:5174/a", upstream, public) == b"http://127.0.0.1:5174/a"


def host_by_browser(url: bytes) -> str:
    """A WHATWG-like reading of the host, on a page of the public origin."""
    text = re.sub("[\t\r\n]", "", url.decode("utf-8", "replace")).strip("".join(map(chr, range(0x21))))
    head, sign, tail = re.match(r"([^?#]*)([?#]?)(.*)\Z", text, re.DOTALL).groups()  # type: ignore[union-attr]
    head = re.sub(r"\A(https?|wss?):/*", r"\1://", head.replace("\\", "/"), flags=re.IGNORECASE)
    head = re.sub(r"\A//+", "//", head)
    try:
        parts = urlsplit(head + sign + tail)
        return "" if parts.port == 0 else unquote(parts.hostname or "").removesuffix(".")
    except ValueError:  # no port, so no URL
        return ""


schemes = st.sampled_from(["https:", "HTTP:", "wss:", "ws:", "h\tttps:", "", " "])
slashes = st.sampled_from(["//", "\\\\", "/\\", "///", "/\t/", "\\/\\/"])
users = st.sampled_from(["", "u@", "u:p@", "evil.example@", "a@b@", "%40@", "\t"])
spelt = st.sampled_from(
    ["m1-3000.edge.dev", "M1-3000.Edge.DEV", "m1-3000.edge.dev.", "m1-3000%2eedge.dev", "m1-\t3000.edge.dev"]
)
ports = st.sampled_from(["", ":", ":443", ":0443"])
rests = st.sampled_from(["", "/", "\\", "?", "#", "/\\", "//"]).flatmap(
    lambda start: (
        st.text(st.characters(exclude_categories=["Cs"]), max_size=12).map(start.__add__) if start else st.just("")
    )
)


@given(st.tuples(schemes, slashes, users, spelt, ports, rests).map("".join))
def test_r05_no_absolute_form_of_the_upstream_survives(url: str) -> None:
    rewritten = rewrite(url.encode())
    assert host_by_browser(rewritten) == PUBLIC.host
    assert rewritten.startswith(b"https://3000-m1.previews.dev/")


@given(st.binary(max_size=40) | st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")), ports)
def test_r05_nothing_is_raised_and_the_result_is_stable(tail: bytes, port: str) -> None:
    for url in (tail, b"//" + tail, b"https://" + tail, b"//m1-3000.edge.dev" + port.encode() + tail):
        # less the space before a parameter that went
        assert rewrite(rewrite(url)).strip(b" ") == rewrite(url).strip(b" ")
