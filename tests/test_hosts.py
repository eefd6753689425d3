from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preview_proxy.core.models import Origin, Preview
from preview_proxy.core.snapshot import parse_authority
from preview_proxy.errors import ConfigurationError, Misdirected
from preview_proxy.hosts import HostPattern, HostTable, Routed, Router, first_of

pytestmark = pytest.mark.anyio

PATTERN = "{port}-{machine}.previews.dev"
PREVIEWS = HostPattern(PATTERN)
M1 = Preview("m1", 3000)


async def seen(router: Router, authority: str) -> Routed | str | None:
    try:
        return await router(authority)
    except Misdirected:
        return "misdirected"


def seen_now(router: Router, authority: str) -> Routed | str | None:
    """The answer of a router that waits for nothing, without an event loop for each of many."""
    try:
        seen(router, authority).send(None)
    except StopIteration as answered:
        return cast("Routed | str | None", answered.value)
    raise AssertionError("the router waits")


@pytest.mark.parametrize(
    ("pattern", "host", "machine", "port"),
    [
        (PATTERN, "3000-m1.previews.dev", "m1", 3000),
        (PATTERN, "3000-mch_a1b2-c3.previews.dev", "mch_a1b2-c3", 3000),
        (PATTERN, "1-0.previews.dev", "0", 1),
        (PATTERN, "65535-3000-m.previews.dev", "3000-m", 65535),
        ("{machine}-{port}.previews.dev", "m-3000-4000.previews.dev", "m-3000", 4000),
        ("{machine}--{port}.previews.dev", "m--3000.previews.dev", "m", 3000),
        ("p-{port}_{machine}-x.previews.dev", "p-3000_m1-x.previews.dev", "m1", 3000),
        ("{port}-{machine}.localhost", "3000-m1.localhost", "m1", 3000),
        ("{port}-{machine}.a.b.c.dev", "3000-m1.a.b.c.dev", "m1", 3000),
    ],
)
async def test_p01_a_host_of_the_pattern_is_a_preview(pattern: str, host: str, machine: str, port: int) -> None:
    routed = Routed(Preview(machine, port), Origin("https", host, 443))
    assert await HostPattern(pattern)(host) == routed
    assert HostPattern(pattern).host_for(routed.preview) == routed.public


@pytest.mark.parametrize(
    "host",
    [
        "previews.dev",
        "m1.previews.dev",
        "3000.previews.dev",
        "3000-.previews.dev",
        "-m1.previews.dev",
        "0-m.previews.dev",
    ]
    + [
        "022-m.previews.dev",
        "65536-m.previews.dev",
        "123456-m.previews.dev",
        "x-m.previews.dev",
        "3000-m_.previews.dev",
    ]
    + ["3000-m1.a.previews.dev", "a.3000-m1.previews.dev", "www.previews.dev", "3000-m1.previews.dev:8443"]
    + ["3000-m1.previews.dev:80", "3000-_m.previews.dev", "3000_m1.previews.dev"],
)
async def test_p02_an_unknown_host_in_the_zone_never_falls_through(host: str) -> None:
    with pytest.raises(Misdirected):
        await PREVIEWS(host)


@pytest.mark.parametrize(
    "host",
    [
        "app.acme.com",
        "dev",
        "previews.dev.evil.com",
        "evilpreviews.dev",
        "3000-m1.previews.dev.evil.com",
        "localhost:8000",
    ]
    + ["3000-m1-previews.dev", "3000-m1.previews.devil", "127.0.0.1", ""],
)
async def test_p02_a_host_outside_the_zone_is_not_ours(host: str) -> None:
    assert await PREVIEWS(host) is None


async def test_p01_every_spelling_of_a_host_is_one_preview() -> None:
    for value in (b"3000-m1.previews.dev", b"3000-M1.PREVIEWS.DEV.:443", b"3000-m1.previews.dev."):
        authority = parse_authority(value, "https")
        assert authority is not None
        assert await PREVIEWS(authority) == Routed(M1, Origin("https", "3000-m1.previews.dev", 443))


