"""From a `Host` to a preview, and back to the public origin that shows it.

`HostPattern` reads machine and port out of the host; `HostTable` looks custom domains up; `first_of` tries several.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import NamedTuple, Protocol

from preview_proxy.core.models import DEFAULT_PORTS, HOST, Origin, Preview
from preview_proxy.errors import ConfigurationError, Misdirected


class Routed(NamedTuple):
    """A preview and the public origin that shows it."""

    preview: Preview
    public: Origin


class Router(Protocol):
    """Says which preview an authority (``host`` or ``host:port``, lower case) shows."""

    async def __call__(self, authority: str) -> Routed | None:
        """The preview; None for a host that is none of ours, which the customer's app answers.

        Raises `Misdirected` for a host inside a preview zone that names no preview: it must not reach the app.
        """
        ...

    def host_for(self, preview: Preview) -> Origin | None:
        """The public origin that shows `preview`, None where the router cannot tell."""
        ...

    def claims(self, host: bytes) -> bool:
        """Whether a malformed `Host` looks like one of ours, and so must be refused instead of passed on."""
        ...


def _public(scheme: str, host: str, port: int | None) -> Origin:
    """The public origin of a host, or `ConfigurationError` where browsers would not keep its cookies safe."""
    if scheme not in ("http", "https"):
        raise ConfigurationError(f"scheme must be 'https' (or 'http' on localhost), not {scheme!r}")
    if port is not None and not 1 <= port <= 65535:
        raise ConfigurationError(f"port must be from 1 to 65535, not {port!r}")
    origin = Origin(scheme, host, port or DEFAULT_PORTS[scheme])
    if scheme == "http" and not origin.is_loopback:
        raise ConfigurationError(f"{host!r} needs scheme='https': plain http is for names under .localhost only")
    return origin


class HostPattern:
    """Previews whose host holds the port and the machine: ``{port}-{machine}.acme-previews.dev``.

    The first label holds ``{machine}`` and, unless `default_port` fixes it, ``{port}``; the rest is the zone, which
    belongs to previews alone. `scheme` and `port` are those of the public origin, as a browser shows it. A pattern
    that is not of this form raises `ConfigurationError`.
    """

    def __init__(
        self, pattern: str, *, scheme: str = "https", port: int | None = None, default_port: int | None = None
    ) -> None:
        label, _, zone = pattern.partition(".")
        fields = re.findall(r"\{([^{}]*)\}", pattern)
        wanted = ["machine"] if default_port is not None else ["machine", "port"]
        if sorted(fields) != wanted or not HOST.match(zone):
            raise ConfigurationError(
                f"{pattern!r} must be one label with {' and '.join(f'{{{name}}}' for name in wanted)}, a dot, and a "
                "zone, such as '{port}-{machine}.acme-previews.dev'; scheme and port are separate arguments"
            )
        if "}{" in label or not HOST.match(re.sub(r"\{(?:machine|port)\}", "1", label)):
            raise ConfigurationError(f"{label!r} needs a '-' or other text between its fields, in lower case")
        if default_port is not None and not 1 <= default_port <= 65535:
            raise ConfigurationError(f"default_port must be from 1 to 65535, not {default_port!r}")
        self._label = label
        self._default_port = default_port
        self._example = _public(scheme, zone, port)
        suffix = "" if self._example.port == DEFAULT_PORTS[scheme] else f":{self._example.port}"
        self._zone = zone
        self._suffix = f".{zone}{suffix}"
        expression = re.escape(label).replace(r"\{machine\}", r"(?P<machine>[a-z0-9](?:[a-z0-9_-]*[a-z0-9])?)")
        self._expression = re.compile(expression.replace(r"\{port\}", "(?P<port>[1-9][0-9]{0,4})"))

        self._remembered = lru_cache(maxsize=4096)(self._match)

    async def __call__(self, authority: str) -> Routed | None:
        return self._remembered(authority)

    def _match(self, authority: str) -> Routed | None:
        host = authority.partition(":")[0]
        if host != self._zone and not host.endswith("." + self._zone):
            return None
        if authority.endswith(self._suffix):
            match = self._expression.fullmatch(authority.removesuffix(self._suffix))
            if match:
                fields = match.groupdict()
                port = int(fields.get("port") or self._default_port or 0)
                if port <= 65535:
                    return Routed(Preview(fields["machine"], port), self._origin(host))
        raise Misdirected(detail="a host inside the preview zone that the pattern does not match")

    def _origin(self, host: str) -> Origin:
        return Origin(self._example.scheme, host, self._example.port)

    def host_for(self, preview: Preview) -> Origin | None:
        if self._default_port is not None and preview.port != self._default_port:
            return None
        label = self._label.format(machine=preview.machine, port=preview.port)
        match = self._expression.fullmatch(label)
        if len(label) > 63 or match is None or match["machine"] != preview.machine or preview.generation:
            return None  # no host of this pattern would lead back to it
        return self._origin(f"{label}.{self._zone}")

    def claims(self, host: bytes) -> bool:
        return self._zone.encode() in host.lower()

    def __repr__(self) -> str:
        return f"HostPattern({self._label + '.' + self._zone!r}, scheme={self._example.scheme!r})"


Lookup = Callable[[str], Awaitable[Preview | None]]


class HostTable:
    """Custom domains: a mapping from host to `Preview`, or an async function over the customer's database.

    The function gets a host in lower case and answers a `Preview`, or None for a host that is not a preview's.
    Its answers are kept for `ttl` seconds (10 000 hosts at most), because every request of the app asks too; a
    changed row takes effect within that time. `scheme` and `port` are those of the public origins.
    """

    def __init__(
        self,
        hosts: Mapping[str, Preview] | Lookup,
        *,
        scheme: str = "https",
        port: int | None = None,
        ttl: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheme = scheme
        self._port = _public(scheme, "preview.localhost", port).port
        self._table = self._checked(hosts) if isinstance(hosts, Mapping) else {}
        self._lookup = None if isinstance(hosts, Mapping) else hosts
        self._ttl = ttl
        self._clock = clock
        self._known: OrderedDict[str, tuple[float, Preview | None]] = OrderedDict()

    def _checked(self, hosts: Mapping[str, Preview]) -> dict[str, Preview]:
        for host in hosts:
            if not HOST.match(host):
                raise ConfigurationError(f"{host!r} must be a host name in lower case, without scheme or port")
            _public(self._scheme, host, self._port)
        return dict(hosts)

    async def __call__(self, authority: str) -> Routed | None:
        host = authority.partition(":")[0]
        preview = await self._find(host)
        if preview is None:
            return None
        public = self._origin(host)
        if authority != public.authority:
            raise Misdirected(detail="a preview's host with another port")
        if public.scheme == "http" and not public.is_loopback:
            raise Misdirected(detail="plain http is for names under .localhost only")
        return Routed(preview, public)

    async def _find(self, host: str) -> Preview | None:
        if self._lookup is None:
            return self._table.get(host)
        now = self._clock()
        until, preview = self._known.get(host, (now, None))
        if until <= now:
            preview = await self._lookup(host)
            self._known[host] = (now + self._ttl, preview)
            if len(self._known) > 10_000:
                self._known.popitem(last=False)
        return preview

    def _origin(self, host: str) -> Origin:
        return Origin(self._scheme, host, self._port)

    def host_for(self, preview: Preview) -> Origin | None:
        return next((self._origin(host) for host, shown in self._table.items() if shown == preview), None)

    def claims(self, host: bytes) -> bool:
        return any(name.encode() in host.lower() for name in self._table)

    def __repr__(self) -> str:
        return f"HostTable({'an async function' if self._lookup else f'{len(self._table)} hosts'})"


class _FirstOf:
    def __init__(self, routers: tuple[Router, ...]) -> None:
        self._routers = routers

    async def __call__(self, authority: str) -> Routed | None:
        misdirected: Misdirected | None = None
        for router in self._routers:
            try:
                routed = await router(authority)
            except Misdirected as refusal:
                misdirected = refusal
                continue
            if routed is not None:
                return routed
        if misdirected is not None:
            raise misdirected
        return None

    def host_for(self, preview: Preview) -> Origin | None:
        return next((origin for router in self._routers if (origin := router.host_for(preview))), None)

    def claims(self, host: bytes) -> bool:
        return any(router.claims(host) for router in self._routers)

    def __repr__(self) -> str:
        return f"first_of({', '.join(map(repr, self._routers))})"


def first_of(*routers: Router) -> Router:
    """The routers in turn; the first that knows the host decides. A misdirected host may still be a later one's."""
    return _FirstOf(routers)
