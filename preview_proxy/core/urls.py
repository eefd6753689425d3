"""Request targets on the way out, and URLs in response headers on the way back, as bytes."""

from __future__ import annotations

import re
from contextlib import suppress
from unicodedata import normalize
from urllib.parse import unquote_to_bytes

from preview_proxy.core.models import DEFAULT_PORTS, Endpoint, Origin, Rejected

# Query parameters that mean something to a provider's edge: its credentials and its instructions.
RESERVED_PARAMETERS = frozenset(
    {
        "__ns_preview_transport",
        "bl_preview_token",
        "daytona_sandbox_auth_key",
        "edge_token",
    }
)
# A cheap test that a query cannot name one of them: no escape, no other alphabet, and none of these in a row.
_SUSPECT = re.compile(rb"[%\x80-\xff]|__ns|_token|_auth_key", re.IGNORECASE)
# Both separators count: some servers split on ";" as well (HTML 4.01 §B.2.2), and a parameter must not hide behind it.
_PARAMETER = re.compile(rb"([&;]?)([^&;]*)")

# WHATWG URL §4.4: browsers drop TAB, CR and LF, trim controls and spaces, and take "\" for "/" in http URLs.
_DROPPED_BY_BROWSERS = re.compile(rb"[\t\r\n]")
_CONTROL_OR_SPACE = bytes(range(0x21))
# After an http scheme they find the host behind any number of slashes, even none.
_ABSOLUTE = re.compile(rb"(?:(https?|wss?):[/\\]*|[/\\]{2,})([^/\\?#]*)(.*)", re.IGNORECASE)
# The names by which a dev server knows itself.
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "0.0.0.0", "[::1]", "[::]"})  # noqa: S104 - compared, not bound
# RFC 3454 table B.1: what may stand in a host, and is not part of it.
_UNSEEN = dict.fromkeys(
    [0xAD, 0x34F, 0x1806, *range(0x180B, 0x180E), *range(0x200B, 0x200E), 0x2060, *range(0xFE00, 0xFE10), 0xFEFF]
)
# Characters. DNS has 253, and NFKC may halve them; it takes quadratic time for accents in the wrong order.
_MAX_HOST = 512


def strip_parameters(query: bytes) -> bytes:
    """The query without parameters of a reserved name, however it is written; every other byte is unchanged."""
    if not _SUSPECT.search(query):
        return query
    kept = [found for found in _PARAMETER.findall(query) if not _is_reserved(found[1])]
    whole = b"".join([separator + parameter for separator, parameter in kept])
    first_went = bool(kept[0][0]) and not query.startswith((b"&", b";"))
    return whole[1:] if first_went else whole


def _is_reserved(parameter: bytes) -> bool:
    name = unquote_to_bytes(parameter.partition(b"=")[0].replace(b"+", b" "))
    readings = name.decode("utf-8", "replace"), name.decode("latin-1")  # what is a space differs between them
    return any(reading.strip().casefold() in RESERVED_PARAMETERS for reading in readings)


def request_target(path: bytes, query: bytes, endpoint: Endpoint) -> bytes:
    """The visitor's path and query, byte for byte, below the endpoint's base path and with its marker last.

    Raises `Rejected("bad_target")` for a dot segment that may lead out of the base path.
    """
    if endpoint.base_path and _climbs(path):
        raise Rejected("bad_target", "dot segments below the target's base path")
    kept = strip_parameters(query)
    if endpoint.marker:
        kept = kept + b"&" + endpoint.marker if kept else endpoint.marker
    return endpoint.base_path + path + b"?" + kept if kept else endpoint.base_path + path


def _climbs(path: bytes) -> bool:
    """Whether some server reads a segment as ".." (RFC 3986 §5.2.4).

    How far it climbs is not asked: servers disagree whether ``%2F``, ``\\`` and ``//`` make segments, and whether
    ``;`` ends one. Browsers resolve dot segments before they ask.
    """
    segments = re.split(rb"[/\\]", unquote_to_bytes(path))
    return any(segment.partition(b";")[0] == b".." for segment in segments)


