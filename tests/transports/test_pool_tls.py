"""The pool over TLS: whose certificates it takes."""

from __future__ import annotations

import ssl

import httpx
import pytest
import trustme

from preview_proxy.core.models import Endpoint, Origin, Outbound
from preview_proxy.transports.pool import UpstreamPool
from preview_proxy.transports.request import NO_BODY, UpstreamRequest
from tests.tls import SaysOk
from tests.transports.test_pool import fetch

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("name", ["3000-mch-1.preview.localhost", "3000-mch_1.preview.localhost"])
async def test_h16_certificates_are_verified_also_for_names_with_an_underscore(name: str) -> None:
    authority = trustme.CA()
    good, bad = (ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) for _ in range(2))
    authority.issue_cert("*.preview.localhost").configure_cert(good)
    authority.issue_cert("*.elsewhere.localhost").configure_cert(bad)

    def trusting() -> ssl.SSLContext:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        return context

    for context, new_context, works in (
        (good, trusting, True),
        (bad, trusting, False),
        (good, ssl.create_default_context, False),
    ):
        pool = UpstreamPool(new_context=new_context)
        async with SaysOk(context) as upstream:
            endpoint = Endpoint(Origin("https", name, upstream.port))
            asked = UpstreamRequest(
                Outbound("GET", endpoint, b"/", ((b"host", b"x"),), has_body=False, content_length=None), NO_BODY
            )
            if works:
                assert (await fetch(pool, asked))[1] == b"ok"
            else:
                with pytest.raises(httpx.ConnectError):
                    await pool.handle_async_request(asked)
        assert [bool(raw) for raw in upstream.raw] == [works]
        await pool.aclose()
