"""Sending one planned request upstream, over any `httpx.AsyncBaseTransport`.

Never an `httpx.AsyncClient`: it would replay one visitor's cookies to the next, follow redirects with the token
attached, obey `HTTP_PROXY` and log URLs. The credential is added by `CredentialTransport`, the last step before the
wire, so that no request, exception or trace above it ever holds one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, cast

import anyio
import httpx

from preview_proxy.core.models import Endpoint, Outbound, RawHeaders
from preview_proxy.core.policy import Limits
from preview_proxy.errors import BadRequest, PreviewProxyError, Unreachable, UpstreamProtocol, UpstreamTimeout

ENDPOINT = "preview_proxy.endpoint"
"""The request extension that carries the `Endpoint`, whose `repr` shows no credential."""


class CredentialTransport(httpx.AsyncBaseTransport):
    """Adds the endpoint's credentials to a request, and hands it to `inner`."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        endpoint: Endpoint = request.extensions[ENDPOINT]
        sealed = httpx.Request(
            request.method,
            request.url,
            headers=[*request.headers.raw, *((name, secret.reveal()) for name, secret in endpoint.credentials)],
            stream=request.stream,
            extensions={key: value for key, value in request.extensions.items() if key != ENDPOINT},
        )
        sealed.method = request.method
        return await self._inner.handle_async_request(sealed)

    async def aclose(self) -> None:
        await self._inner.aclose()


def default_transport() -> httpx.AsyncBaseTransport:
    """HTTP/1.1 with verified TLS, no proxy from the environment, no retries."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=15)
    return httpx.AsyncHTTPTransport(trust_env=False, limits=limits)


class _NoBody(httpx.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        return
        yield b""  # pragma: no cover - it makes this function a generator


NO_BODY = _NoBody()


def build_request(outbound: Outbound, body: httpx.AsyncByteStream, limits: Limits) -> httpx.Request:
    """The request object for the seam: exact target bytes, our headers only, and the endpoint as an extension."""
    origin = outbound.endpoint.origin
    request = httpx.Request(
        outbound.method,
        # RFC 6761 §6.3: "localhost" names are this computer, whatever a resolver would say
        httpx.URL(scheme=origin.scheme, host="127.0.0.1" if origin.is_loopback else origin.host, port=origin.port),
        headers=list(outbound.headers),
        stream=body,
        extensions={
            "target": outbound.target,
            "sni_hostname": origin.host,
            "timeout": {
                "connect": limits.connect_timeout,
                "write": limits.write_timeout,
                "pool": limits.connect_timeout,
            },
            ENDPOINT: outbound.endpoint,
        },
    )
    request.method = outbound.method  # httpx would write it in upper case; methods are case-sensitive
    return request


# One row per branch of httpx's tree; a subclass takes the row of its nearest parent.
_TRANSLATIONS: dict[type[Exception], tuple[type[PreviewProxyError], str]] = {
    httpx.TimeoutException: (UpstreamTimeout, "upstream_timeout"),
    httpx.LocalProtocolError: (BadRequest, "bad_header"),
    httpx.RemoteProtocolError: (UpstreamProtocol, "upstream_protocol_error"),
    httpx.UnsupportedProtocol: (UpstreamProtocol, "upstream_protocol_error"),
    httpx.TransportError: (Unreachable, "upstream_unreachable"),
}


def translate(error: Exception) -> PreviewProxyError:
    """Our error for whatever a transport raised, with nothing of it but its class name.

    Raise the answer outside the `except` block: inside it, the original would stay in `__context__` with the
    frames that hold the request.
    """
    if isinstance(error, PreviewProxyError):
        return error
    for kind in type(error).__mro__:
        if kind in _TRANSLATIONS:
            ours, code = _TRANSLATIONS[kind]
            return ours(code, detail=type(error).__name__)
    return UpstreamProtocol(detail=type(error).__name__)


class Answer:
    """An upstream response: its head, and its body undecoded, chunk by chunk."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._parts: AsyncIterator[bytes] | None = None
        self._unread: bytes = b""
        self.status = response.status_code
        self.headers: RawHeaders = tuple((name.lower(), value) for name, value in response.headers.raw)

    @property
    def byte_stream(self) -> Any:
        """What a 101 hands over: an object with `read`, `write` and `aclose` (httpx's ``network_stream``)."""
        return self._response.extensions.get("network_stream")

    async def read(self, idle: float | None) -> bytes | None:
        """The next bytes, None at the end. Raises our own error when it breaks off or is silent for `idle` seconds."""
        if self._unread:
            chunk, self._unread = self._unread, b""
            return chunk
        if self._parts is None:
            self._parts = aiter(cast("httpx.AsyncByteStream", self._response.stream))
        failure: Exception | None = None
        with anyio.move_on_after(idle) as scope:
            try:
                return await anext(self._parts)
            except StopAsyncIteration:
                return None
            except Exception as error:
                failure = translate(error)
        if scope.cancelled_caught or failure is None:
            raise UpstreamTimeout(detail="the body stayed silent")
        raise failure

    async def peek(self, size: int, idle: float) -> bytes:
        """The start of the body, all of it if it has at most `size` bytes; `read` still gives every byte."""
        parts: list[bytes] = []
        while sum(map(len, parts)) <= size and (chunk := await self.read(idle)) is not None:
            parts.append(chunk)
        self._unread = b"".join(parts)
        return self._unread

    async def aclose(self) -> None:
        """Give the connection back, or drop it if the body is unfinished. Never hangs, also when cancelled."""
        with anyio.move_on_after(1, shield=True), suppress(Exception):
            await self._response.aclose()
