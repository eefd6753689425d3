"""Waiting for a preview to answer: by the provider's word, or by the app's own."""

from __future__ import annotations

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from preview_proxy import HostPattern, Preview, PreviewProxy, Static, Tickets
from preview_proxy.errors import MachineUnavailable, NotFound
from preview_proxy.providers.static import fixed_target
from preview_proxy.testing import DevServer
from tests.servers import listening
from tests.world import EMBEDDER, MACHINE, SECRET, world

pytestmark = pytest.mark.anyio
PREVIEW = Preview("docs", 80)


async def authorize(subject: str, preview: Preview) -> bool:
    return True


def proxy_of(provider: Static) -> PreviewProxy:
    return PreviewProxy(
        router=HostPattern("{port}-{machine}.preview.localhost", scheme="http"),
        provider=provider,
        tickets=Tickets(SECRET, [EMBEDDER]),
        authorize=authorize,
    )


def static(port: int) -> Static:
    return Static({PREVIEW: fixed_target(f"http://localhost:{port}", allow_insecure_loopback=True)})


async def test_the_provider_is_asked_where_it_can_tell() -> None:
    async with world() as w:
        with anyio.fail_after(10):
            await w.proxy.wait_until_ready(Preview(MACHINE, 3000), timeout=5)
            with pytest.raises(MachineUnavailable):
                await w.proxy.wait_until_ready(Preview(MACHINE, 3001), timeout=1)
        assert w.nullspace.mints == 0
        assert w.dev.received == []


async def test_else_the_app_is_asked_itself() -> None:
    async with DevServer() as dev, proxy_of(static(dev.port)) as proxy:
        with anyio.fail_after(10):
            await proxy.wait_until_ready(PREVIEW)
        [received] = dev.received
        assert (received.method, received.target) == (b"GET", b"/")


async def test_it_is_asked_until_it_answers() -> None:
    answers = [b"", b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 404 Not Found\r\n\r\n"]

    async def answer(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(answers.pop(0))

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)
    async with listener, proxy_of(static(port)) as proxy, anyio.create_task_group() as group:
        group.start_soon(listener.serve, answer)
        with anyio.fail_after(20):
            await proxy.wait_until_ready(PREVIEW)
        group.cancel_scope.cancel()
    assert answers == []


async def test_one_that_never_answers_is_given_up() -> None:
    listener = listening()
    port = listener.getsockname()[1]
    listener.close()
    async with proxy_of(static(port)) as proxy:
        with anyio.fail_after(10), pytest.raises(MachineUnavailable) as caught:
            await proxy.wait_until_ready(PREVIEW, timeout=0.01)
    assert caught.value.__context__ is None


async def test_what_waiting_does_not_mend_is_told_at_once() -> None:
    async with proxy_of(Static({})) as proxy:
        with anyio.fail_after(10), pytest.raises(NotFound):
            await proxy.wait_until_ready(PREVIEW, timeout=60)
