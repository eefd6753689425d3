"""Which header fields pass between the visitor and the sandbox, as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

from preview_proxy.core.cookies import TOKEN
from preview_proxy.core.models import RawHeaders, Rejected

NAMES = 512  # answers kept; a hostile name may be as long as all headers together

# RFC 9110 §7.6.1: they speak of one connection, and a proxy has two.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
HOP_BY_HOP_PREFIXES = (b"proxy-",)

# Written by us, or meaningless behind us.
REQUEST_DROPPED = HOP_BY_HOP | {
    b"content-length",
    b"cookie",
    b"expect",  # RFC 9110 §10.1.1: the server in front has answered it; forwarded, it stalls pooled connections
    b"forwarded",
    b"host",
    b"referer",
    b"remote-user",
    b"true-client-ip",
    b"via",
    b"x-client-ip",
    b"x-http-method-override",
    b"x-middleware-subrequest",
    b"x-preview-user",
    b"x-real-ip",
}
# Names by which infrastructure states an identity: a sandbox must not receive them, nor a visitor forge them.
REQUEST_DROPPED_PREFIXES = HOP_BY_HOP_PREFIXES + (
    b"cf-",
    b"ssl-client-",
    b"tailscale-",
    b"x-amzn-",
    b"x-auth-request-",
    b"x-client-cert",
    b"x-envoy-",
    b"x-forwarded-",
    b"x-goog-authenticated-user-",
    b"x-goog-iap-",
    b"x-ms-client-principal",
    b"x-original-",
    b"x-pomerium-",
    b"x-preview-proxy-",
    b"x-rewrite-",
)
# Providers' own namespaces: credentials and instructions to their edges.
PROVIDER_PREFIXES = (b"e2b-", b"x-bl-", b"x-blaxel-", b"x-daytona-", b"x-nullspace-", b"x-oc-")

# What passes with `Policy(request_headers="allow-list")`: what a browser or a framework's own client code sends.
REQUEST_ALLOWED = frozenset(
    {
        b"accept",
        b"accept-encoding",
        b"accept-language",
        b"cache-control",
        b"content-type",
        b"dnt",
        b"last-event-id",
        b"origin",
        b"pragma",
        b"priority",
        b"range",
        b"rsc",
        b"sec-gpc",
        b"user-agent",
        b"x-csrf-token",
        b"x-requested-with",
    }
)
REQUEST_ALLOWED_PREFIXES = (b"if-", b"next-", b"sec-ch-ua", b"sec-fetch-")

# RFC 6455 §11.3: the handshake of the other hop.
HANDSHAKE_PREFIX = b"sec-websocket-"

RESPONSE_DROPPED = HOP_BY_HOP | {
    # facts about the public host that are not the sandbox's to state
    b"accept-ch",
    b"activate-storage-access",
    b"alt-svc",
    b"clear-site-data",
    b"critical-ch",
    b"expect-ct",
    b"nel",
    b"origin-agent-cluster",
    b"report-to",
    b"reporting-endpoints",
    b"sec-session-registration",
    b"secure-session-registration",
    b"service-worker-allowed",
    b"service-worker-navigation-preload",
    b"set-login",
    b"strict-transport-security",
    # reports to addresses that the sandbox chose
    b"content-security-policy-report-only",
    # written by the ASGI server on this side; two of either confuse caches
    b"date",
    b"server",
    # instructions to a web server in front of us
    b"x-sendfile",
    # decided by `frame-ancestors`
    b"x-frame-options",
}
RESPONSE_DROPPED_PREFIXES = (
    HOP_BY_HOP_PREFIXES + PROVIDER_PREFIXES + (b"public-key-pins", b"surrogate-", b"x-accel-", b"x-preview-proxy-")
)

# What browsers and dev servers send all the time, and no rule has a word in: fields that need no second look.
USUAL_REQUEST = REQUEST_ALLOWED | {
    b"if-modified-since",
    b"if-none-match",
    b"sec-ch-ua",
    b"sec-ch-ua-mobile",
    b"sec-ch-ua-platform",
    b"sec-fetch-dest",
    b"sec-fetch-mode",
    b"sec-fetch-site",
    b"sec-fetch-storage-access",
    b"sec-fetch-user",
    b"upgrade-insecure-requests",
}
USUAL_RESPONSE = frozenset(
    {
        b"accept-ranges",
        b"access-control-allow-credentials",
        b"access-control-allow-headers",
        b"access-control-allow-methods",
        b"age",
        b"cache-control",
        b"content-disposition",
        b"content-encoding",
        b"content-language",
        b"content-length",
        b"content-range",
        b"content-type",
        b"etag",
        b"expires",
        b"last-modified",
        b"pragma",
        b"retry-after",
        b"vary",
        b"x-powered-by",
    }
)
NOTHING: frozenset[bytes] = frozenset()
# What no browser runs scripts from when it is opened by itself (MIME Sniffing §7: none of it is taken for HTML).
_INERT = (
    b"application/javascript",
    b"application/json",
    b"application/octet-stream",
    b"application/wasm",
    b"audio/",
    b"font/",
    b"image/",
    b"text/css",
    b"text/event-stream",
    b"text/javascript",
    b"text/plain",
    b"video/",
)

# RFC 9110 §5.5: no control character but TAB. The table changes every other one, and nothing else.
_CONTROLS = bytes(byte for byte in (*range(0x20), 0x7F) if byte != 0x09)
_CHANGES_CONTROLS = bytes.maketrans(_CONTROLS, b"?" * len(_CONTROLS))
# The spellings that some server or gateway reads as "-".
DASHES = bytes.maketrans(b"_. ", b"---")


def nominated(headers: RawHeaders) -> frozenset[bytes]:
    """The names that `Connection` declares hop-by-hop (RFC 9110 §7.6.1)."""
    values = [value for name, value in headers if name == b"connection"]
    return _tokens(b",".join(values)) if values else NOTHING


@lru_cache(maxsize=NAMES)
def _tokens(value: bytes) -> frozenset[bytes]:
    return frozenset(token.strip(b" \t").lower() for token in value.split(b","))


def request_filter(private: Iterable[str], allowed: Iterable[str] | None = None) -> Callable[[bytes], bool]:
    """A test of whether a request field's name may go upstream, for one set of further private names.

    A private name that ends in ``*`` stands for every name that starts so. With `allowed`, only those exact names and
    `REQUEST_ALLOWED` may. The answer is remembered per name.
    """
    listed = None if allowed is None else REQUEST_ALLOWED | {name.lower().encode("latin-1") for name in allowed}
    names = [name.lower().encode("latin-1").translate(DASHES) for name in private]
    dropped = REQUEST_DROPPED.union(names)
    prefixes = REQUEST_DROPPED_PREFIXES + PROVIDER_PREFIXES + tuple(n[:-1] for n in names if n.endswith(b"*"))

    @lru_cache(maxsize=NAMES)
    def passes(name: bytes) -> bool:
        if not name or b"_" in name or not TOKEN.issuperset(name):
            return False
        plain = name.lower().translate(DASHES)
        if plain in dropped or plain.startswith(prefixes):
            return False
        return listed is None or name in listed or name.startswith(REQUEST_ALLOWED_PREFIXES)

    return passes


@lru_cache(maxsize=NAMES)
def response_name_passes(name: bytes) -> bool:
    """Whether a response field's name may go downstream."""
    if name in RESPONSE_DROPPED or name.startswith(RESPONSE_DROPPED_PREFIXES):
        return False
    return not name.endswith(b"-cdn-cache-control") and name != b"cdn-cache-control"


@lru_cache(maxsize=128)
def may_be_page(content_type: bytes) -> bool:
    """Whether a browser may show content of the type as a page with scripts. SVG is an image that may have some.

    Of several types in a row a browser takes the last (Fetch §2.2.2, "extract a MIME type").
    """
    folded = content_type.lower()
    return not folded.startswith(_INERT) or b"xml" in folded or b"," in folded


def check_controls(fields: bytes, code: str) -> None:
    """Raise `Rejected(code)` if fields in a row hold a control character, which some parser takes for a line's end."""
    if fields.translate(_CHANGES_CONTROLS) != fields:
        raise Rejected(code, "a header value has a control character")
