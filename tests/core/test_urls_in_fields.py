"""URLs inside the fields that hold more than one: `Link` and `Refresh`."""

from __future__ import annotations

import re
from stringprep import in_table_b1
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preview_proxy.core.models import Origin
from preview_proxy.core.urls import _UNSEEN, rewrite_link, rewrite_refresh, rewrite_url
from tests.core.test_urls import PUBLIC, UPSTREAM, host_by_browser, rewrite


def test_r05_every_target_of_a_link_field() -> None:
    value = (
        b'<https://m1-3000.edge.dev/a.css>; rel=preload, <//localhost:3000/b?edge_token=1>; rel="x", <https://c.dev/>'
    )
    rewritten = rewrite_link(value, UPSTREAM, PUBLIC, 3000)
    assert rewritten == (
        b"<https://3000-m1.previews.dev/a.css>; rel=preload, "
        b'<https://3000-m1.previews.dev/b>; rel="x", <https://c.dev/>'
    )
    assert rewrite_link(b"no target", UPSTREAM, PUBLIC, 3000) == b"no target"


def test_r05_a_link_target_without_an_end_goes_to_the_end() -> None:
    assert rewrite_link(b"<a>, <//m1-3000.edge.dev/b", UPSTREAM, PUBLIC, 3000) == (
        b"<a>, <https://3000-m1.previews.dev/b"
    )


def test_v12_a_header_field_of_the_largest_size_takes_no_time() -> None:
    """What was searched for from each of its bytes would take some twenty seconds."""
    begun = process_time()
    rewrite_link(b"<" * 65536, UPSTREAM, PUBLIC, 3000)
    rewrite_refresh(b"0" * 32768 + b" " * 32768, UPSTREAM, PUBLIC, 3000)
    assert process_time() - begun < 2


@pytest.mark.parametrize("host", ["é." * 20_000, "a" + "\u0300\u0316" * 30_000, "\u00ad" * 30_000, "\ufdfa" * 20_000])
def test_v12_a_long_host_takes_no_time(host: str) -> None:
    begun = process_time()
    assert rewrite(f"https://{host}/a".encode()) == f"https://{host}/a".encode()
    assert process_time() - begun < 2


@pytest.mark.parametrize("form", [b"%b", b"<%b>"])
@pytest.mark.parametrize(
    "url",
    [b"a:?edge_token", b"Z:?edge_token", b"zA1+.-y:?edge_token", b"b9:?edge_token", b"myapp://x?edge_token=1"]
    + [b"mailto:a@b.dev?edge_token=1", b"//?edge_token=1", b"https:?edge_token=1", b"/a!", b"!https://m1-3000.edge.dev"]
    + [b"https://m1-3000.edge.dev:443x/", b"https://m1-3000.edge.dev:54321/", b"https://:443/", b"https://xn--a-.dev/"],
)
def test_r05_what_is_no_url_of_ours_keeps_every_byte(form: bytes, url: bytes) -> None:
    assert rewrite_link(form % url, UPSTREAM, PUBLIC, 3000) == form % url
    assert rewrite(url) == url