async def test_the_public_port_is_part_of_the_host() -> None:
    pattern = HostPattern("{port}-{machine}.preview.localhost", scheme="http", port=8000)
    public = Origin("http", "3000-m1.preview.localhost", 8000)
    assert await pattern("3000-m1.preview.localhost:8000") == Routed(M1, public)
    assert pattern.host_for(M1) == public
    assert await seen(pattern, "3000-m1.preview.localhost") == "misdirected"
    assert await seen(pattern, "3000-m1.preview.localhost:80001") == "misdirected"


async def test_a_default_port_needs_no_field() -> None:
    pattern = HostPattern("{machine}.previews.dev", default_port=3000)
    assert await pattern("m-1.previews.dev") == Routed(Preview("m-1", 3000), Origin("https", "m-1.previews.dev", 443))
    assert pattern.host_for(Preview("m-1", 3000)) == Origin("https", "m-1.previews.dev", 443)
    assert pattern.host_for(Preview("m-1", 3001)) is None


@pytest.mark.parametrize(
    "preview",
    [Preview("M1", 3000), Preview("m.1", 3000), Preview("m" * 60, 3000), Preview("m1", 3000, generation=1)],
    ids=["upper case", "dot", "too long for a label", "another generation"],
)
async def test_a_preview_that_no_host_of_the_pattern_leads_to_has_none(preview: Preview) -> None:
    assert PREVIEWS.host_for(preview) is None


machines = st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9._-]{0,70}[a-zA-Z0-9])?", fullmatch=True)
patterns = st.sampled_from(
    [
        PATTERN,
        "{machine}-{port}.previews.dev",
        "{port}0{machine}.x.dev",
        "a{machine}1{port}-b.x.dev",
        "{machine}1{port}.x.dev",
    ]
)


@given(patterns, st.builds(Preview, machines, st.integers(1, 65535), st.sampled_from([0, 0, 0, 1])))
def test_a_preview_s_host_leads_back_to_it(pattern: str, preview: Preview) -> None:
    router = HostPattern(pattern)
    public = router.host_for(preview)
    if public is not None:
        assert parse_authority(public.authority.encode(), "https") == public.authority
        assert seen_now(router, public.authority) == Routed(preview, public)


labels = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", fullmatch=True)


@given(
    patterns,
    labels | st.builds("{}-{}".format, st.integers(0, 70000), labels),
    st.sampled_from([".previews.dev", ".x.dev"]),
)
def test_a_host_s_preview_leads_back_to_it(pattern: str, label: str, zone: str) -> None:
    router = HostPattern(pattern)
    routed = seen_now(router, label + zone)
    if isinstance(routed, Routed) and len(label) <= 63:
        assert routed.public.authority == label + zone
        assert router.host_for(routed.preview) == routed.public


@given(
    patterns, st.binary(max_size=30), st.sampled_from([b"", b".previews.dev", b".x.dev", b".x.dev:443", b".x.dev:80"])
)
def test_p02_any_bytes_are_a_preview_outside_the_zone_or_refused(pattern: str, start: bytes, end: bytes) -> None:
    authority = parse_authority(start + end, "https")
    if authority is not None:
        zone = pattern.partition(".")[2]
        inside = f".{authority.partition(':')[0]}".endswith(f".{zone}")
        routed = seen_now(HostPattern(pattern), authority)
        assert (routed is not None) is inside
        assert not isinstance(routed, Routed) or routed.public.authority == authority


