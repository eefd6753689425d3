"""What goes out, given what came in: three pure functions, `plan_request`, `plan_handshake` and `plan_response`.

The order of their steps is a security property. Outwards: strip first, then add what is ours; the credential is
added later still, by the transport. On the way back: rewrite, then strip last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple
from urllib.parse import quote

from preview_proxy.core.cookies import (
    MAX_SET_COOKIES,
    ReservedCookies,
    filter_cookies,
    is_token,
    rewrite_set_cookie,
)
from preview_proxy.core.headers import (
    DASHES,
    HANDSHAKE_PREFIX,
    NOTHING,
    RESPONSE_DROPPED,
    USUAL_REQUEST,
    USUAL_RESPONSE,
    check_controls,
    may_be_page,
    nominated,
    request_filter,
    response_name_passes,
)
from preview_proxy.core.models import Accept, Endpoint, Inbound, Origin, Outbound, Preview, RawHeaders, Rejected, Reply
from preview_proxy.core.policy import Limits, Policy
from preview_proxy.core.urls import request_target, rewrite_link, rewrite_refresh, rewrite_url
from preview_proxy.core.websocket import check_handshake, offered_subprotocols

# What web servers and browsers take at least, and one of ours may be behind another.
MAX_VALUE = 16 * 1024

# In the user's name everything else is percent-encoded UTF-8, which any server takes (RFC 9110 §5.5).
_PRINTABLE = bytes(set(range(0x20, 0x7F)) - {0x25}).decode()

# RFC 9110 §6.4.1 and §15.3.6: responses that have no content whatever upstream sends after the head.
_BODILESS = frozenset({204, 205, 304})


@dataclass(frozen=True, slots=True)
class Rules:
    """The operator's policy, compiled once."""

    passes: Callable[[bytes], bool]
    usual: frozenset[bytes]
    cookies: ReservedCookies
    frame_ancestors: bytes
    embedded: bool
    subprotocols_are_private: bool
    added: Added
    limits: Limits


class Added(NamedTuple):
    """Fields for every page: `fields` where the sandbox sent none of the name. What it sent of `imposed` ones goes."""

    fields: RawHeaders
    names: frozenset[bytes]
    imposed: frozenset[bytes]


# A page below the customer's own domain could use that as its RP id (Web Authentication §5.1.3), and so ask for the
# passkeys of the customer's app. In one field the last word on a feature counts (RFC 9651 §3.2); one line that does
# not parse voids all lines of the name (§4.2), so none of the sandbox's may stand beside this.
_PERMISSIONS = b"permissions-policy"
_NO_PASSKEYS = b"publickey-credentials-get=(), publickey-credentials-create=()"


def compile_rules(
    policy: Policy,
    *,
    cookies: Iterable[str],
    headers: Iterable[str],
    embedders: Iterable[str],
    same_site: bool = False,
) -> Rules:
    """Rules for a policy, the cookies and headers that the customer's session is read from, and who may frame.

    `same_site` tells that previews may be below the customer's own domain.
    """
    frames = sorted({str(Origin.parse(embedder)) for embedder in (*policy.embedders, *embedders)})
    strict = policy.request_headers == "allow-list"
    passes = request_filter([*policy.private_headers, *headers], policy.allowed_headers if strict else None)
    return Rules(
        passes=passes,
        usual=frozenset(filter(passes, USUAL_REQUEST)),
        cookies=ReservedCookies.of([*policy.private_cookies, *cookies]),
        frame_ancestors=b"frame-ancestors " + (" ".join(frames).encode() or b"'none'"),
        embedded=bool(frames),
        subprotocols_are_private=not request_filter([*policy.private_headers, *headers])(b"sec-websocket-protocol"),
        added=_added(policy, same_site),
        limits=policy.limits,
    )


