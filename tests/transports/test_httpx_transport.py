"""What httpx's own transport brings in the pool's place: HTTP/2 to upstream, and an egress proxy."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import httpx
import pytest
import trustme
from hypercorn.asyncio import serve
from hypercorn.config import Config
from starlette.types import Receive, Scope, Send

from preview_proxy import Preview, Provider, Static
from preview_proxy.providers.static import fixed_target
from preview_proxy.testing import NullspaceEmulator
from tests.servers import listening
from tests.tls import SaysOk
from tests.world import MACHINE, world

pytestmark = pytest.mark.anyio


@dataclass
class Upstream:
    """A dev server that speaks HTTP/2 over TLS, and says which version of HTTP it was asked in."""

    port: int
    trust: ssl.SSLContext

    def provider(self, _: NullspaceEmulator) -> Provider:
        target = fixed_target(f"https://dev.localhost:{self.port}", allow_insecure_loopback=True)
        return Static({Preview(MACHINE, 3000): target})


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[Upstream]:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            body = scope["http_version"].encode()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": body})

    authority, trust = trustme.CA(), ssl.create_default_context()
    authority.configure_trust(trust)
    certificate = authority.issue_cert("dev.localhost", "127.0.0.1")  # the latter is what a tunnel is opened to
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    listener = listening()
    port = listener.getsockname()[1]
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.certfile = config.keyfile = str(tmp_path / "server.pem")
    config.loglevel = "ERROR"
    stop = anyio.Event()
    running = asyncio.create_task(serve(app, config, shutdown_trigger=stop.wait))  # type: ignore[arg-type]
    yield Upstream(port, trust)
    stop.set()
    await running


@dataclass
class Egress:
    """A proxy of the company's own, which opens tunnels (RFC 9110 §9.3.6)."""

    port: int = 0
    opened: list[bytes] = field(default_factory=list)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)
        self.opened.append(request[1])
        host, _, port = request[1].decode().rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


@asynccontextmanager
async def egress() -> AsyncIterator[Egress]:
    made = Egress()
    async with await asyncio.start_server(made, "127.0.0.1", 0) as server:
        made.port = server.sockets[0].getsockname()[1]
        yield made


async def test_upstream_is_asked_in_http_2(upstream: Upstream) -> None:
    transport = httpx.AsyncHTTPTransport(http2=True, verify=upstream.trust, trust_env=False)
    async with world(provider=upstream.provider, transport=transport) as w:
        assert (await w.get("/")).body == b"2"


async def test_upstream_is_reached_through_an_egress_proxy(upstream: Upstream) -> None:
    async with egress() as proxy:
        through = httpx.Proxy(f"http://127.0.0.1:{proxy.port}")
        transport = httpx.AsyncHTTPTransport(proxy=through, verify=upstream.trust, trust_env=False)
        async with world(provider=upstream.provider, transport=transport) as w:
            assert (await w.get("/")).body == b"1.1"
        assert proxy.opened == [b"127.0.0.1:%d" % upstream.port]


async def test_a_certificate_that_is_not_trusted_is_not_talked_to() -> None:
    authority, certified = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("dev.localhost").configure_cert(certified)
    trust, distrust = ssl.create_default_context(), ssl.create_default_context()
    authority.configure_trust(trust)
    async with SaysOk(certified) as server:
        for verify in (trust, distrust):
            transport = httpx.AsyncHTTPTransport(http2=True, verify=verify, trust_env=False)
            async with world(provider=Upstream(server.port, trust).provider, transport=transport) as w:
                answer = await w.get("/")
                assert answer.body == b"ok" if verify is trust else answer.code == "upstream_unreachable"
        await server.changes.until(lambda: server.connection_errors == 1)
        assert [bool(raw) for raw in server.raw] == [True, False]
