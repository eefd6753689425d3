"""A provider's JSON API over HTTP: one request per call, the whole answer, and nothing raised.

A call answers a failure instead of raising it, because a traceback keeps every frame that its exception passed, with
the credentials in their locals. A provider raises where none is in reach any more.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import anyio
import httpx

from preview_proxy.core.models import Endpoint, RawHeaders
from preview_proxy.errors import MachineUnavailable, NotFound, PreviewProxyError, ProviderError
from preview_proxy.providers.answers import json_document, retry_after
from preview_proxy.sealed import Credentials, SealedRequest

MAX_ANSWER = 64 * 1024
"""Bytes of an answer of an API."""

# What an error status of an API means where nothing else is said. Any other is `provider_failed`.
STATUSES: dict[int, tuple[type[PreviewProxyError], str]] = {
    401: (ProviderError, "provider_refused"),
    403: (ProviderError, "provider_refused"),
    404: (NotFound, "machine_not_found"),
    408: (ProviderError, "provider_timeout"),
    429: (ProviderError, "rate_limit_exceeded"),
    503: (MachineUnavailable, MachineUnavailable.default_code),
    504: (ProviderError, "provider_timeout"),
}


class ApiAnswer(NamedTuple):
    """An answer of an API: names of headers in lower case, and None as the document of what is not small JSON."""

    status: int
    headers: RawHeaders
    document: object

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


class JsonApi:
    """An API below `endpoint`. `headers` and `credentials` go with each call; `timeout` (seconds) bounds it.

    Redirects are not followed, cookies not kept, and the environment's proxy variables not heeded. A `transport` that
    was given is closed with this.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        credentials: Credentials,
        headers: RawHeaders = (),
        timeout: float,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.origin = endpoint.origin
        self._base_url = f"{endpoint.origin}{endpoint.base_path.decode()}"
        self._credentials = credentials
        self._headers = headers
        self._timeout = timeout
        self._transport = transport or _transport()

    async def call(self, method: str, path: str, body: object = None) -> ApiAnswer | ProviderError:
        """Send `body` as JSON, if it is not None. A failure is one of the network; an error status is an answer."""
        try:
            with anyio.fail_after(self._timeout):
                return await self._call(self._request(method, path, body))
        except (TimeoutError, httpx.TimeoutException):
            return timed_out(self._timeout)
        except Exception as error:
            return ProviderError(detail=f"the API could not be reached: {type(error).__name__}")

    async def _call(self, request: httpx.Request) -> ApiAnswer:
        response = await self._transport.handle_async_request(request)
        try:
            body = await _read(response)
        finally:
            await response.aclose()
        headers = tuple((name.lower(), value) for name, value in response.headers.raw)
        return ApiAnswer(response.status_code, headers, json_document(body))

    def _request(self, method: str, path: str, body: object) -> httpx.Request:
        content = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        return SealedRequest(
            method,
            self._base_url + path,
            [
                (b"accept", b"application/json"),
                (b"accept-encoding", b"identity"),
                *([(b"content-type", b"application/json")] if content else []),
                (b"user-agent", b"preview-proxy"),
                *self._headers,
            ],
            self._credentials,
            content=content,
            extensions={"timeout": dict.fromkeys(("connect", "read", "write", "pool"), self._timeout)},
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()


def json_answer(answer: ApiAnswer | ProviderError) -> Mapping[str, object] | PreviewProxyError:
    """The JSON object of a success, or the failure. Only JSON says that a machine does not exist."""
    if isinstance(answer, ProviderError):
        return answer
    if answer.ok:
        if isinstance(answer.document, dict):
            return answer.document
        return ProviderError(detail="the API's answer is not a small JSON object")
    if answer.status == 404 and not isinstance(answer.document, dict):
        return ProviderError(detail="the API answered 404 without JSON: is base_url the address of the API?")
    return status_error(answer.status, answer.headers)


def status_error(status: int, headers: RawHeaders = (), detail: str = "") -> PreviewProxyError:
    """The failure that an error status of the API stands for."""
    kind, code = STATUSES.get(status, (ProviderError, ""))
    return kind(code, detail=detail or f"the API answered {status}", retry_after=wait(kind, code, headers))


def wait(kind: type[PreviewProxyError], code: str, headers: RawHeaders) -> int | None:
    """`Retry-After`, in seconds, where waiting helps."""
    helps = kind is MachineUnavailable or code == "rate_limit_exceeded"
    return retry_after(headers) if helps else None


def timed_out(timeout: float) -> ProviderError:
    """The failure of a call that took longer than `timeout` seconds."""
    return ProviderError("provider_timeout", detail=f"the API did not answer in {timeout:g} s")


@lru_cache(maxsize=1)
def _authorities() -> ssl.SSLContext:
    """Whom to believe. Read once, and never while visitors wait: reading takes a quarter of a second."""
    return httpx.create_ssl_context(trust_env=False)


def _transport() -> httpx.AsyncHTTPTransport:
    # No limit, because httpcore can lose a slot for good when a request is cancelled (its issue 1093).
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    return httpx.AsyncHTTPTransport(verify=_authorities(), trust_env=False, retries=0, limits=limits)


async def _read(response: httpx.Response) -> bytes:
    """The body; empty if it is longer than `MAX_ANSWER`, or encoded although we asked for it plain."""
    body = b""
    if "content-encoding" not in response.headers and isinstance(response.stream, httpx.AsyncByteStream):
        async for chunk in response.stream:
            body += chunk
            if len(body) > MAX_ANSWER:
                return b""
    return body