@pytest.mark.parametrize(
    ("url", "rewritten"),
    [
        (b"h\r\nttps://m1-3000.e\ndge.d\rev/a", b"https://3000-m1.previews.dev/a"),
        (b"https://m1-3000.edge.dev:123456/a", b"https://3000-m1.previews.dev/a"),
        (b"https://m1-3000.edge.dev:" + b"9" * 5000 + b"/a", b"https://3000-m1.previews.dev/a"),
        (b"/a?b=1&edge_token=S?c", b"/a?b=1"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_r05_what_browsers_drop_or_refuse_hides_nothing(url: bytes, rewritten: bytes) -> None:
    assert rewrite(url) == rewritten


def test_r05_what_a_host_may_hold_unseen_is_the_rfc_s_table() -> None:
    assert set(_UNSEEN) == {point for point in range(0x110000) if in_table_b1(chr(point))}
    assert rewrite("https://m1\u00ad-3000\u200b.edge.dev/a".encode()) == b"https://3000-m1.previews.dev/a"


def test_r05_without_a_scheme_a_port_is_that_of_the_upstream_s() -> None:
    public = Origin("http", "p.localhost", 8000)
    assert rewrite_url(b"//localhost/a", UPSTREAM, public, 443) == b"http://p.localhost:8000/a"
    assert rewrite_url(b"//localhost/a", UPSTREAM, public, 80) == b"//localhost/a"


@pytest.mark.parametrize(
    ("form", "written"),
    [
        (b"0;url=%b", None),
        (b"0; URL=%b", None),
        (b"5, url = %b", None),
        (b"0;url='%b'", None),
        (b'0;url="%b"', None),
        (b"0;url=\t'%b' and \"more'", None),
        (b'0;url="%b', None),
        (b"0 url=%b", None),
        (b" 0.5 ;%b", b" 0.5 ;url=%b"),
        (b"0 %b", b"0 url=%b"),
        (b";%b", b";url=%b"),
        (b"0;'%b'", b"0;url='%b'"),
    ],
    ids=repr,
)
def test_r05_the_url_of_a_refresh_field(form: bytes, written: bytes | None) -> None:
    rewritten = rewrite_refresh(form % b"http://localhost:3000/a?edge_token=1", UPSTREAM, PUBLIC, 3000)
    assert rewritten == (written or form) % b"https://3000-m1.previews.dev/a"


def test_r05_what_is_taken_out_of_a_refresh_makes_no_other_one_of_it() -> None:
    value = b"0;ur\tl='https://m1-3000.edge.dev/a'"
    assert rewrite_refresh(value, UPSTREAM, PUBLIC, 3000) == b"0;url=url='https://m1-3000.edge.dev/a'"


@pytest.mark.parametrize(
    "value", [b"5", b"", b"x0;url=//m1-3000.edge.dev", b"5;url=/a", b"0; url=https://example.com/", b"x"]
)
def test_r05_a_refresh_to_elsewhere_is_unchanged(value: bytes) -> None:
    assert rewrite_refresh(value, UPSTREAM, PUBLIC, 3000) == value


urls = st.sampled_from(
    [b"//m1-3000.edge.dev", b"https://m1-3000.edge.dev/a", b"http:\\\\localhost:3000", b"//c.dev", b"/x"]
)
between = st.sampled_from(
    [b"<", b">", b"; rel=preload", b", ", b'"', b"'", b"?edge_token=1", b"0", b";", b"url=", b" ", b"\t"]
)
rest = st.from_regex(rb"[\t\x20-\x7e\x80-\xff]{0,3}", fullmatch=True)  # a value with a control is refused before
hostile = st.lists(urls | between | rest, max_size=10).map(b"".join)


def leads_upstream(url: bytes) -> bool:
    scheme = re.match(rb"([A-Za-z][A-Za-z0-9+.-]*):", re.sub(rb"[\t\r\n]", b"", url).strip(bytes(range(0x21))))
    followed = scheme is None or scheme[1].lower() in (b"http", b"https", b"ws", b"wss")
    return followed and host_by_browser(url) == UPSTREAM.host


@given(hostile)
def test_r05_no_link_target_leads_to_the_upstream(value: bytes) -> None:
    rewritten = rewrite_link(value, UPSTREAM, PUBLIC, 3000)
    assert not [target for target in re.findall(rb"<([^>]*)", rewritten) if leads_upstream(target)]
    assert re.sub(rb"<[^>]*", b"<", rewritten) == re.sub(rb"<[^>]*", b"<", value)


def refreshed_by_browser(value: str) -> str | None:
    """HTML §4.2.5.3, the shared declarative refresh steps: the URL that is gone to, None for the page itself."""
    parsed = re.match(r"[\t\n\f\r ]*(?:[0-9]+|(?=\.))[0-9.]*(.*)\Z", value, re.DOTALL)
    if parsed is None or not parsed[1] or parsed[1][0] not in ";,\t\n\f\r ":
        return None
    rest = re.sub(r"\A[\t\n\f\r ]*[;,]?[\t\n\f\r ]*", "", parsed[1])
    rest = re.sub(r"\Aurl[\t\n\f\r ]*=[\t\n\f\r ]*", "", rest, flags=re.IGNORECASE)
    if rest[:1] in ("'", '"'):
        return rest[1:].partition(rest[0])[0]
    return rest or None


@given(st.sampled_from([b"0", b" 5", b"1.5", b".", b"", b"\t0 "]), st.sampled_from([b";", b",", b" ", b" ; "]), hostile)
def test_r05_no_refresh_leads_to_the_upstream(seconds: bytes, separator: bytes, rest: bytes) -> None:
    rewritten = rewrite_refresh(seconds + separator + rest, UPSTREAM, PUBLIC, 3000)
    url = refreshed_by_browser(rewritten.decode("latin-1"))
    assert url is None or not leads_upstream(url.encode("latin-1"))