def rewrite_url(value: bytes, upstream: Origin, public: Origin, port: int) -> bytes:
    """A URL from a response header, pointing at the public origin where it pointed at the upstream.

    `port` is the dev server's own: it may call itself ``localhost:<port>``. Relative URLs and those of the public
    origin lose reserved parameters; URLs of other hosts are unchanged.
    """
    plain = _DROPPED_BY_BROWSERS.sub(b"", value).strip(_CONTROL_OR_SPACE)
    absolute = _ABSOLUTE.match(plain)
    if absolute is None:
        return value if _has_scheme(plain) else _strip_reference(plain)
    scheme, authority, rest = absolute.groups()
    if not _is_ours(scheme, authority, (upstream, public), port):
        return value
    path = rest[1:] if rest.startswith((b"/", b"\\")) else rest
    return str(public).encode() + b"/" + _strip_reference(path)


def _has_scheme(url: bytes) -> bool:
    return re.match(rb"[A-Za-z][A-Za-z0-9+.-]*:", url) is not None


def _strip_reference(reference: bytes) -> bytes:
    before, hash_sign, fragment = reference.partition(b"#")
    path, question, query = before.partition(b"?")
    kept = strip_parameters(query)
    return path + (question + kept if kept or not query else b"") + hash_sign + fragment


def _is_ours(scheme: bytes | None, authority: bytes, origins: tuple[Origin, Origin], port: int) -> bool:
    """Whether it is one of the origins, over either scheme, or the dev server by the name it has for itself."""
    default = DEFAULT_PORTS[scheme.decode().lower() if scheme else origins[0].scheme]
    host, number = _split_port(authority.rpartition(b"@")[2], default)
    if host in _LOOPBACK and number == port:
        return True
    return any(host in _spellings(origin.host) and number in (origin.port, default) for origin in origins)


def _spellings(host: str) -> tuple[str, ...]:
    """A host of ours in ASCII, and in Unicode where that differs (RFC 5890 §2.3.2.1). No cache: it may be secret."""
    if "xn--" in host:
        with suppress(UnicodeError):
            return host, host.encode().decode("idna")
    return (host,)


def _split_port(authority: bytes, default: int) -> tuple[str, int]:
    """Host as a browser would read it (WHATWG URL §3.5: decoded and folded) and port."""
    host, number = authority, b""
    match = re.match(rb"(.*):([0-9]*)\Z", authority, re.DOTALL)
    if match:
        host, number = match.groups()
    folded = unquote_to_bytes(host).decode("utf-8", "replace")
    if not folded.isascii():  # encode("idna") does it too, at 5 us for each of a hostile host's labels
        seen = folded.translate(_UNSEEN)
        folded = normalize("NFKC", seen).replace("\u3002", ".") if len(seen) <= _MAX_HOST else ""
    return folded.casefold().removesuffix("."), int(number) if number and len(number) <= 5 else default


# To the end where no ">" follows: a search for it from every "<" would take quadratic time.
_LINK_URL = re.compile(rb"(?<=<)[^>]*")
_REFRESH_START = re.compile(rb"(\s*[0-9.]*(?:\s*[;,]|\s)\s*)(url\s*=\s*)?", re.IGNORECASE)


def rewrite_link(value: bytes, upstream: Origin, public: Origin, port: int) -> bytes:
    """Every target of a `Link` field (RFC 8288 §3)."""
    return _LINK_URL.sub(lambda m: rewrite_url(m[0], upstream, public, port), value)


def rewrite_refresh(value: bytes, upstream: Origin, public: Origin, port: int) -> bytes:
    """The URL of a `Refresh` field (HTML §4.2.5.3, shared declarative refresh steps).

    A changed one gets its ``url=``: without a TAB that was in it, it could begin with one that the browser takes off.
    """
    start = _REFRESH_START.match(value)
    if start is None:
        return value
    rest = value[start.end() :]
    quote = rest[:1] if rest.startswith((b"'", b'"')) else b""
    url, end, ignored = rest[1:].partition(quote) if quote else (rest, b"", b"")
    rewritten = rewrite_url(url, upstream, public, port)
    if rewritten == url:
        return value
    return b"".join([start[1], start[2] or b"url=", quote, rewritten, end, ignored])
