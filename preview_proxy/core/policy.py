"""What the operator may choose. Every default is the safe one, and works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from preview_proxy.core.cookies import is_token
from preview_proxy.core.headers import HOP_BY_HOP, request_filter
from preview_proxy.core.models import Origin

# Permissions Policy §5.2, and the features of the specifications that define them: what a page under development
# seldom needs, and a hostile one would ask the visitor for in the name of the host that they see. Not "bluetooth":
# Chromium does not know it without a flag, and says so in the console of every page.
DENIED_FEATURES = (
    "camera",
    "microphone",
    "geolocation",
    "payment",
    "usb",
    "serial",
    "hid",
    "midi",
    "display-capture",
    "publickey-credentials-get",
    "publickey-credentials-create",
    "identity-credentials-get",
    "otp-credentials",
    "storage-access",
)

ADDED_HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",  # Fetch §3.6
    "Referrer-Policy": "strict-origin-when-cross-origin",  # Referrer Policy §3
    "Cross-Origin-Opener-Policy": "same-origin-allow-popups",  # HTML §7.1.3
    "Origin-Agent-Cluster": "?1",  # HTML §7.1.2
    "X-Robots-Tag": "noindex",  # a preview is nobody's search result
    "Permissions-Policy": ", ".join(f"{feature}=()" for feature in DENIED_FEATURES),
}
"""What a page gets where the sandbox sent no field of the name; scripts, styles and images have no use for them."""

# What `Policy.added_headers` cannot name: framing, and what is decided elsewhere.
_NOT_ADDED = HOP_BY_HOP | {b"content-length", b"content-security-policy", b"set-cookie", b"x-frame-options"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what a visitor or an upstream may make us hold. Sizes in bytes, times in seconds."""

    header_count: int = 100
    header_bytes: int = 32 * 1024
    path_bytes: int = 8 * 1024
    query_bytes: int = 16 * 1024
    body_bytes: int | None = None
    response_header_count: int = 128
    response_header_bytes: int = 64 * 1024
    message_bytes: int = 4 * 1024 * 1024
    requests_per_subject: int = 1000
    requests_per_preview: int = 500
    requests: int = 4000
    sockets_per_subject: int = 250
    sockets_per_preview: int = 500
    sockets: int = 8000
    handshakes_per_minute: int = 600
    connections: int = 500
    pool_timeout: float = 2.0
    connect_timeout: float = 5.0
    head_timeout: float = 60.0
    idle_timeout: float = 120.0
    write_timeout: float = 30.0
    check_timeout: float = 2.0
    provider_timeout: float = 15.0
    mints_per_minute: int = 600
    wake_timeout: float = 20.0
    decision_ttl: float = 5.0
    recheck_interval: float = 30.0
    drain_timeout: float = 10.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and not value > 0:  # so written, it refuses NaN too
                raise ValueError(f"Limits.{name} must be greater than 0, not {value!r}")
        if self.decision_ttl > 30:
            raise ValueError(f"Limits.decision_ttl must be at most 30 seconds, not {self.decision_ttl!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What is kept from the sandbox, who may frame its pages, and what the provider may be asked to do.

    `private_headers` and `private_cookies` are further names to withhold from upstream; a trailing ``*`` in a
    header name stands for any ending. `embedders` are the origins whose pages may frame a preview.

    `request_headers` may be ``"allow-list"``: then upstream gets what a browser sends, and `allowed_headers`, names
    that are to pass besides. `added_headers` are the fields that a page gets where the sandbox sent none of the
    name; ``{}`` adds none. With `send_user`, upstream gets the subject as ``X-Preview-User``. With `private_upstreams`,
    the name of an upstream may resolve to an address of a private network, as it does where machines are your own.

    `wake` has a paused machine resumed for a visitor who opens one of its pages. `revoke_on_close` takes targets back
    at shutdown.

    Raises `ValueError` for what could not work.
    """

    private_headers: tuple[str, ...] = ()
    private_cookies: tuple[str, ...] = ()
    request_headers: Literal["pass", "allow-list"] = "pass"
    allowed_headers: tuple[str, ...] = ()
    added_headers: Mapping[str, str] = field(default_factory=lambda: dict(ADDED_HEADERS))
    send_user: bool = False
    private_upstreams: bool = False
    embedders: tuple[str, ...] = ()
    wake: bool = False
    revoke_on_close: bool = False
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for embedder in self.embedders:
            Origin.parse(embedder)
        if self.request_headers not in ("pass", "allow-list"):
            raise ValueError(f"Policy.request_headers must be 'pass' or 'allow-list', not {self.request_headers!r}")
        if self.allowed_headers and self.request_headers == "pass":
            raise ValueError(
                "Policy.allowed_headers are for request_headers='allow-list': without it every name passes"
            )
        passes = request_filter(())
        for name in self.allowed_headers:
            if not passes(name.encode("latin-1", "replace")):
                raise ValueError(f"Policy.allowed_headers cannot let {name!r} pass")
        for name, value in self.added_headers.items():
            raw = name.lower().encode("latin-1", "replace")
            if not is_token(raw) or raw in _NOT_ADDED or not (value.isascii() and value.isprintable()):
                raise ValueError(f"Policy.added_headers cannot add {name!r}")