def _added(policy: Policy, same_site: bool) -> Added:
    fields = {name.lower().encode(): value.encode() for name, value in policy.added_headers.items()}
    if same_site:
        fields[_PERMISSIONS] = b", ".join([*filter(None, [fields.get(_PERMISSIONS)]), _NO_PASSKEYS])
    return Added(tuple(fields.items()), frozenset(fields), frozenset({_PERMISSIONS} if same_site else ()))


class Route(NamedTuple):
    """The two ends of one relay: the public origin of a preview, and the endpoint that serves it.

    `user` is who looks at it, where upstream is to be told.
    """

    preview: Preview
    public: Origin
    endpoint: Endpoint
    user: str = ""


def plan_request(inbound: Inbound, route: Route, rules: Rules) -> Outbound:
    """The HTTP request for upstream. Raises `Rejected`."""
    headers = _request_headers(inbound, route, rules)
    if inbound.content_length is not None:
        headers.append((b"content-length", b"%d" % inbound.content_length))
    elif inbound.has_body:
        headers.append((b"transfer-encoding", b"chunked"))
    return _outbound(inbound, route, headers)


def plan_handshake(inbound: Inbound, route: Route, rules: Rules, key: bytes) -> Outbound:
    """The WebSocket handshake for upstream, with our own `key` and no extension (RFC 6455 §4.1). Raises `Rejected`."""
    headers = [pair for pair in _request_headers(inbound, route, rules) if not pair[0].startswith(HANDSHAKE_PREFIX)]
    headers += [
        (b"connection", b"Upgrade"),
        (b"upgrade", b"websocket"),
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-key", key),
    ]
    if offer := offered_subprotocols(_offer(inbound, rules)):
        headers.append((b"sec-websocket-protocol", offer))
    return _outbound(inbound, route, headers)


def _offer(inbound: Inbound, rules: Rules) -> tuple[str, ...]:
    """The visitor's subprotocols, unless their session is read from the field that brings them."""
    return () if rules.subprotocols_are_private else inbound.subprotocols


def _outbound(inbound: Inbound, route: Route, headers: list[tuple[bytes, bytes]]) -> Outbound:
    target = request_target(inbound.path, inbound.query, route.endpoint)
    return Outbound(inbound.method, route.endpoint, target, tuple(headers), inbound.has_body, inbound.content_length)


def _request_headers(inbound: Inbound, route: Route, rules: Rules) -> list[tuple[bytes, bytes]]:
    endpoint, usual = route.endpoint, rules.usual
    not_ours = nominated(inbound.headers) | endpoint.credential_names
    if not usual.isdisjoint(not_ours):
        usual -= not_ours
    headers = [] if b"host" in endpoint.credential_names else [(b"host", endpoint.origin.field)]
    cookies, referers = [], []
    for pair in inbound.headers:
        name = pair[0]
        if name in usual:
            headers.append(pair)
        elif name in not_ours:
            continue
        elif name == b"cookie":
            cookies.append(pair[1])
        elif name == b"referer":
            referers.append(pair[1])
        elif rules.passes(name) and name.translate(DASHES) not in not_ours:
            headers.append(pair)
    if cookies and (kept := filter_cookies(cookies, rules.cookies)):
        headers.append((b"cookie", kept))
    for referer in referers[:1]:
        headers += [(b"referer", kept) for kept in _referer(referer, route.public)]
    headers.append((b"x-forwarded-host", route.public.field))
    headers.append((b"x-forwarded-proto", route.public.scheme.encode()))
    if inbound.client:
        headers.append((b"x-forwarded-for", inbound.client.encode("latin-1", "replace")))
    if route.user:
        headers.append((b"x-preview-user", quote(route.user, safe=_PRINTABLE).encode()))
    headers += endpoint.instructions
    return headers


def _referer(value: bytes, public: Origin) -> list[bytes]:
    """The preview's own pages whole; of another site's only the origin, for its queries are not ours to tell."""
    own = public.serialized
    if value.startswith(own) and value[len(own) :][:1] in (b"", b"/"):
        return [value]
    scheme, separator, rest = value.partition(b"://")
    try:
        origin = Origin.parse((scheme + separator + rest.partition(b"/")[0].partition(b"?")[0]).decode("latin-1"))
    except ValueError:
        return []
    return [str(origin).encode() + b"/"]


