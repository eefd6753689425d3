"""The emulated edge: bytes that pass as they are, and connections that end as they should."""

from __future__ import annotations

import asyncio
import re
import ssl

import anyio
import pytest
import trustme
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedError

from preview_proxy.testing import DevServer, EdgeSwitches, NullspaceEmulator, Request, Response
from preview_proxy.testing.nullspace_state import TOKEN_HEADER
from tests.testing.edge import MARKER, UPGRADE, Edge, mint

pytestmark = pytest.mark.anyio


async def test_one_connection_carries_refused_and_served_requests(edge: Edge) -> None:
    upload = edge.get(f"/echo?{MARKER}", "Content-Length: 4", token="bad-token", method="POST") + b"body"
    refused_head = edge.get("/", method="HEAD")
    refused_upgrade = edge.get("/", *UPGRADE)
    served = edge.get(f"/bytes/3?{MARKER}")
    end = edge.get(f"/status/204?{MARKER}", "Connection: close")
    answer = await edge.talk(upload + refused_head + refused_upgrade + served + served + end)
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"401", b"401", b"401", b"200", b"200", b"204"]
    assert len(edge.dev.connections) == 3
    assert edge.nullspace.edge_connections == 0


async def test_a_continuation_cookie_is_set_where_the_switch_says_so(edge: Edge) -> None:
    edge.nullspace.switches.continuation_cookie = "__ns_preview"
    _, _, head = await edge.ask()
    assert "\r\nSet-Cookie: __ns_preview=" in head


async def test_bodies_stream_both_ways(edge: Edge) -> None:
    reader, writer = await edge.connect()
    writer.write(edge.get(f"/body?{MARKER}", "Transfer-Encoding: chunked", method="POST") + b"3\r\none\r\n")
    await reader.readuntil(b"one\r\n")
    writer.write(b"3\r\ntwo\r\n0\r\n\r\n")
    await reader.readuntil(b"two\r\n0\r\n\r\n")
    writer.write(edge.get(f"/status/200?{MARKER}", "Connection: close"))
    assert b"status 200" in await reader.read()
    assert (edge.grant.requests["http"], edge.grant.use_count) == (2, 2)
    assert edge.grant.bytes_in > 0 and edge.grant.bytes_out > 0
    writer.close()


async def test_an_answer_before_the_end_of_the_upload_passes_at_once(edge: Edge) -> None:
    @edge.dev.route("/early")
    async def early(request: Request, response: Response) -> None:
        await response.send(413, [], b"too much")

    reader, writer = await edge.connect()
    writer.write(edge.get(f"/early?{MARKER}", "Content-Length: 4", method="POST"))
    await reader.readuntil(b"too much")
    writer.write(b"late" + edge.get(f"/status/200?{MARKER}", "Connection: close"))
    assert b"status 200" in await reader.read()
    assert edge.dev.received[0].body == b"late"
    writer.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"\x00\x01 nonsense",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nzzz",
        b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n2",
        b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
    ],
)
async def test_whatever_the_app_says_passes_byte_for_byte(edge: Edge, answer: bytes) -> None:
    @edge.dev.route("/raw")
    async def raw(request: Request, response: Response) -> None:
        await response.raw(answer)

    assert await edge.talk(edge.get(f"/raw?{MARKER}")) == answer


async def test_a_reset_by_the_app_is_passed_on(edge: Edge) -> None:
    @edge.dev.route("/reset")
    async def reset(request: Request, response: Response) -> None:
        await response.start(200, [("Content-Length", "9")])
        response.abort()

    with pytest.raises(ConnectionResetError):
        await edge.talk(edge.get(f"/reset?{MARKER}"))


async def test_an_app_that_dies_during_an_upload_ends_the_connection(edge: Edge) -> None:
    @edge.dev.route("/die")
    async def die(request: Request, response: Response) -> None:
        await edge.dev.wait_for(lambda dev: len(dev.raw[0]) > 100_000)
        response.abort()

    size = 32 * 1024 * 1024  # more than the sockets in between hold
    with pytest.raises(ConnectionError):
        await edge.talk(edge.get(f"/die?{MARKER}", f"Content-Length: {size}", method="POST") + bytes(size))
    assert not edge.dev.received[0].complete


async def test_a_proxy_that_leaves_is_noticed_by_the_app(edge: Edge) -> None:
    reader, writer = await edge.connect()
    writer.write(edge.get(f"/sse?{MARKER}"))
    await reader.readuntil(b"\r\n\r\n")
    writer.close()
    await edge.dev.wait_for(lambda dev: dev.disconnects == 1)
    await edge.nullspace.wait_for(lambda nullspace: nullspace.edge_connections == 0)


