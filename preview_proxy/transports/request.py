"""The seam's two objects: an `httpx.Request` and an `httpx.Response` that hold bytes, and parse only if asked to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import cached_property
from typing import Any

import httpx

from preview_proxy.core.models import DEFAULT_PORTS, Endpoint, Origin, Outbound, RawHeaders

Header = tuple[bytes, bytes]
Inform = Callable[[int, list[Header]], None]


class _NoBody(httpx.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        return
        yield b""  # pragma: no cover - it makes this function a generator


NO_BODY = _NoBody()


class UpstreamRequest(httpx.Request):
    """A planned request. Nothing that httpx shows of it (`url`, `headers`, `repr`) holds a credential.

    `on_informational` gets the status and headers of each 1xx.
    """

    def __init__(self, outbound: Outbound, body: httpx.AsyncByteStream) -> None:
        # httpx.Request.__init__ is not called: it would parse and copy what the pool never looks at
        self.outbound = outbound
        self.method = outbound.method
        self.stream = self.body = body
        self.on_informational: Inform | None = None

    @classmethod
    def of(cls, request: httpx.Request) -> UpstreamRequest:
        """Any other request, for callers that speak httpx."""
        url = request.url
        headers: RawHeaders = tuple((name.lower(), value) for name, value in request.headers.raw)
        length = next((int(value) for name, value in headers if name == b"content-length"), None)
        chunked = any(name == b"transfer-encoding" for name, _ in headers)
        outbound = Outbound(
            method=request.method,
            endpoint=Endpoint(Origin(url.scheme, url.host, url.port or DEFAULT_PORTS[url.scheme])),
            target=request.extensions.get("target", url.raw_path),
            headers=headers,
            has_body=chunked or bool(length),
            content_length=length,
        )
        assert isinstance(request.stream, httpx.AsyncByteStream)  # noqa: S101 - httpx's own rule for async transports
        return cls(outbound, request.stream)

    @cached_property
    def url(self) -> httpx.URL:  # type: ignore[override]
        return httpx.URL(str(self.outbound.endpoint.origin))

    @cached_property
    def headers(self) -> httpx.Headers:  # type: ignore[override]
        return httpx.Headers(list(self.outbound.headers))

    @cached_property
    def extensions(self) -> dict[str, Any]:  # type: ignore[override]
        return {"target": self.outbound.target}

    def head(self) -> bytes:
        """The request line and fields as they go on the wire, credential and all: the last step before it."""
        outbound = self.outbound
        lines = [b"%s %s HTTP/1.1" % (outbound.method.encode("ascii"), outbound.target)]
        lines += map(b": ".join, outbound.headers)
        lines += [b"%s: %s" % (name, secret.reveal()) for name, secret in outbound.endpoint.credentials]
        head = b"\r\n".join(lines) + b"\r\n\r\n"
        if head.count(b"\n") != len(outbound.headers) + len(outbound.endpoint.credentials) + 2:
            raise httpx.LocalProtocolError("a line break inside the head")
        return head


class UpstreamResponse(httpx.Response, httpx.AsyncByteStream):
    """A response whose body is read with `read_chunk`. `raw_headers` are as received, names in lower case.

    `idle_timeout` may be changed while reading. `unread` is what was read in advance and goes first. `trailers` are
    those of a chunked body that was read to its end.
    """

    def __init__(self, status: int, raw_headers: list[Header], idle_timeout: float | None) -> None:
        # httpx.Response.__init__ is not called, for the same reason
        self.status_code = status
        self.raw_headers = raw_headers
        self.trailers: list[Header] = []
        self.idle_timeout = idle_timeout
        self.extensions: dict[str, Any] = {}
        self.unread = b""

    @property
    def headers(self) -> httpx.Headers:  # type: ignore[override]
        return httpx.Headers(self.raw_headers)

    @property
    def stream(self) -> httpx.AsyncByteStream:  # type: ignore[override]
        return self

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self.unread:
            yield self.unread
        while (chunk := await self.read_chunk()) is not None:
            yield chunk

    async def read_chunk(self) -> bytes | None:
        """The next bytes of the body as upstream sent them, None at the end. Raises what broke it off."""
        raise NotImplementedError

    @property
    def is_whole(self) -> bool:
        """Whether all of the body has arrived."""
        return False

    async def aclose(self) -> None:
        """Give the connection back, or drop it where the body is not read to its end. Never hangs."""
        raise NotImplementedError
