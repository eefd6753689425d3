"""Sockets that an edge would drop at a known age."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest
from websockets.exceptions import InvalidStatus

from preview_proxy import Nullspace, Preview, Target
from preview_proxy.testing import NullspaceEmulator, WebSocket
from tests.apart import Apart
from tests.servers import WEBSOCKET_SERVERS
from tests.transports.test_relay_websocket import closed, dial
from tests.world import world

pytestmark = pytest.mark.anyio


class Aging(Nullspace):
    """A provider whose edge drops sockets of half a second."""

    async def resolve(self, preview: Preview) -> Target:
        target = await super().resolve(preview)
        assert target.websocket is not None
        return replace(target, websocket=replace(target.websocket, max_socket_age=0.5))


@pytest.mark.parametrize("server", [name for name, each in WEBSOCKET_SERVERS.items() if not isinstance(each, Apart)])
async def test_a_socket_is_closed_on_both_sides_before_the_edge_would_drop_it(server: str) -> None:
    def aging(nullspace: NullspaceEmulator) -> Nullspace:
        return Aging(
            api_key=nullspace.api_key,
            base_url=nullspace.api_url,
            domains=[nullspace.edge_domain],
            allow_insecure_loopback=True,
        )

    async with world(serve=WEBSOCKET_SERVERS[server], provider=aging) as w:
        with anyio.fail_after(10):
            async with dial(w) as socket:
                await socket.send("hello")
                assert await socket.recv() == "hello"
                assert await closed(socket) == (1012, "reconnect")
            await w.dev.wait_for(lambda dev: dev.websockets[0].close_code == 1012)
            async with dial(w) as socket:
                await socket.send("again")
                assert await socket.recv() == "again"


async def test_w05_a_wrong_101_is_closed() -> None:
    async with world() as w:

        @w.dev.websocket("/lies")
        async def lies(socket: WebSocket) -> None:
            head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            await socket.raw(head + b"Sec-WebSocket-Accept: no\r\n\r\n")
            await anyio.sleep_forever()

        with pytest.raises(InvalidStatus):
            async with dial(w, "/lies"):
                pass
        with anyio.fail_after(5):
            await w.dev.wait_for(lambda dev: dev.open_connections == 0)
