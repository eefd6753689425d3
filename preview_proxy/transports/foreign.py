"""Any other `httpx.AsyncBaseTransport` in the pool's place: HTTP/2, an egress proxy, another event loop.

It gets an `httpx.Request`, made here, as the last step, with the credential sealed in it. Deadlines are kept here
too, since httpx has none for a response's head.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress

import anyio
import httpx

from preview_proxy.core.policy import Limits
from preview_proxy.errors import BadRequest
from preview_proxy.sealed import SealedRequest
from preview_proxy.transports.exchange import ClientGone
from preview_proxy.transports.request import UpstreamRequest, UpstreamResponse

CLOSE_TIMEOUT = 1.0


class ForeignTransport:
    """Speaks to `inner` in plain httpx."""

    def __init__(self, inner: httpx.AsyncBaseTransport, limits: Limits) -> None:
        self._inner = inner
        self._limits = limits

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """The response, its head there. Raises what `inner` raises, and `httpx.ReadTimeout` for a head that is late.

        An `OSError` of `inner` becomes httpx's: here that is what `send` raises when the visitor has left.
        """
        body = _Body(request.body if request.outbound.has_body else None, self._limits.idle_timeout)
        response = await _within(
            self._inner.handle_async_request(_plain(request, body, self._limits)), body, self._limits.head_timeout
        )
        if response is None:
            raise httpx.ReadTimeout("no response head")
        return ForeignResponse(response, self._limits.idle_timeout)

    async def aclose(self) -> None:
        await self._inner.aclose()


def _plain(request: UpstreamRequest, body: httpx.AsyncByteStream, limits: Limits) -> httpx.Request:
    outbound = request.outbound
    origin = outbound.endpoint.origin
    plain = SealedRequest(
        outbound.method,
        # RFC 6761 §6.3: "localhost" names are this computer, whatever a resolver would say
        httpx.URL(scheme=origin.scheme, host="127.0.0.1" if origin.is_loopback else origin.host, port=origin.port),
        outbound.headers,
        tuple((name, b"", secret) for name, secret in outbound.endpoint.credentials),
        stream=body,
        extensions={
            "sni_hostname": origin.host,
            "timeout": {
                "pool": limits.pool_timeout,
                "connect": limits.connect_timeout,
                "write": limits.write_timeout,
            },
        },
    )
    plain.url = _Url(plain.url, outbound.target)
    plain.method = outbound.method  # httpx would write it in upper case; methods are case-sensitive
    return plain


class _Url(httpx.URL):
    """An origin whose request target is sent byte for byte. Nothing else of it shows the target, nor parses it.

    httpcore's ``target`` extension would do the same, but goes to the wrong one of two requests where a tunnel is
    opened to an egress proxy.
    """

    def __init__(self, origin: httpx.URL, target: bytes) -> None:
        super().__init__(origin)
        self._target = target

    @property
    def raw_path(self) -> bytes:
        return self._target


class _Body(httpx.AsyncByteStream):
    """The request's body, whose visitor may be silent for `idle_timeout`; `over` is set once all was handed on."""

    def __init__(self, inner: httpx.AsyncByteStream | None, idle_timeout: float) -> None:
        self._inner = inner
        self._idle_timeout = idle_timeout
        self.over = anyio.Event()
        if inner is None:
            self.over.set()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        parts = aiter(self._inner) if self._inner is not None else None
        while parts is not None and (chunk := await self._next(parts)) is not None:
            yield chunk
        self.over.set()

    async def _next(self, parts: AsyncIterator[bytes]) -> bytes | None:
        with anyio.move_on_after(self._idle_timeout):
            return await anext(parts, None)
        raise BadRequest("body_timeout", detail="the visitor's body fell silent")


async def _within(sending: object, body: _Body, timeout: float) -> httpx.Response | None:  # noqa: ASYNC109
    """The response, None where it takes longer than `timeout` seconds after the last byte of the body."""
    response: httpx.Response | None = None
    failure: Exception | None = None
    over = body.over  # anyio leaves the frame of a task that was cancelled to the collector: the visitor is not in it
    try:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:

                async def start_the_clock() -> None:
                    await over.wait()
                    scope.deadline = anyio.current_time() + timeout

                group.start_soon(start_the_clock)
                try:
                    response = await sending  # type: ignore[misc]
                except Exception as error:
                    failure = error
                group.cancel_scope.cancel()
    except BaseException:  # cancelled while the group ended, with a response that nobody will see
        if response is not None:
            await ForeignResponse(response, None).aclose()
        raise
    if failure is not None:
        try:
            raise _as_httpx(failure)
        finally:
            failure = None  # its frames hold this one, and the visitor's connection
    return response


def _as_httpx(failure: Exception) -> Exception:
    ours = isinstance(failure, ClientGone)  # from the visitor's body
    return httpx.NetworkError(type(failure).__name__) if isinstance(failure, OSError) and not ours else failure


class ForeignResponse(UpstreamResponse):
    """A response of another transport, read within `idle_timeout`."""

    def __init__(self, inner: httpx.Response, idle_timeout: float | None) -> None:
        super().__init__(inner.status_code, [(name.lower(), value) for name, value in inner.headers.raw], idle_timeout)
        self.extensions = inner.extensions
        self._inner = inner
        self._parts: AsyncIterator[bytes] | None = None

    async def read_chunk(self) -> bytes | None:
        if self._parts is None:
            self._parts = aiter(self._inner.stream)  # type: ignore[arg-type]
        failure: Exception = httpx.ReadTimeout("the body stayed silent")
        try:
            with anyio.move_on_after(self.idle_timeout):
                return await anext(self._parts, None)
        except Exception as error:
            failure = _as_httpx(error)
        raise failure

    async def aclose(self) -> None:
        with anyio.move_on_after(CLOSE_TIMEOUT, shield=True), suppress(Exception):
            if isinstance(self._parts, AsyncGenerator):  # trio complains of one that is left to the collector
                await self._parts.aclose()
            await self._inner.aclose()
