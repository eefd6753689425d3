"""What the operator may choose. Every default is the safe one, and works."""

from __future__ import annotations

from dataclasses import dataclass, field

from preview_proxy.core.models import Origin


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
    connections: int = 256
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
    header name stands for any ending. `embedders` are the origins whose pages may frame a preview. `wake` has a
    paused machine resumed for a visitor who opens one of its pages. `revoke_on_close` takes targets back at shutdown.
    """

    private_headers: tuple[str, ...] = ()
    private_cookies: tuple[str, ...] = ()
    embedders: tuple[str, ...] = ()
    wake: bool = False
    revoke_on_close: bool = False
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for embedder in self.embedders:
            Origin.parse(embedder)