def plan_response(
    method: str, status: int, headers: RawHeaders, route: Route, rules: Rules, *, navigates: bool = False
) -> Reply:
    """The response head for the browser. Raises `Rejected("upstream_protocol_error")` for one that must not go out.

    `navigates` tells that a browser shows it as a page.
    """
    if not 200 <= status <= 599:
        raise Rejected("upstream_protocol_error", f"status {status}")
    has_body = method != "HEAD" and status not in _BODILESS
    kept = _response_headers(headers, route, rules)
    lengths, types = [], []
    for name, value in kept:
        if name == b"content-length":
            lengths.append(value)
        elif name == b"content-type":
            types.append(value)
    if lengths:
        if status in _BODILESS or b"transfer-encoding" in dict(headers):
            kept = [pair for pair in kept if pair[0] != b"content-length"]
        elif len(lengths) > 1 or not lengths[0].isdigit():
            # RFC 9112 §6.3: nobody would know where the next response starts
            raise Rejected("upstream_protocol_error", "Content-Length is not one number")
    if navigates and status == 401:  # or the browser asks its user for a password, in the name of the host
        kept = [pair for pair in kept if pair[0] != b"www-authenticate"]
    if len(types) != 1 or may_be_page(types[0]):
        kept = _with_added(kept, rules.added)
    kept.append((b"content-security-policy", rules.frame_ancestors))
    return Reply(status, tuple(kept), has_body)


def _with_added(kept: list[tuple[bytes, bytes]], added: Added) -> list[tuple[bytes, bytes]]:
    """A page's fields and those it lacks, by what is left of them: what was nominated or dropped was not sent."""
    if added.imposed:
        kept = [pair for pair in kept if pair[0] not in added.imposed]
    sent = added.names.intersection([name for name, _ in kept])
    return [*kept, *[pair for pair in added.fields if pair[0] not in sent]] if sent else [*kept, *added.fields]


def plan_early_hint(headers: RawHeaders, route: Route, rules: Rules) -> list[bytes]:
    """The `Link` fields of a 103 (RFC 8297) that the browser may have. Raises `Rejected`."""
    return [value for name, value in _response_headers(headers, route, rules) if name == b"link"]


# RFC 9110 §6.5.1: what frames, routes, authenticates or describes the content has no place after it.
_NOT_IN_TRAILERS = frozenset(
    {b"authorization", b"cache-control", b"expires", b"host", b"location", b"set-cookie", b"vary", b"www-authenticate"}
)


def plan_trailers(headers: RawHeaders, route: Route, rules: Rules) -> list[tuple[bytes, bytes]]:
    """The trailer fields that the browser may have. Raises `Rejected`."""
    kept = _response_headers(headers, route, rules)
    return [
        (n, v) for n, v in kept if n not in _NOT_IN_TRAILERS and not n.startswith((b"content-", b"access-control-"))
    ]


def plan_accept(headers: RawHeaders, key: bytes, inbound: Inbound, route: Route, rules: Rules) -> Accept:
    """What to accept the visitor's WebSocket with, after upstream's 101. Raises `Rejected`."""
    subprotocol = check_handshake(headers, key, _offer(inbound, rules))
    kept = _response_headers(headers, route, rules)
    # RFC 9110 §8.6: a 1xx has no Content-Length
    return Accept(subprotocol, tuple(p for p in kept if not p[0].startswith((HANDSHAKE_PREFIX, b"content-length"))))


