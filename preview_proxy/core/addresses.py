"""Which addresses are on the public internet."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

# RFC 6052 §2.1: an IPv4 address behind a translator, in the last 32 bits
_TRANSLATED = IPv6Network("64:ff9b::/96")
# What the registries call not globally reachable and `ipaddress` came to know only lately, or not at all: translation
# of one's own (RFC 8215), documentation (RFC 9637), protocol assignments (RFC 6890), the end of 6to4 (RFC 7526).
_NOT_GLOBAL = tuple(map(ip_network, ("64:ff9b:1::/48", "3fff::/20", "192.0.0.0/24", "192.88.99.0/24")))


def is_public(address: str) -> bool:
    """Whether a textual IP address is globally reachable by the IANA registries (RFC 6890), and for one host.

    An IPv4 address inside an IPv6 one is what counts, however it is embedded.
    """
    parsed = ip_address(address)
    inner = _embedded(parsed) if isinstance(parsed, IPv6Address) else parsed
    if isinstance(inner, IPv6Address) and inner.is_site_local:
        return False
    if any(inner in network for network in _NOT_GLOBAL):
        return False
    return inner.is_global and not (inner.is_multicast or inner.is_reserved)


def _embedded(address: IPv6Address) -> IPv4Address | IPv6Address:
    if address in _TRANSLATED:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo or (address, address))[1]