async def test_an_upload_that_breaks_off_never_looks_complete_to_the_app(edge: Edge) -> None:
    _, writer = await edge.connect()
    writer.write(edge.get(f"/body?{MARKER}", "Content-Length: 9", method="POST") + b"half")
    await edge.dev.wait_for(lambda dev: bool(dev.received))
    writer.close()
    await edge.dev.wait_for(lambda dev: dev.disconnects == 1)
    assert not edge.dev.received[0].complete


async def test_what_is_not_http_is_refused_and_counted(edge: Edge) -> None:
    assert (await edge.talk(b"nonsense\r\n\r\n")).startswith(b"HTTP/1.1 400")
    assert edge.nullspace.connection_errors == 1


def websocket(edge: Edge, path: str = "/ws") -> connect:
    uri = f"ws://{edge.host}{path}?{MARKER}"
    headers = {TOKEN_HEADER: edge.grant.tokens["websocket"]}
    port = edge.nullspace.edge_port
    return connect(uri, host="127.0.0.1", port=port, additional_headers=headers, proxy=None)


async def test_websockets_pass_both_ways(edge: Edge) -> None:
    async with websocket(edge) as client:
        for message in ("text", b"bytes", "", "x" * 300_000):
            await client.send(message)
            assert await client.recv() == message
        await client.close(4001, "bye")
    await edge.dev.wait_for(lambda dev: dev.websockets[0].close_code == 4001)
    assert not edge.dev.websockets[0].handshake.values(TOKEN_HEADER.encode())
    assert edge.grant.requests == {"http": 0, "websocket": 1}
    assert edge.nullspace.edge_requests[0].kind == "websocket"


async def test_what_a_proxy_sent_before_it_left_still_reaches_the_app(edge: Edge) -> None:
    reader, writer = await edge.connect()
    writer.write(edge.get(f"/ws?{MARKER}", *UPGRADE, token=edge.grant.tokens["websocket"]))
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"\x81\x82\x00\x00\x00\x00hi")
    writer.close()
    await edge.dev.wait_for(lambda dev: dev.websockets[0].close_code == 1006)
    assert edge.dev.websockets[0].messages == ["hi"]


async def test_a_refusal_by_the_app_leaves_the_connection_usable(edge: Edge) -> None:
    token = edge.grant.tokens["websocket"]
    upgrade = edge.get(f"/status/403?{MARKER}", *UPGRADE, token=token)
    answer = await edge.talk(upgrade + edge.get(f"/status/201?{MARKER}", "Connection: close"))
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"403", b"201"]


async def test_a_revocation_ends_open_websockets_where_the_switch_says_so(edge: Edge) -> None:
    async with websocket(edge) as client:
        edge.nullspace.revoke()
        await client.send("still open")
        assert await client.recv() == "still open"
        edge.nullspace.switches.revoke_closes_websockets = True
    edge.grant = await edge.mint()
    async with websocket(edge) as client:
        edge.nullspace.revoke()
        with pytest.raises(ConnectionClosedError):
            await client.recv()


async def test_a_silent_websocket_is_dropped_where_the_switch_says_so(edge: Edge) -> None:
    edge.nullspace.switches.websocket_idle_seconds = 0.05
    async with websocket(edge) as client:
        with pytest.raises(ConnectionClosedError):
            await client.recv()


async def test_the_edge_speaks_tls_with_a_certificate_of_yours() -> None:
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("*.edge.test").configure_cert(server)
    authority.configure_trust(client)
    switches = EdgeSwitches(strip_marker=False)
    with anyio.fail_after(10):
        async with (
            DevServer() as dev,
            NullspaceEmulator(edge_domain="edge.test", ssl_context=server, switches=switches) as nullspace,
        ):
            nullspace.add_machine("mch-1", {3000: dev})  # "mch_1" would need a certificate of its own
            target = await mint(nullspace, machine="mch-1")
            host = "3000-mch-1.edge.test"
            assert target["websocket_url"] == f"wss://{host}:{nullspace.edge_port}/?{MARKER}"
            port = nullspace.edge_port
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname=host)
            head = f"GET /?{MARKER} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
            writer.write(f"{head}{TOKEN_HEADER}: {target['http_token']}\r\n\r\n".encode())
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
            writer.close()
            assert dev.received[0].target == f"/?{MARKER}".encode()