@pytest.mark.parametrize(
    "pattern",
    ["", "previews.dev", "{machine}.previews.dev", "{port}.previews.dev", "{port}-{machine}", "{port}-{machine}."]
    + ["{port}{machine}.previews.dev", "{port}-{machine}-{port}.previews.dev", "{port}-{name}.previews.dev"]
    + ["{port}.{machine}.previews.dev", "https://{port}-{machine}.previews.dev", "{port}-{machine}.previews.dev:8443"]
    + ["{port}-{machine}.previews.dev/", "{port}-{machine}.Previews.dev", "P{port}-{machine}.previews.dev"]
    + [
        "{port}-{machine}.previews.dev.",
        "*.{port}-{machine}.dev",
        "-{port}-{machine}.previews.dev",
        "{}-{}.previews.dev",
    ]
    + ["{port!r}-{machine}.previews.dev", "{port}-{machine}}.previews.dev", "{{port}-{machine}.previews.dev"]
    + ["{{port}}-{{machine}}.previews.dev", "}{port}-{machine}.previews.dev", "{port}-{machine}.pre}views.dev"]
    + ["{port}-{machine}.pre{x}views.dev", "x" * 61 + "{port}-{machine}.previews.dev", "{port} {machine}.previews.dev"],
)
def test_a_pattern_of_another_form_is_refused(pattern: str) -> None:
    with pytest.raises(ConfigurationError, match=r"must be one label|needs a '-'"):
        HostPattern(pattern)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheme": "ftp"}, "scheme must be"),
        ({"scheme": "http"}, "needs scheme='https'"),
        ({"port": 0}, "port must be from 1"),
        ({"port": 65536}, "port must be from 1"),
        ({"default_port": 3000}, "must be one label with {machine}, a dot"),
    ],
)
def test_e04_a_public_origin_that_could_not_work_is_refused(options: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        HostPattern(PATTERN, **options)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_p19_a_default_port_is_a_port(port: int) -> None:
    with pytest.raises(ConfigurationError, match="default_port must be from 1 to 65535"):
        HostPattern("{machine}.previews.dev", default_port=port)


@pytest.mark.parametrize(
    ("host", "claimed"),
    [
        (b"3000-m1.previews.dev:x", True),
        (b"user@3000-m1.PREVIEWS.dev", True),
        (b"3000-m1.previews.dev\t", True),
        (b"app.acme.com", False),
        (b"", False),
    ],
)
def test_p01_a_malformed_host_that_mentions_the_zone_is_claimed(host: bytes, claimed: bool) -> None:
    assert PREVIEWS.claims(host) is claimed


CUSTOM = {"docs.acme.dev": M1, "shop.acme.dev": Preview("m2", 8080, generation=3)}


async def test_p01_a_table_is_looked_up_and_never_matched() -> None:
    table = HostTable(CUSTOM)
    public = Origin("https", "shop.acme.dev", 443)
    assert await table("shop.acme.dev") == Routed(CUSTOM["shop.acme.dev"], public)
    assert table.host_for(CUSTOM["shop.acme.dev"]) == public
    for host in ("xshop.acme.dev", "acme.dev", "shop.acme.dev.evil.com", "a.shop.acme.dev", ""):
        assert await table(host) is None
    assert table.host_for(Preview("m2", 8080)) is None


async def test_a_table_s_host_at_another_port_is_misdirected() -> None:
    assert await seen(HostTable(CUSTOM), "shop.acme.dev:8443") == "misdirected"
    table = HostTable({"a.localhost": M1}, scheme="http", port=8000)
    assert await table("a.localhost:8000") == Routed(M1, Origin("http", "a.localhost", 8000))
    assert await seen(table, "a.localhost") == "misdirected"


def test_p01_a_malformed_host_that_mentions_one_of_the_table_is_claimed() -> None:
    assert HostTable(CUSTOM).claims(b"user@DOCS.acme.dev")
    assert not HostTable(CUSTOM).claims(b"app.acme.com")


@pytest.mark.parametrize(
    "host", ["", "Docs.acme.dev", "https://docs.acme.dev", "docs.acme.dev:443", "*.acme.dev", "d.dev/"]
)
def test_a_table_s_host_is_a_host_name(host: str) -> None:
    with pytest.raises(ConfigurationError, match="must be a host name in lower case"):
        HostTable({host: M1})


def test_e04_plain_http_is_for_localhost_only() -> None:
    with pytest.raises(ConfigurationError, match="needs scheme='https'"):
        HostTable(CUSTOM, scheme="http")
    with pytest.raises(ConfigurationError, match="scheme must be"):
        HostTable({}, scheme="ws")


class Database:
    """The customer's table of hosts, and how often it was asked."""

    def __init__(self, rows: dict[str, Preview]) -> None:
        self.rows = rows
        self.asked: list[str] = []
        self.now = 0.0

    async def find(self, host: str) -> Preview | None:
        self.asked.append(host)
        return self.rows.get(host)

    def clock(self) -> float:
        return self.now


async def test_a_lookup_is_asked_once_per_host_and_ttl() -> None:
    database = Database({"docs.acme.dev": M1})
    table = HostTable(database.find, ttl=10, clock=database.clock)
    for _ in range(3):
        assert await table("docs.acme.dev") == Routed(M1, Origin("https", "docs.acme.dev", 443))
        assert await table("app.acme.com") is None
    assert database.asked == ["docs.acme.dev", "app.acme.com"]
    database.rows = {"app.acme.com": Preview("m2", 1)}
    database.now = 9.9
    assert await table("docs.acme.dev") is not None
    database.now = 10.0
    assert await table("docs.acme.dev") is None
    assert await table("app.acme.com") == Routed(Preview("m2", 1), Origin("https", "app.acme.com", 443))


async def test_a_flood_of_hosts_does_not_grow_the_table() -> None:
    database = Database({})
    table = HostTable(database.find, clock=database.clock)
    for number in range(10_001):
        await table(f"h{number}.dev")
    await table("h10000.dev")
    assert len(database.asked) == 10_001
    await table("h0.dev")
    assert database.asked[10_001:] == ["h0.dev"]


async def test_e04_a_looked_up_host_over_plain_http_must_be_localhost() -> None:
    table = HostTable(Database({"docs.acme.dev": M1, "docs.localhost": M1}).find, scheme="http")
    assert await table("docs.localhost") == Routed(M1, Origin("http", "docs.localhost", 80))
    assert await seen(table, "docs.acme.dev") == "misdirected"


async def test_a_lookup_does_not_list_its_hosts() -> None:
    table = HostTable(Database({"docs.acme.dev": M1}).find)
    assert table.host_for(M1) is None
    assert not table.claims(b"docs.acme.dev")


BOTH = first_of(PREVIEWS, HostTable({"docs.previews.dev": M1, "docs.acme.dev": Preview("m.2", 1)}))


@pytest.mark.parametrize(
    ("host", "preview"),
    [
        ("3000-m1.previews.dev", M1),
        ("docs.acme.dev", Preview("m.2", 1)),
        ("docs.previews.dev", M1),
        ("app.acme.com", None),
        ("x.previews.dev", "misdirected"),
        ("docs.acme.dev:1", "misdirected"),
    ],
)
async def test_the_first_router_that_knows_the_host_decides(host: str, preview: Preview | str | None) -> None:
    routed = await seen(BOTH, host)
    assert (routed.preview if isinstance(routed, Routed) else routed) == preview


async def test_several_routers_answer_like_one() -> None:
    assert BOTH.host_for(M1) == Origin("https", "3000-m1.previews.dev", 443)
    assert BOTH.host_for(Preview("m.2", 1)) == Origin("https", "docs.acme.dev", 443)
    assert BOTH.host_for(Preview("m.3", 1)) is None
    assert BOTH.claims(b"@docs.acme.dev")
    assert BOTH.claims(b"x.previews.dev:x")
    assert not BOTH.claims(b"app.acme.com")
    assert first_of().host_for(M1) is None
    assert await first_of()("app.acme.com") is None


def test_routers_show_what_they_were_made_of() -> None:
    assert repr(BOTH) == "first_of(HostPattern('{port}-{machine}.previews.dev', scheme='https'), HostTable(2 hosts))"
    assert repr(HostTable(Database({}).find)) == "HostTable(an async function)"