def _response_headers(headers: RawHeaders, route: Route, rules: Rules) -> list[tuple[bytes, bytes]]:
    names = [name for name, _ in headers]
    whole = b"".join(chain.from_iterable(headers))
    _check_head(headers, names, whole, rules.limits)
    usual, hop = USUAL_RESPONSE, nominated(headers) if b"connection" in names else NOTHING
    if not usual.isdisjoint(hop):
        usual -= hop
    kept = []
    for pair in headers:
        name = pair[0]
        if name in usual:
            kept.append(pair)
            continue
        if name in hop or not response_name_passes(name):
            continue
        rewrite = _REWRITES.get(name)
        if rewrite is None:
            kept.append(pair)
        elif (changed := rewrite(pair[1], route, rules)) is not None:
            kept.append((name, changed))
    if len(kept) > MAX_SET_COOKIES:
        kept = _without_excess_cookies(kept)
    if route.endpoint.leaks(whole):
        kept = [pair for pair in kept if not route.endpoint.leaks(b"%s:%s" % pair)]
    return kept


def _without_excess_cookies(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    places = [place for place, (name, _) in enumerate(headers) if name == b"set-cookie"][MAX_SET_COOKIES:]
    return [pair for place, pair in enumerate(headers) if place not in places]


def _check_head(headers: RawHeaders, names: list[bytes], whole: bytes, limits: Limits) -> None:
    """RFC 9110 §5: what a server on our side could not write, or a browser would read as two fields."""
    if len(names) > limits.response_header_count or len(whole) > limits.response_header_bytes:
        raise Rejected("upstream_protocol_error", f"{len(names)} header fields, {len(whole)} bytes")
    if not _KNOWN_RESPONSE.issuperset(names) and not all(map(is_token, names)):
        raise Rejected("upstream_protocol_error", "a header name is no token")
    if len(whole) > MAX_VALUE and any(len(value) > MAX_VALUE for _, value in headers):
        raise Rejected("upstream_protocol_error", f"a header value of more than {MAX_VALUE} bytes")
    check_controls(whole, "upstream_protocol_error")


def _url(value: bytes, route: Route, rules: Rules) -> bytes | None:
    return rewrite_url(value, route.endpoint.origin, route.public, route.preview.port)


def _link(value: bytes, route: Route, rules: Rules) -> bytes | None:
    return rewrite_link(value, route.endpoint.origin, route.public, route.preview.port)


def _refresh(value: bytes, route: Route, rules: Rules) -> bytes | None:
    return rewrite_refresh(value, route.endpoint.origin, route.public, route.preview.port)


def _allow_origin(value: bytes, route: Route, rules: Rules) -> bytes | None:
    own = value.strip(b" \t").lower() == route.endpoint.origin.serialized
    return route.public.serialized if own else value


def _set_cookie(value: bytes, route: Route, rules: Rules) -> bytes | None:
    secure = route.public.scheme == "https" or route.public.is_loopback
    return rewrite_set_cookie(value, rules.cookies, embedded=rules.embedded, secure=secure)


def _content_security_policy(value: bytes, route: Route, rules: Rules) -> bytes | None:
    """The sandbox's policies for the public host, without `frame-ancestors`: that is the operator's (CSP 3 §6.4.2)."""
    renamed = value.replace(route.endpoint.origin.field, route.public.field)
    policies = [_without_frame_ancestors(policy) for policy in renamed.split(b",")]
    return b", ".join([policy for policy in policies if policy]) or None


def _without_frame_ancestors(policy: bytes) -> bytes:
    directives = [directive.strip() for directive in policy.split(b";")]
    kept = [d for d in directives if d and d.split(None, 1)[0].lower() != b"frame-ancestors"]
    return b"; ".join(kept)


_REWRITES: dict[bytes, Callable[[bytes, Route, Rules], bytes | None]] = {
    b"access-control-allow-origin": _allow_origin,
    b"content-location": _url,
    b"content-security-policy": _content_security_policy,
    b"link": _link,
    b"location": _url,
    b"refresh": _refresh,
    b"set-cookie": _set_cookie,
    b"sourcemap": _url,
    b"x-sourcemap": _url,
}
_KNOWN_RESPONSE = USUAL_RESPONSE | RESPONSE_DROPPED | frozenset(_REWRITES)
