"""Waiting for a preview to answer: by the provider's word, or by the app's own."""

from __future__ import annotations

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from preview_proxy import (
    Endpoint,
    HostPattern,
    Origin,
    Preview,
    PreviewProxy,
    Provider,
    Static,
    Target,
    Tickets,
    readiness,
)
from preview_proxy.errors import MachineUnavailable, NotFound
from preview_proxy.providers.cache import TargetCache
from preview_proxy.providers.static import fixed_target
from preview_proxy.testing import DevServer
from preview_proxy.transports.request import UpstreamRequest, UpstreamResponse
from tests.servers import listening
from tests.turns import pass_time
from tests.world import EMBEDDER, MACHINE, SECRET, world

pytestmark = pytest.mark.anyio
PREVIEW = Preview("docs", 80)


async def authorize(subject: str, preview: Preview) -> bool:
    return True


def proxy_of(provider: Provider) -> PreviewProxy:
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


async def test_what_it_said_last_is_told_when_it_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    class Busy(UpstreamResponse):
        async def aclose(self) -> None:
            pass

    class Starting:
        """Answers once; while it is asked again, the time is up."""

        asked = 0

        async def send(self, request: UpstreamRequest) -> UpstreamResponse:
            self.asked += 1
            if self.asked == 2:
                pass_time(61, monkeypatch)
                await anyio.sleep_forever()
            return Busy(503, [], None)

        async def aclose(self) -> None:
            pass

    monkeypatch.setattr(readiness, "POLL", 0)
    provider = static(1)
    with pytest.raises(MachineUnavailable) as caught:
        await readiness.wait_until_ready(PREVIEW, provider, TargetCache(provider, timeout=5), Starting(), 60)
    assert (caught.value.code, caught.value.detail) == ("preview_service_not_ready", "it answers 503")


async def test_a_preview_without_http_is_not_asked() -> None:
    """Whether a WebSocket would be taken, nobody knows before there is one."""

    class Sockets:
        async def resolve(self, preview: Preview) -> Target:
            return Target("sockets", None, Endpoint(Origin("http", "nowhere.localhost", 1)))

    async with proxy_of(Sockets()) as proxy:
        with anyio.fail_after(10):
            await proxy.wait_until_ready(PREVIEW, timeout=5)


async def test_what_waiting_does_not_mend_is_told_at_once() -> None:
    async with proxy_of(Static({})) as proxy:
        with anyio.fail_after(10), pytest.raises(NotFound):
            await proxy.wait_until_ready(PREVIEW, timeout=60)
