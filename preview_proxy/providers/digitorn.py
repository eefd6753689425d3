"""Digitorn: dev servers on loopback ports, which agents attach to their sessions. This proxy is the edge in front.

Digitorn's page "Preview cloud deployment" has nginx send every ``preview-{port}`` host to that port, whoever asks.
Here only a port that is attached is served, to visitors whom `authorize` lets see the session it belongs to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from dataclasses import dataclass, replace

from preview_proxy.core.models import Endpoint, Origin, Preview, Target
from preview_proxy.errors import ConfigurationError, Misdirected, NotFound
from preview_proxy.hosts import HostPattern, Routed

TARGET_LIFETIME = 60.0
"""Seconds that the proxy may go on using a port without asking; for so long a detached port is its session's."""


class AttachRefused(Exception):
    """A port cannot be attached. The message says why, and is meant for the agent who asked."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A port of a session, under a name. `used_at` is when a visitor's request last asked for it, in Unix seconds."""

    session: str
    name: str
    port: int
    user: str
    used_at: float


class Digitorn:
    """The attached ports of one host, and where each is served: 127.0.0.1.

    `ports` are the ones that may be attached, such as ``range(4000, 5000)``: nothing but dev servers may listen there,
    for what does can be shown. At most `per_session` are attached in one session and `per_user` for one user. One that
    no request asked for in `idle_timeout` seconds is detached. `on_detach` is called with each that goes in whatever
    way, so that its dev server can be stopped.

    A preview's machine is the session, and its id has to be one that a `Preview` takes.
    """

    def __init__(
        self,
        ports: Container[int],
        *,
        per_session: int = 5,
        per_user: int = 20,
        idle_timeout: float = 1800.0,
        on_detach: Callable[[Attachment], object] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if per_session < 1 or per_user < 1 or not idle_timeout > TARGET_LIFETIME:
            raise ConfigurationError(f"limits must be at least 1, idle_timeout more than {TARGET_LIFETIME:g} seconds")
        self._ports = ports
        self._per_session = per_session
        self._per_user = per_user
        self._idle_timeout = idle_timeout
        self._on_detach = on_detach
        self._clock = clock
        self._attached: dict[int, Attachment] = {}
        self._detached: dict[int, tuple[str, float]] = {}

    def attach(self, session: str, port: int, *, user: str, name: str = "default") -> Preview:
        """Let `port` be seen as a preview of `session`; a port that had this name before is detached.

        Raises `AttachRefused` with the rule that stands against it, and `ValueError` for an impossible session id.
        """
        preview = Preview(session, port)
        self.reap()
        former = self._named(session, name)
        self._check(session, port, user, former)
        if former is not None and former.port != port:
            self._drop(former)
        self._attached[port] = Attachment(session, name, port, user, self._clock())
        return preview

    def _check(self, session: str, port: int, user: str, former: Attachment | None) -> None:
        if port not in self._ports:
            raise AttachRefused(f"refused: port {port} is not among the ports for dev servers")
        held = self._attached.get(port)
        if held is not None and held is not former:
            raise AttachRefused(f"refused: port {port} is attached already")
        owner, until = self._detached.get(port, (session, 0.0))
        if owner != session and self._clock() < until:
            raise AttachRefused(f"refused: port {port} was detached a moment ago; use another, or wait a minute")
        others = [other for other in self._attached.values() if other is not former]
        of_session = [other.name for other in others if other.session == session]
        if len(of_session) >= self._per_session:
            raise AttachRefused(f"refused: {self._per_session} / session; detach one of: {', '.join(of_session)}")
        if sum(other.user == user for other in others) >= self._per_user:
            raise AttachRefused(f"refused: {self._per_user} / user; detach one in another session")

    def detach(self, session: str, name: str = "default") -> Attachment | None:
        """Show the port no more; None where there is none of this name.

        Requests that are under way go on: `PreviewProxy.revoke` ends them.
        """
        attachment = self._named(session, name)
        if attachment is not None:
            self._drop(attachment)
        return attachment

    def reap(self) -> list[Attachment]:
        """Detach what has been idle for too long. `attach` and `resolve` do it too; call it to have it done in time."""
        now = self._clock()
        idle = [found for found in self._attached.values() if now - found.used_at >= self._idle_timeout]
        for attachment in idle:
            self._drop(attachment)
        self._detached = {port: kept for port, kept in self._detached.items() if now < kept[1]}
        return idle

    def attachments(self) -> list[Attachment]:
        """What is attached, oldest first."""
        return list(self._attached.values())

    def _named(self, session: str, name: str) -> Attachment | None:
        return next((a for a in self._attached.values() if (a.session, a.name) == (session, name)), None)

    def _drop(self, attachment: Attachment) -> None:
        del self._attached[attachment.port]
        self._detached[attachment.port] = attachment.session, self._clock() + TARGET_LIFETIME
        if self._on_detach is not None:
            self._on_detach(attachment)

    async def resolve(self, preview: Preview) -> Target:
        """The loopback port, for a minute: then the next request counts as use. Raises `NotFound` if not attached."""
        self.reap()
        attachment = self._attached.get(preview.port)
        if attachment is None or attachment.session != preview.machine:
            raise NotFound(detail="the port is not attached in this session")
        now = self._clock()
        self._attached[preview.port] = replace(attachment, used_at=now)
        endpoint = Endpoint(Origin("http", "localhost", preview.port))
        return Target(f"{attachment.session}:{attachment.name}", endpoint, endpoint, now + TARGET_LIFETIME)

    def at_port(self, port: int) -> Preview | None:
        """The preview of an attached port."""
        attachment = self._attached.get(port)
        return None if attachment is None else Preview(attachment.session, port)

    def __repr__(self) -> str:
        return f"Digitorn({self._ports!r})"


class DigitornHosts:
    """A router for Digitorn's own hosts, which hold the port alone: ``preview-{port}.preview.digitorn.cloud``.

    Whoever attaches a port gets its host, and what browsers keep for it: prefer a `HostPattern` with the session in
    the host where sessions belong to different users. `scheme` and `port` are those of the public origin.
    """

    def __init__(self, digitorn: Digitorn, template: str, *, scheme: str = "https", port: int | None = None) -> None:
        if template.count("{port}") != 1 or "{machine}" in template:
            raise ConfigurationError(f"{template!r} must hold {{port}} once, as in 'preview-{{port}}.preview.acme.dev'")
        self._digitorn = digitorn
        # The port takes the machine's place, for it is all that the host says.
        self._pattern = HostPattern(template.replace("{port}", "{machine}"), scheme=scheme, port=port, default_port=1)

    async def __call__(self, authority: str) -> Routed | None:
        found = await self._pattern(authority)
        if found is None:
            return None
        text = found.preview.machine
        preview = self._digitorn.at_port(int(text)) if text.isdecimal() and str(int(text)) == text else None
        if preview is None:
            raise Misdirected(detail="nothing is attached at this port")
        return Routed(preview, found.public)

    def host_for(self, preview: Preview) -> Origin | None:
        """The public origin of an attached preview."""
        if self._digitorn.at_port(preview.port) != preview:
            return None
        return self._pattern.host_for(Preview(str(preview.port), 1))

    def claims(self, host: bytes) -> bool:
        return self._pattern.claims(host)

    def __repr__(self) -> str:
        return f"DigitornHosts({self._pattern!r})"
