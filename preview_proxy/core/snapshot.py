"""The request as it came, read from the ASGI scope once, and refused where it could be read in two ways."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import chain
from typing import Any, Literal
from urllib.parse import quote

from preview_proxy.core.cookies import is_token
from preview_proxy.core.headers import check_controls
from preview_proxy.core.models import DEFAULT_PORTS, HOST, Inbound, RawHeaders, Rejected
from preview_proxy.core.policy import Limits

# RFC 9110 §9.3.6 and §9.3.8: tunnels and echoes of credentials. TRACK is IIS's TRACE; PRI opens HTTP/2 (RFC 9113 §3.4).
REFUSED_METHODS = frozenset({"CONNECT", "TRACE", "TRACK", "PRI"})

_USUAL = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# RFC 9112 §3.2.1 origin-form: what a request line can carry without being read as something else.
_PATH = re.compile(rb"/[\x21\x22\x24-\x7e]*\Z")
_QUERY = re.compile(rb"[\x21\x22\x24-\x7e\x80-\xff]*\Z")
# HTTP/2 and 3 frame bodies below what headers say; granian calls HTTP/1.0 "1"
_WITHOUT_FRAMES = ("1", "1.0", "1.1")
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_LENGTH = re.compile(rb"[0-9]{1,19}\Z")
_PORT = re.compile(r"[0-9]{1,5}\Z")
_BYTES = {bytes}
# What `quote` may leave as it is in a path (RFC 3986 §3.3 pchar and "/")
_SAFE = "/:@!$&'()*+,;=~-._"


def raw_headers(scope: Mapping[str, Any]) -> RawHeaders:
    """A copy of the scope's header fields. Take it first: uvicorn appends trailers to the live list."""
    pairs = tuple(map(tuple, scope["headers"]))
    if set(map(type, chain.from_iterable(pairs))) == _BYTES:
        joined = b"\n".join([name for name, _ in pairs])
        if joined == joined.lower():  # as the ASGI spec has it, and all servers send it
            return pairs
    return tuple([(bytes(name).lower(), bytes(value)) for name, value in pairs])


def host_field(headers: RawHeaders) -> bytes:
    """The one `Host` field; none or several raise `Rejected("bad_host")` (RFC 9112 §3.2)."""
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1:
        raise Rejected("bad_host", f"{len(hosts)} Host fields")
    return hosts[0]


@lru_cache(maxsize=512)
def parse_authority(value: bytes, scheme: str) -> str | None:
    """``host`` or ``host:port`` in lower case, without trailing dot or default port; None for anything else."""
    host, colon, port = value.decode("latin-1").lower().partition(":")
    host = host.removesuffix(".")
    if not HOST.match(host) or (colon and not (_PORT.match(port) and 1 <= int(port) <= 65535)):
        return None
    return host if not colon or int(port) == DEFAULT_PORTS.get(scheme) else f"{host}:{int(port)}"


def snapshot(scope: Mapping[str, Any], headers: RawHeaders, authority: str, limits: Limits) -> Inbound:
    """The `Inbound` of an ``http`` or ``websocket`` scope, or `Rejected` with the reason."""
    kind: Literal["http", "websocket"] = scope["type"]
    method = scope["method"] if kind == "http" else "GET"
    if method not in _USUAL:
        check_method(method)
    whole = b"".join(chain.from_iterable(headers))
    if len(headers) > limits.header_count or len(whole) > limits.header_bytes:  # RFC 6585 §5
        raise Rejected("headers_too_large", f"{len(headers)} fields, {len(whole)} bytes")
    check_controls(whole, "bad_header")
    path, query = origin_form(scope)
    if len(path) > limits.path_bytes or len(query) > limits.query_bytes:
        raise Rejected("target_too_long", f"{len(path)} bytes of path, {len(query)} of query")
    version = scope.get("http_version", "1.1")
    has_body, length = body_framing(headers, method, version) if kind == "http" else (False, None)
    if has_body:
        check_upgrade(headers)
    client = scope.get("client")
    return Inbound(
        kind,
        method,
        scope.get("scheme", "http"),
        version,
        authority,
        path,
        query,
        headers,
        client[0] if client else None,
        has_body,
        length,
        tuple(scope.get("subprotocols") or ()),
    )


def check_method(method: str) -> None:
    """Any token but the four that are not relayed, in whatever case they are written."""
    if not is_token(method.encode("latin-1", "replace")) or method.upper() in REFUSED_METHODS:
        raise Rejected("method_not_allowed", "refused method")


def origin_form(scope: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Raw path and query, without the mount's prefix; anything but origin-form is `Rejected("bad_target")`."""
    raw = scope.get("raw_path")
    path = bytes(raw) if raw else quote(scope["path"], safe=_SAFE).encode("ascii")
    path = path.partition(b"?")[0]
    query = bytes(scope.get("query_string", b""))
    if prefix := scope.get("root_path", "").rstrip("/"):
        path = _without_prefix(path, prefix.encode("latin-1", "replace"))
    if not _PATH.match(path) or not _QUERY.match(query):
        raise Rejected("bad_target", "not in origin-form")
    return path, query


def _without_prefix(path: bytes, prefix: bytes) -> bytes:
    """The path below a mount, compared as raw bytes on a segment's boundary."""
    rest = path[len(prefix) :]
    if not path.startswith(prefix) or rest[:1] not in (b"", b"/"):
        raise Rejected("bad_target", "the path is not below the mount as it was written")
    return rest or b"/"


def body_framing(headers: RawHeaders, method: str, version: str) -> tuple[bool, int | None]:
    """(has a body, its declared length). Two statements of the length are `Rejected("bad_framing")` (RFC 9112 §6.3)."""
    framing = [pair for pair in headers if pair[0] in _FRAMING]
    if not framing:
        # HTTP/2 and 3 frame a body without either field (RFC 9113 §8.1.1)
        return version not in _WITHOUT_FRAMES and method not in ("GET", "HEAD"), None
    lengths = [value for name, value in framing if name == b"content-length"]
    codings = [value for name, value in framing if name == b"transfer-encoding"]
    if len(lengths) + len(codings) > 1:
        raise Rejected("bad_framing", "more than one of Content-Length and Transfer-Encoding")
    if codings:
        if codings[0].strip(b" \t").lower() != b"chunked" or version != "1.1":
            raise Rejected("bad_framing", "a transfer coding other than chunked on HTTP/1.1")
        return True, None
    if not _LENGTH.match(lengths[0]):
        raise Rejected("bad_framing", "Content-Length is not a number")
    return lengths[0].strip(b"0") != b"", int(lengths[0])


def check_upgrade(headers: RawHeaders) -> None:
    """An upgrade that is not WebSocket is ignored without a body; with one, servers disagree whose bytes follow."""
    for name, value in headers:
        if name == b"upgrade" and value.strip(b" \t").lower() != b"websocket":
            raise Rejected("bad_upgrade", "an upgrade with a body")
