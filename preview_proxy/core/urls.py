"""Request targets on the way out, and URLs in response headers on the way back, as bytes."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote_to_bytes

from preview_proxy.core.models import DEFAULT_PORTS, Endpoint, Origin, Rejected

# Query parameters that mean something to a provider's edge: its credentials and its instructions.
RESERVED_PARAMETERS = frozenset(
    {
        b"__ns_preview_transport",
        b"bl_preview_token",
        b"daytona_sandbox_auth_key",
        b"edge_token",
    }
)
# A cheap test that a query cannot name one of them: no escape, no "+", and none of these bytes in a row.
_SUSPECT = re.compile(rb"[%+]|__ns|_token|_auth_key", re.IGNORECASE)
# Both separators count: some servers split on ";" as well (HTML 4.01 §B.2.2), and a parameter must not hide behind it.
_PARAMETER = re.compile(rb"([&;]?)([^&;]*)")

# WHATWG URL §4.4: browsers drop TAB, CR and LF, trim controls and spaces, and take "\" for "/" in http URLs.
_DROPPED_BY_BROWSERS = re.compile(rb"[\t\r\n]")
_CONTROL_OR_SPACE = bytes(range(0x21))
_ABSOLUTE = re.compile(rb"(?:(https?|wss?):)?[/\\]{2,}([^/\\?#]*)(.*)\Z", re.IGNORECASE | re.DOTALL)
# The names by which a dev server knows itself.
_LOOPBACK = frozenset({b"localhost", b"127.0.0.1", b"0.0.0.0", b"[::1]", b"[::]"})


def strip_parameters(query: bytes) -> bytes:
    """The query without parameters of a reserved name, however it is written; every other byte is unchanged."""
    if not _SUSPECT.search(query):
        return query
    kept = [
        (separator, parameter)
        for separator, parameter in _PARAMETER.findall(query)
        if (separator or parameter) and not _is_reserved(parameter)
    ]
    whole = b"".join([separator + parameter for separator, parameter in kept])
    first_went = bool(kept and kept[0][0]) and not query.startswith((b"&", b";"))
    return whole[1:] if first_went else whole


def _is_reserved(parameter: bytes) -> bool:
    name = parameter.partition(b"=")[0]
    return unquote_to_bytes(name.replace(b"+", b" ")).strip().lower() in RESERVED_PARAMETERS


def request_target(path: bytes, query: bytes, endpoint: Endpoint) -> bytes:
    """The visitor's path and query, byte for byte, below the endpoint's base path and with its marker last.

    Raises `Rejected("bad_target")` where dot segments would leave the base path.
    """
    if endpoint.base_path and _escapes(path):
        raise Rejected("bad_target", "dot segments leave the target's base path")
    kept = strip_parameters(query)
    if endpoint.marker:
        kept = kept + b"&" + endpoint.marker if kept else endpoint.marker
    return endpoint.base_path + path + b"?" + kept if kept else endpoint.base_path + path


def _escapes(path: bytes) -> bool:
    """Whether a server that decodes once and resolves dot segments (RFC 3986 §5.2.4) would climb above the root."""
    depth = 0
    for segment in re.split(rb"[/\\]", unquote_to_bytes(path)[1:]):
        depth += -1 if segment == b".." else segment not in (b"", b".")
        if depth < 0:
            return True
    return False


def rewrite_url(value: bytes, upstream: Origin, public: Origin, port: int) -> bytes:
    """A URL from a response header, pointing at the public origin where it pointed at the upstream.

    `port` is the dev server's own: it may call itself ``localhost:<port>``. Relative URLs lose reserved parameters;
    URLs of other hosts are unchanged.
    """
    plain = _DROPPED_BY_BROWSERS.sub(b"", value).strip(_CONTROL_OR_SPACE)
    absolute = _ABSOLUTE.match(plain)
    if absolute is None:
        return value if _has_scheme(plain) else _strip_reference(value)
    scheme, authority, rest = absolute.groups()
    if not _is_upstream(scheme, authority, upstream, port):
        return value
    rest = rest.replace(b"\\", b"/")
    return str(public).encode() + _strip_reference(rest if rest.startswith(b"/") else b"/" + rest)


def _has_scheme(url: bytes) -> bool:
    return re.match(rb"[A-Za-z][A-Za-z0-9+.-]*:", url) is not None


def _strip_reference(reference: bytes) -> bytes:
    before, hash_sign, fragment = reference.partition(b"#")
    path, question, query = before.partition(b"?")
    kept = strip_parameters(query)
    return path + (question + kept if kept or not query else b"") + hash_sign + fragment


def _is_upstream(scheme: bytes | None, authority: bytes, upstream: Origin, port: int) -> bool:
    name = scheme.decode().lower() if scheme else upstream.scheme
    host, number = _split_port(authority.rpartition(b"@")[2], DEFAULT_PORTS[name])
    if host in _LOOPBACK and number == port:
        return True
    return host == upstream.host.encode() and number in (upstream.port, DEFAULT_PORTS[name])


def _split_port(authority: bytes, default: int) -> tuple[bytes, int]:
    """Host as a browser would read it (WHATWG URL §3.5: decoded, folded, lower case) and port."""
    host, number = authority, b""
    match = re.match(rb"(.*):([0-9]*)\Z", authority, re.DOTALL)
    if match and (b"]" not in authority or authority.index(b"]") < match.start(2)):
        host, number = match.groups()
    text = unquote_to_bytes(host).decode("utf-8", "replace")
    folded = unicodedata.normalize("NFKC", text).lower().removesuffix(".").encode("utf-8")
    return folded, int(number) if number and len(number) <= 5 else default


_LINK_URL = re.compile(rb"<([^>]*)>")
_REFRESH_URL = re.compile(rb"(\A[^;,]*[;,]\s*(?:url\s*=\s*)?['\"]?)([^'\"]*)", re.IGNORECASE)


def rewrite_link(value: bytes, upstream: Origin, public: Origin, port: int) -> bytes:
    """Every target of a `Link` field (RFC 8288 §3)."""
    return _LINK_URL.sub(lambda m: b"<" + rewrite_url(m[1], upstream, public, port) + b">", value)


def rewrite_refresh(value: bytes, upstream: Origin, public: Origin, port: int) -> bytes:
    """The URL of a `Refresh` field (HTML §4.2.5.3, shared declarative refresh steps)."""
    return _REFRESH_URL.sub(lambda m: m[1] + rewrite_url(m[2], upstream, public, port), value)
