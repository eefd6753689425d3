from __future__ import annotations

from itertools import product
from typing import Literal

import pytest

from preview_proxy.core.cross_site import check_origin
from preview_proxy.core.models import Inbound, Origin, RawHeaders, Rejected

PUBLIC = Origin("https", "p1.previews.dev", 443)
OWN = b"https://p1.previews.dev"

# What is not ours: siblings, look-alikes, other schemes and ports, opaque and malformed
FOREIGN = [
    b"https://p2.previews.dev",
    b"https://previews.dev",
    b"https://p1.previews.dev.evil.com",
    b"https://evilp1.previews.dev",
    b"https://p1.previews.dev:8443",
    b"https://p1.previews.dev:443",
    b"http://p1.previews.dev",
    b"https://P1.previews.dev",
    b"https://p1.previews.dev/",
    b"https://p1.previews.dev.",
    b"https://user@p1.previews.dev",
    b"https://p1xpreviews.dev",
    b"null",
    b"",
]


def allowed(
    method: str = "GET",
    *,
    kind: Literal["http", "websocket"] = "http",
    origin: bytes | list[bytes] | None = None,
    site: bytes | None = None,
    mode: bytes | None = None,
    dest: bytes | None = None,
) -> bool:
    origins = origin if isinstance(origin, list) else [origin]
    fetch = [(b"sec-fetch-site", site), (b"sec-fetch-mode", mode), (b"sec-fetch-dest", dest)]
    fields = [*((b"origin", value) for value in origins), *fetch]
    headers: RawHeaders = tuple((name, value) for name, value in fields if value is not None)
    inbound = Inbound(kind, method, "https", "1.1", PUBLIC.authority, b"/", b"", headers, None, False, None)
    try:
        check_origin(inbound, PUBLIC)
    except Rejected as rejected:
        return rejected.code != "cross_site"
    return True


def test_w02_a_websocket_of_the_preview_s_own_page_may_open() -> None:
    assert allowed(kind="websocket", origin=OWN)


@pytest.mark.parametrize("origin", [None, *FOREIGN, [OWN, OWN], [OWN, b"https://evil.com"]], ids=repr)
def test_w02_no_other_websocket_may(origin: bytes | list[bytes] | None) -> None:
    assert not allowed(kind="websocket", origin=origin)
    assert not allowed(kind="websocket", origin=origin, site=b"same-origin", mode=b"websocket", dest=b"empty")


UNSAFE = ["POST", "PUT", "PATCH", "DELETE", "PROPFIND", "QUERY", "get", "X"]


@pytest.mark.parametrize("method", UNSAFE)
def test_a13_an_unsafe_method_needs_the_preview_s_own_origin(method: str) -> None:
    assert allowed(method, origin=OWN)
    assert allowed(method, origin=OWN, site=b"same-origin", mode=b"cors", dest=b"empty")
    assert allowed(method, site=b"same-origin")
    assert not allowed(method)


@pytest.mark.parametrize("origin", [*FOREIGN, [OWN, b"https://evil.com"]], ids=repr)
def test_a13_an_unsafe_method_from_another_origin_is_refused(origin: bytes | list[bytes]) -> None:
    assert not allowed("POST", origin=origin)
    assert not allowed("POST", origin=origin, site=b"same-origin")
    assert not allowed("POST", origin=origin, site=b"cross-site", mode=b"navigate", dest=b"iframe")


@pytest.mark.parametrize("site", [b"none", b"same-site", b"cross-site", b"", b"Same-Origin", b"x"])
def test_a13_without_an_origin_fetch_metadata_must_say_same_origin(site: bytes) -> None:
    assert not allowed("POST", site=site)
    assert not allowed("POST", site=site, mode=b"navigate", dest=b"document")


SITES = [None, b"same-origin", b"none", b"same-site", b"cross-site", b"", b"SAME-ORIGIN", b"unheard-of"]
MODES = [None, b"navigate", b"cors", b"no-cors", b"same-origin", b"websocket", b"nested-navigate", b"unheard-of"]
DESTINATIONS = [None, b"document", b"iframe", b"frame", b"empty", b"image", b"script", b"style", b"worker", b"object"]
DESTINATIONS += [b"embed", b"serviceworker", b"fencedframe", b"", b"unheard-of"]


@pytest.mark.parametrize(("site", "mode"), list(product(SITES, MODES)))
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_a13_the_whole_fetch_metadata_matrix(method: str, site: bytes | None, mode: bytes | None) -> None:
    for dest in DESTINATIONS:
        ours_or_old = site in (None, b"same-origin", b"none")
        navigation = mode == b"navigate" and dest in (b"document", b"iframe", b"frame")
        expected = ours_or_old or (site in (b"same-site", b"cross-site") and navigation)
        assert allowed(method, site=site, mode=mode, dest=dest) is expected, dest


def test_a13_reading_with_an_origin_is_judged_by_fetch_metadata_alone() -> None:
    assert allowed(origin=OWN, site=b"same-origin", mode=b"cors", dest=b"empty")
    assert not allowed(origin=OWN, site=b"cross-site", mode=b"cors", dest=b"empty")


def test_a13_a_no_cors_subresource_of_another_site_is_refused() -> None:
    assert not allowed(site=b"cross-site", mode=b"no-cors", dest=b"image")
    assert not allowed(site=b"same-site", mode=b"no-cors", dest=b"script")
