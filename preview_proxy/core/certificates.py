"""Which host a certificate is for, where OpenSSL's own rule is too narrow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def certificate_matches(host: str, certificate: Mapping[str, Any] | None) -> bool:
    """Whether a verified certificate (as `ssl.SSLSocket.getpeercert` gives it) names `host` (RFC 9525 §6.3).

    Only DNS names count, never the common name. A ``*`` stands for the whole left-most label, which may hold ``_``.
    """
    names = [str(name).lower() for kind, name in (certificate or {}).get("subjectAltName", ()) if kind == "DNS"]
    label, _, parent = host.partition(".")
    wildcard = f"*.{parent}" if label and "." in parent else None
    return any(name in (host, wildcard) for name in names)
