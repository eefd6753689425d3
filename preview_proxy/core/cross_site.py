"""Whether a request that a browser attached cookies to may have come from another site.

Cookies travel with whatever page asks, so a session alone proves nothing about who asked. `Origin` (RFC 6454) and
Fetch Metadata (W3C) do. What is not known to be safe is refused.
"""

from __future__ import annotations

from preview_proxy.core.models import Inbound, Origin, Rejected

# RFC 9110 §9.2.1
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_LOOKED_AT = (b"origin", b"sec-fetch-site")
# A link or a frame on another site may open a preview; what else it loads there it could also read about.
_NAVIGATIONS = frozenset({b"document", b"iframe", b"frame"})


def check_origin(inbound: Inbound, public: Origin) -> None:
    """Raise `Rejected("cross_site")` unless the preview's own pages, or a plain navigation, can have sent this."""
    fields = [(name, value) for name, value in inbound.headers if name in _LOOKED_AT]
    if not fields and inbound.kind == "http" and inbound.method in SAFE_METHODS:
        return  # a client older than Fetch Metadata
    origins = [value for name, value in fields if name == b"origin"]
    sites = [value for name, value in fields if name == b"sec-fetch-site"]
    own = origins == [public.serialized]
    if inbound.kind == "websocket":
        if not own:
            raise Rejected("cross_site", "a WebSocket from another origin")
    elif inbound.method not in SAFE_METHODS:
        if not own and (origins or sites != [b"same-origin"]):
            raise Rejected("cross_site", "an unsafe method from another origin")
    elif not _may_read(inbound, sites):
        raise Rejected("cross_site", "a subresource asked for by another site")


def _may_read(inbound: Inbound, sites: list[bytes]) -> bool:
    if sites in ([], [b"same-origin"], [b"none"]):
        return True
    if sites not in ([b"same-site"], [b"cross-site"]) or inbound.values(b"sec-fetch-mode") != [b"navigate"]:
        return False
    destination = inbound.values(b"sec-fetch-dest")
    return len(destination) == 1 and destination[0] in _NAVIGATIONS
