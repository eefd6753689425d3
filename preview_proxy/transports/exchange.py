"""What HTTP and WebSocket relays share: the target in use, asking upstream, and reading what its edge says."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

import anyio
import httpx
from starlette.types import Receive

from preview_proxy.core.cookies import ReservedCookies
from preview_proxy.core.models import RawHeaders
from preview_proxy.core.plan import Route
from preview_proxy.errors import (
    BadRequest,
    CheckFailed,
    NotFound,
    PreviewProxyError,
    Unauthorized,
    Unreachable,
    UpstreamError,
    UpstreamProtocol,
    UpstreamTimeout,
)
from preview_proxy.live import Cut, Kind
from preview_proxy.transports.request import UpstreamRequest, UpstreamResponse

logger = logging.getLogger("preview_proxy")

EXPLANATION_BYTES = 4096
_PROVIDERS_COOKIES = ReservedCookies.of(())


class ClientGone(OSError):
    """The visitor left before the exchange was over. An OSError, as the ASGI spec has `send` raise one."""


class Upstream(Protocol):
    """An `UpstreamPool`, or a `ForeignTransport` in its place."""

    async def send(self, request: UpstreamRequest) -> UpstreamResponse:
        """Send a planned request; the answer's head has arrived when this returns. Raises what a transport raises."""
        ...


class Explains(Protocol):
    """Tells the answers of a provider's edge from the app's."""

    def may_explain(self, status: int, headers: RawHeaders) -> bool:
        """Whether the response could be the provider's edge talking."""
        ...

    def explain(self, status: int, headers: RawHeaders, body: bytes) -> PreviewProxyError | None:
        """The failure that the provider's edge reports, or None for the app's own answer."""
        ...


class Lease(Explains, Protocol):
    """The target of one relay."""

    async def route(self) -> Route:
        """Where to send the request; asks the provider when needed."""
        ...

    def reached(self) -> None:
        """Note that a response came."""
        ...

    def failed(self, error: Exception) -> None:
        """Note what a transport raised."""
        ...

    async def cure(self, error: PreviewProxyError) -> bool:
        """Whether the failure was cured, by a new credential or by waking the machine: then `route()` is worth it."""
        ...


class UnderWay(Protocol):
    """The relay that an operation is part of."""

    @property
    def cut(self) -> Cut | None:
        """What cut it short, if anything did."""
        ...


class Run(Protocol):
    """Awaits an operation while the visitor may leave; what cut it short, if anything did."""

    async def __call__(
        self,
        kind: Kind,
        operation: Callable[[UnderWay], Awaitable[None]],
        receive: Receive | None,
        uploaded: anyio.Event | None = None,
    ) -> Cut | None: ...


# What ends a relay before its time, as the failure that its visitor is told of.
_CUTS: dict[str, tuple[type[PreviewProxyError], str]] = {
    "drained": (PreviewProxyError, "shutting_down"),
    "revoked": (NotFound, "access_ended"),
    "signed_out": (Unauthorized, "not_signed_in"),
    "unchecked": (CheckFailed, "check_failed"),
}


# One row per branch of httpx's tree; a subclass takes the row of its nearest parent.
_TRANSLATIONS: dict[type[Exception], tuple[type[PreviewProxyError], str]] = {
    httpx.PoolTimeout: (UpstreamError, "upstream_busy"),
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
    # the response that failed keeps the error, and the frames keep the visitor's connection
    error.__traceback__ = None
    for kind in type(error).__mro__:
        if kind in _TRANSLATIONS:
            ours, code = _TRANSLATIONS[kind]
            return ours(code, detail=type(error).__name__)
    return UpstreamProtocol(detail=type(error).__name__)


def cut_short(cut: str | None) -> PreviewProxyError | None:
    """What to tell the visitor of a relay that was cut short; None for one that was not, or who has left."""
    if cut not in _CUTS:
        return None
    kind, code = _CUTS[cut]
    return kind(code, detail="cut short")


async def explanation(response: UpstreamResponse, edge: Explains) -> PreviewProxyError | None:
    """The failure that the provider's edge reports, if this is its answer and not the app's."""
    headers = tuple(response.raw_headers)
    if not edge.may_explain(response.status_code, headers):
        return None
    body = b""
    while len(body) <= EXPLANATION_BYTES and (chunk := await response.read_chunk()) is not None:
        body += chunk
    error = edge.explain(response.status_code, headers, body)
    if error is not None:
        _note_cookies(headers)
    elif body:
        response.unread = body
    return error


def _note_cookies(headers: RawHeaders) -> None:
    """Edges publish no names of their cookies, and one that is not reserved would reach the sandbox."""
    for name, value in headers:
        cookie = value.partition(b"=")[0].strip(b" \t")
        if name == b"set-cookie" and cookie not in _PROVIDERS_COOKIES:
            logger.info("an edge's own answer sets the cookie %.64r: add it to Policy.private_cookies", cookie)
