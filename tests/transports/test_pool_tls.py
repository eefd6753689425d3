"""The pool over TLS: whose certificates it takes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
import trustme

from preview_proxy.core.models import Endpoint, Origin, Outbound
from preview_proxy.transports.pool import UpstreamPool
from preview_proxy.transports.request import NO_BODY, UpstreamRequest
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
        async with tls_server(context) as port:
            endpoint = Endpoint(Origin("https", name, port))
            asked = UpstreamRequest(
                Outbound("GET", endpoint, b"/", ((b"host", b"x"),), has_body=False, content_length=None), NO_BODY
            )
            if works:
                assert (await fetch(pool, asked))[1] == b"ok"
            else:
                with pytest.raises(httpx.ConnectError):
                    await pool.handle_async_request(asked)
        await pool.aclose()


@asynccontextmanager
async def tls_server(context: ssl.SSLContext) -> AsyncIterator[int]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
