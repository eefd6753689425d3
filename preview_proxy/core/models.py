"""The nouns of the project, none of which can change. `docs/explanation/life-of-a-request.md` shows them at work."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from preview_proxy.core.secret import Secret

RawHeaders = tuple[tuple[bytes, bytes], ...]
"""Header fields in the order received, names in lower case, duplicates kept."""

# A host label of a preview may hold "_" although RFC 952 has none: machine ids such as `mch_a1b2` do,
# and browsers, DNS and wildcard certificates all take it.
HOST = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*\Z"
)
MACHINE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?\Z")
LOOPBACK = re.compile(r"127(?:\.[0-9]{1,3}){3}\Z")
DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


class Rejected(Exception):
    """A message breaks a rule. `code` is a key of `preview_proxy.errors.CODES`; `detail` is for the log only."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Preview:
    """One port of one machine.

    `generation` counts how often its public host was given to something else: raise it and every ticket and
    gate cookie issued before is void. Raises `ValueError` for a machine id or port that no host could carry.
    """

    machine: str
    port: int
    generation: int = 0

    def __post_init__(self) -> None:
        if not MACHINE.match(self.machine):
            raise ValueError(
                "machine must be 1 to 128 letters, digits, '.', '_' or '-', with a letter or digit at both ends"
            )
        if type(self.port) is not int or not 1 <= self.port <= 65535:
            raise ValueError(f"port must be an integer from 1 to 65535, not {self.port!r}")

    def __hash__(self) -> int:
        # What a string's hash costs is paid once, and every request looks its preview up several times. A visitor may
        # choose the port, so ports must not collide.
        return hash(self.machine) ^ (self.generation << 16 | self.port)

    @property
    def key(self) -> str:
        """One string for the three fields, for claims and cache keys."""
        return f"{self.machine}:{self.port}:{self.generation}"


@dataclass(frozen=True)
class Origin:
    """A scheme, host and port compared as a whole (RFC 6454 §5). `str()` leaves a default port out."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Origin:
        """Read ``scheme://host[:port]``; anything more or less raises `ValueError`."""
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise ValueError(f"{text!r} is not an origin such as 'https://app.example.com'") from None
        host = parts.hostname or ""
        scheme = parts.scheme
        plain = f"{scheme}://{host}" + (f":{port}" if port is not None else "")
        known = scheme in DEFAULT_PORTS and HOST.match(host) and port != 0
        if not known or not text.isascii() or text.lower() != plain:
            raise ValueError(f"{text!r} is not an origin such as 'https://app.example.com'")
        return cls(scheme, host, port or DEFAULT_PORTS[scheme])

    @cached_property
    def authority(self) -> str:
        """``host`` or ``host:port``, without a default port."""
        return self.host if self.port == DEFAULT_PORTS[self.scheme] else f"{self.host}:{self.port}"

    @cached_property
    def field(self) -> bytes:
        """The same, as a `Host` field carries it."""
        return self.authority.encode("ascii")

    @property
    def is_loopback(self) -> bool:
        """Whether the name can only mean this computer (RFC 6761 §6.3 for ``localhost``, RFC 1122 §3.2.1.3)."""
        return self.host == "localhost" or self.host.endswith(".localhost") or LOOPBACK.match(self.host) is not None

    @cached_property
    def serialized(self) -> bytes:
        """Scheme and authority, as an `Origin` field carries them (RFC 6454 §6.2)."""
        return str(self).encode("ascii")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


class HiddenOrigin(Origin):
    """An origin whose host is itself a credential, because it holds `secret` (in lower case, like every host).

    Its textual forms name ``hidden.invalid`` instead (RFC 2606 §2), and no attribute holds the host in the clear. DNS
    and TLS (RFC 6066 §3) still tell it to whoever watches the network.
    """

    hidden: Secret
    secret: Secret

    def __init__(self, scheme: str, host: str, port: int, secret: Secret) -> None:
        # past the frozen dataclass's own `__init__`, which would keep the host as text
        vars(self).update(scheme=scheme, port=port, hidden=Secret(host), secret=secret)

    @property
    def host(self) -> str:
        return self.hidden.reveal().decode("ascii")

    @property
    def authority(self) -> str:
        return self.host if self.port == DEFAULT_PORTS[self.scheme] else f"{self.host}:{self.port}"

    @property
    def field(self) -> bytes:
        return self.authority.encode("ascii")

    @property
    def serialized(self) -> bytes:
        return b"%b://%b" % (self.scheme.encode("ascii"), self.field)

    def __str__(self) -> str:
        return f"{self.scheme}://hidden.invalid"

    def __repr__(self) -> str:
        return f"HiddenOrigin({str(self)!r})"


