"""Cookies as bytes. Text parsers disagree about them, and the differences are attacks.

Starlette, `http.cookies`, Django, Go and Node each trim, unquote or decode a name a little differently. A sandbox
that plants ``\\xa0__Host-Http-pp`` is sent back by the browser as that name and read by `str.strip()` as ours. So a
name survives here only if every one of those parsers reads it as the same token (RFC 6265 §4.1.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from preview_proxy.core.models import RawHeaders

GATE_COOKIE = "__Host-Http-pp"
"""The gate cookie: no script can plant ``__Host-Http-``, and older browsers still apply the rules of ``__Host-``."""

DEVELOPMENT_GATE_COOKIE = "pp-development"
"""Its name over plain HTTP on localhost, where the prefix's rules cannot hold."""

# RFC 9110 §5.6.2
TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_TOKEN = re.compile(rb"[!#$%&\'*+\-.^_`|~0-9A-Za-z]+\Z")
_NAMED = re.compile(rb"[!#$%&\'*+\-.^_`|~0-9A-Za-z]+=")
# RFC 6265bis §5.6: a longer attribute value is ignored, a longer name-value pair refuses the cookie
MAX_ATTRIBUTE, MAX_PAIR = 1024, 4096
MAX_SET_COOKIES = 50
# `http.cookies` starts a new pair after a space too.
_AFTER_SPACE = re.compile(rb"\s([^\s=]+)\s*=")

_OURS = (GATE_COOKIE.lower().encode(), DEVELOPMENT_GATE_COOKIE.lower().encode())
# Continuation cookies of provider edges; Nullspace publishes no name, so its whole namespace is kept out.
_PROVIDER_PREFIXES = (b"__ns_", b"__ns-", b"nullspace_", b"nullspace-", b"daytona-sandbox-auth-", b"bl_preview_token")

_RESERVED_PREFIXES = _OURS + _PROVIDER_PREFIXES


@dataclass(frozen=True, slots=True)
class ReservedCookies:
    """The names that neither side may hand to the other: ours, the provider's, and the customer's session's."""

    names: frozenset[bytes]
    starts: tuple[bytes, ...]
    """What a pair of one of them starts with, in lower case."""

    @classmethod
    def of(cls, names: Iterable[str]) -> ReservedCookies:
        folded = frozenset(name.lower().encode("latin-1") for name in names)
        return cls(folded, (*_RESERVED_PREFIXES, *(name + b"=" for name in folded)))

    def __contains__(self, name: bytes) -> bool:
        folded = name.lower()
        return folded in self.names or folded.startswith(_RESERVED_PREFIXES)


def is_token(name: bytes) -> bool:
    """Whether `name` is a token of RFC 9110 §5.6.2."""
    return _TOKEN.match(name) is not None


def filter_cookies(values: Sequence[bytes], reserved: ReservedCookies) -> bytes:
    """One `Cookie` value for upstream: the pairs whose name is a token and not reserved, in order, bytes unchanged."""
    whole = b"; ".join(values)
    pairs, words, starts = whole.split(b"; "), whole.split(), reserved.starts
    if len(pairs) == len(words) == whole.count(b";") + 1 and b" ".join(words) == whole:
        # no white space but what browsers write between pairs: no parser can see another name than the first
        return b"; ".join([pair for pair in pairs if _NAMED.match(pair) and not pair.lower().startswith(starts)])
    return b"; ".join([pair for pair, name in _pairs(values) if _passes(pair, name, reserved)])


def _passes(pair: bytes, name: bytes, reserved: ReservedCookies) -> bool:
    if name in reserved or not is_token(name):
        return False
    return not any(read in reserved for read in _AFTER_SPACE.findall(pair))


def cookie_values(headers: RawHeaders, name: str) -> list[bytes]:
    """Every value sent under exactly `name`, neither unquoted nor decoded.

    More than one means that something planted a second: the caller decides which of them verifies, if any.
    """
    wanted = name.encode("latin-1")
    fields = [value for key, value in headers if key == b"cookie" and wanted in value]
    return [pair.partition(b"=")[2].strip(b" \t") for pair, key in _pairs(fields) if key == wanted]


def _pairs(values: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
    """(pair, its name) for each pair that has a name."""
    found = []
    for value in values:
        for pair in value.split(b";"):
            name, equals, _ = pair.partition(b"=")
            if equals:
                found.append((pair.strip(b" \t"), name.strip(b" \t")))
    return found


def rewrite_set_cookie(value: bytes, reserved: ReservedCookies, *, embedded: bool, secure: bool) -> bytes | None:
    """A sandbox's `Set-Cookie` as the browser may have it, or None to drop it.

    `Domain` goes, so that a cookie stays on its own preview's host; names that are reserved or that parsers read
    differently go whole. An `embedded` preview's cookies become ``Secure; SameSite=None; Partitioned``, without
    which a browser does not send them in a frame on another site. `secure` tells whether the public origin is
    https (or localhost, which browsers trust like it). Attributes are read by RFC 6265bis §5.6: the last one wins.
    """
    pair, *attributes = value.split(b";")
    raw_name, equals, _ = pair.partition(b"=")
    name = raw_name.strip(b" \t")
    pair = pair.strip(b" \t")
    if not equals or not is_token(name) or name in reserved or len(pair) > MAX_PAIR:
        return None
    kept: dict[bytes, bytes] = {}
    for attribute in attributes:
        key, _, text = (part.strip(b" \t") for part in attribute.partition(b"="))
        folded = key.lower()
        if folded != b"domain" and len(text) <= MAX_ATTRIBUTE and is_token(folded):
            kept.pop(folded, None)
            kept[folded] = key + b"=" + text if text else key
    folded_name = name.lower()
    if folded_name.startswith(b"__host-") and not (b"secure" in kept and kept.get(b"path", b"").lower() == b"path=/"):
        return None
    if folded_name.startswith(b"__secure-") and b"secure" not in kept:
        return None
    if embedded and secure:
        kept[b"secure"] = b"Secure"
        kept[b"samesite"] = b"SameSite=None"
        kept[b"partitioned"] = b"Partitioned"
    return b"; ".join([pair, *kept.values()])
