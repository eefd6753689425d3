"""Another transport in the pool's place: it alone sees the credential, and it is held to our deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import httpx
import pytest

from preview_proxy import Limits
from preview_proxy.core.models import Endpoint, Origin, Outbound, RawHeaders
from preview_proxy.core.secret import Secret
from preview_proxy.errors import BadRequest
from preview_proxy.transports import foreign
from preview_proxy.transports.foreign import ForeignTransport
from preview_proxy.transports.request import NO_BODY, UpstreamRequest, UpstreamResponse

pytestmark = pytest.mark.anyio

CANARY = "canary-provider-token"
LIMITS = Limits(head_timeout=0.05, idle_timeout=0.05, connect_timeout=3, write_timeout=4, pool_timeout=5)


class Inner(httpx.AsyncBaseTransport):
    """The other transport: it notes what it gets, and answers with `answer`."""

    def __init__(self, answer: Callable[[httpx.Request], Awaitable[httpx.Response]] | None = None) -> None:
        self.requests: list[httpx.Request] = []
        self.closed = False
        self._answer = answer

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return await self._answer(request) if self._answer else httpx.Response(204)

    async def aclose(self) -> None:
        self.closed = True


class Parts(httpx.AsyncByteStream):
    """A body of given parts; None is where it stays silent."""

    def __init__(self, *parts: bytes | None) -> None:
        self.parts = parts
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            if part is None:
                await anyio.sleep_forever()
            else:
                yield part

    async def aclose(self) -> None:
        self.closed = True


def request(
    url: str = "https://up.example",
    method: str = "GET",
    headers: RawHeaders = (),
    body: httpx.AsyncByteStream = NO_BODY,
) -> UpstreamRequest:
    endpoint = Endpoint(Origin.parse(url), credentials=((b"x-token", Secret(CANARY)),))
    has_body = body is not NO_BODY
    return UpstreamRequest(Outbound(method, endpoint, b"/a/../b?%2f", headers, has_body, None), body)


async def ask(inner: Inner, asked: UpstreamRequest) -> UpstreamResponse:
    with anyio.fail_after(5):
        response = await ForeignTransport(inner, LIMITS).send(asked)
    assert isinstance(response, UpstreamResponse)
    return response


async def test_h14_the_credential_is_below_the_seam_only() -> None:
    inner, asked = Inner(), request(headers=((b"host", b"up.example"), (b"x-own", b"caf\xe9")))
    await ask(inner, asked)
    (sealed,) = inner.requests
    assert sealed.headers.raw == [(b"host", b"up.example"), (b"x-own", b"caf\xe9"), (b"x-token", CANARY.encode())]
    for above in (asked, asked.url, asked.headers, asked.extensions, asked.outbound, vars(asked)):
        assert CANARY not in repr(above)
    assert "x-token" not in asked.headers


async def test_h15_where_it_goes_is_the_endpoints_to_say_alone() -> None:
    inner = Inner()
    spoofed = ((b"host", b"evil.example"), (b"x-forwarded-host", b"evil.example"))
    await ask(inner, request("https://up.example:8443", headers=spoofed))
    (sealed,) = inner.requests
    assert str(sealed.url) == "https://up.example:8443"
    assert sealed.extensions["sni_hostname"] == "up.example"
    assert sealed.url.raw_path == b"/a/../b?%2f"


async def test_localhost_names_are_dialled_as_this_computer() -> None:
    inner = Inner()
    await ask(inner, request("http://3000-m1.nullspace.localhost:4711"))
    assert str(inner.requests[0].url) == "http://127.0.0.1:4711"
    assert inner.requests[0].extensions["sni_hostname"] == "3000-m1.nullspace.localhost"


async def test_deadlines_are_handed_on() -> None:
    inner = Inner()
    await ask(inner, request())
    assert inner.requests[0].extensions["timeout"] == {"connect": 3, "write": 4, "pool": 5}


async def test_a_method_keeps_its_case_and_no_header_is_added() -> None:
    inner = Inner()
    await ask(inner, request(method="propFind"))
    assert inner.requests[0].method == "propFind"
    assert inner.requests[0].headers.raw == [(b"x-token", CANARY.encode())]


async def test_a_body_is_handed_on_as_it_comes() -> None:
    async def echo(asked: httpx.Request) -> httpx.Response:
        assert isinstance(asked.stream, httpx.AsyncByteStream)
        return httpx.Response(200, stream=Parts(*[part async for part in asked.stream]))

    response = await ask(Inner(echo), request(body=Parts(b"a", b"", b"b")))
    assert [chunk async for chunk in response] == [b"a", b"", b"b"]
    response = await ask(Inner(echo), request())
    assert [chunk async for chunk in response] == []


async def test_v01_a_head_that_does_not_come_is_not_waited_for() -> None:
    async def silent(asked: httpx.Request) -> httpx.Response:
        await anyio.sleep_forever()
        raise AssertionError

    with pytest.raises(httpx.ReadTimeout, match="no response head"):
        await ask(Inner(silent), request())


async def test_v01_an_upload_may_take_longer_than_the_head() -> None:
    class Slow(Parts):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for _ in range(10):
                await anyio.sleep(LIMITS.head_timeout / 5)
                yield b"x"

    async def reads(asked: httpx.Request) -> httpx.Response:
        assert isinstance(asked.stream, httpx.AsyncByteStream)
        async for _ in asked.stream:
            pass
        return httpx.Response(200)

    assert (await ask(Inner(reads), request(body=Slow()))).status_code == 200


async def test_v11_a_visitor_who_stops_in_the_body_is_the_one_who_is_told() -> None:
    async def reads(asked: httpx.Request) -> httpx.Response:
        assert isinstance(asked.stream, httpx.AsyncByteStream)
        async for _ in asked.stream:
            pass
        raise AssertionError

    with pytest.raises(BadRequest) as caught:
        await ask(Inner(reads), request(body=Parts(b"x", None)))
    assert caught.value.code == "body_timeout"


async def test_who_leaves_before_the_head_takes_the_request_along() -> None:
    begun, ended = anyio.Event(), anyio.Event()

    async def never(asked: httpx.Request) -> httpx.Response:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()
        raise AssertionError

    asking = asyncio.create_task(ForeignTransport(Inner(never), Limits()).send(request()))
    with anyio.fail_after(5):
        await begun.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert ended.is_set()


async def test_what_the_transport_raises_comes_through() -> None:
    async def fails(asked: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("x")

    with pytest.raises(httpx.ConnectError):
        await ask(Inner(fails), request())


async def test_a_response_has_its_fields_as_received() -> None:
    async def answer(asked: httpx.Request) -> httpx.Response:
        fields = [(b"Set-Cookie", b"a=1"), (b"SET-COOKIE", b"b=\xe9")]
        return httpx.Response(207, headers=fields, stream=Parts(), extensions={"network_stream": "s"})

    response = await ask(Inner(answer), request())
    assert (response.status_code, response.extensions) == (207, {"network_stream": "s"})
    assert response.raw_headers == [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=\xe9")]


async def test_v01_a_body_that_falls_silent_is_not_waited_for() -> None:
    async def stalls(asked: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Parts(b"a", None))

    response = await ask(Inner(stalls), request())
    assert await response.read_chunk() == b"a"
    with anyio.fail_after(5), pytest.raises(httpx.ReadTimeout, match="silent"):
        await response.read_chunk()
    response = await ask(Inner(stalls), request())
    response.idle_timeout = None
    await response.read_chunk()
    with anyio.move_on_after(4 * LIMITS.idle_timeout) as still_waiting:
        await response.read_chunk()
    assert still_waiting.cancelled_caught


async def test_the_end_of_a_body_stays_the_end() -> None:
    async def answer(asked: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Parts(b"a"))

    response = await ask(Inner(answer), request())
    assert [await response.read_chunk() for _ in range(3)] == [b"a", None, None]


async def test_closing_a_response_never_hangs_and_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "CLOSE_TIMEOUT", 0.01)

    class Stuck(Parts):
        async def aclose(self) -> None:
            await super().aclose()
            await anyio.sleep_forever()

    class Broken(Parts):
        async def aclose(self) -> None:
            await super().aclose()
            raise OSError

    for stream in (Parts(), Stuck(), Broken()):

        async def answer(asked: httpx.Request, stream: Parts = stream) -> httpx.Response:
            return httpx.Response(200, stream=stream)

        response = await ask(Inner(answer), request())
        with anyio.fail_after(5), anyio.CancelScope() as cancelled:
            cancelled.cancel()
            await response.aclose()
        assert stream.closed


@pytest.mark.parametrize(
    ("error", "kind"), [(OSError("x"), httpx.NetworkError), (httpx.ReadError("x"), httpx.ReadError)]
)
async def test_what_breaks_off_the_body_is_an_error_of_httpxs(error: Exception, kind: type[Exception]) -> None:
    class Breaks(Parts):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"a"
            raise error

    async def answer(asked: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=Breaks())

    response = await ask(Inner(answer), request())
    assert await response.read_chunk() == b"a"
    with pytest.raises(kind):
        await response.read_chunk()


async def test_closing_a_response_ends_the_reading_of_it() -> None:
    ended = anyio.Event()

    class Read(Parts):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            try:
                yield b"a"
                yield b"b"
            finally:
                ended.set()

    async def answer(asked: httpx.Request) -> httpx.Response:
        return httpx.Response(200, stream=stream)

    stream = Read()
    response = await ask(Inner(answer), request())
    assert await response.read_chunk() == b"a"
    await response.aclose()
    assert ended.is_set()
    assert stream.closed


async def test_closing_closes_the_transport() -> None:
    inner = Inner()
    await ForeignTransport(inner, LIMITS).aclose()
    assert inner.closed


async def test_a_response_that_comes_as_the_request_is_cancelled_is_closed() -> None:
    async def answer(_: httpx.Request) -> httpx.Response:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return httpx.Response(200, stream=parts)

    parts = Parts(b"x")
    asking = asyncio.create_task(ForeignTransport(Inner(answer), LIMITS).send(request()))
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert parts.closed