@dataclass(frozen=True)
class Endpoint:
    """Where one transport of a target is served, and the credential headers that only this origin may see.

    `base_path` has no trailing slash; `marker` is the raw query parameter appended to every request target. The edge
    drops a WebSocket that is `max_socket_age` seconds old; None where it does not. `instructions` are header fields
    for the edge that are no secret, sent with every request. Under a `HiddenOrigin` the `Host` field has to be one of
    the credentials.
    Raises `ValueError` for plain HTTP to another computer, and for a credential header that is there twice.
    """

    origin: Origin
    base_path: bytes = b""
    marker: bytes = b""
    credentials: tuple[tuple[bytes, Secret], ...] = field(default=(), repr=False)
    max_socket_age: float | None = None
    instructions: RawHeaders = ()

    def __post_init__(self) -> None:
        if self.origin.scheme != "https" and not self.origin.is_loopback:
            raise ValueError("an endpoint must be https, unless its host is loopback")
        if len(self.credential_names) != len(self.credentials) + len(self.instructions):
            raise ValueError("a credential header is given twice")
        if isinstance(self.origin, HiddenOrigin) and b"host" not in self.credential_names:
            raise ValueError("a hidden origin needs its Host among the credentials")

    @cached_property
    def credential_names(self) -> frozenset[bytes]:
        """The names of the credentials and instructions: nobody else's fields may go out under them."""
        return frozenset(name.lower() for name, _ in (*self.credentials, *self.instructions))

    @cached_property
    def scope(self) -> bytes:
        """A digest of the origin and the credentials: endpoints that differ in it never share a connection."""
        digest = sha256(self.origin.serialized + b"\0")
        for name, secret in self.credentials:
            digest.update(b"%s\0%s\0" % (name, secret.reveal()))
        return digest.digest()

    def leaks(self, text: bytes) -> bool:
        """Whether `text` repeats one of the credentials, or what is secret in the host."""
        if isinstance(self.origin, HiddenOrigin) and self.origin.secret.occurs_in(text.lower()):
            return True
        for _, secret in self.credentials:  # noqa: SIM110 - a generator is slower
            if secret.occurs_in(text):
                return True
        return False


@dataclass(frozen=True, slots=True)
class Target:
    """A provider's answer for one preview: an endpoint for each transport, until `expires_at` (Unix seconds).

    `id` names it in logs, and is no secret.
    """

    id: str
    http: Endpoint | None
    websocket: Endpoint | None
    expires_at: float | None = None


class Inbound(NamedTuple):
    """The request as it came, copied from the ASGI scope before anything awaits (servers append to theirs).

    `authority` is the `Host` field, lower-cased, without trailing dot or default port.
    `content_length` is None where the body is chunked or absent; `has_body` tells which.
    """

    kind: Literal["http", "websocket"]
    method: str
    scheme: str
    http_version: str
    authority: str
    path: bytes
    query: bytes
    headers: RawHeaders
    client: str | None
    has_body: bool
    content_length: int | None
    subprotocols: tuple[str, ...] = ()

    def values(self, name: bytes) -> list[bytes]:
        """Every value of a header field, in order."""
        return [value for key, value in self.headers if key == name]


class Outbound(NamedTuple):
    """The request to send upstream. The credential is not in it: the transport adds that last."""

    method: str
    endpoint: Endpoint
    target: bytes
    headers: RawHeaders
    has_body: bool
    content_length: int | None


class Reply(NamedTuple):
    """The response head to send downstream. Without `has_body`, whatever upstream sends as a body is dropped."""

    status: int
    headers: RawHeaders
    has_body: bool


class Accept(NamedTuple):
    """A WebSocket handshake that upstream accepted: what to accept downstream with."""

    subprotocol: str | None
    headers: RawHeaders
