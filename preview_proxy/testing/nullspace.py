"""An emulated Nullspace on loopback: its API, and its edge in front of dev servers.

    async with DevServer() as dev, NullspaceEmulator() as nullspace:
        nullspace.add_machine("mch_a1b2c3d4", {3000: dev})
        client = AsyncNullspaceClient(api_key=nullspace.api_key, base_url=nullspace.api_url)

Names under ``.localhost`` do not resolve everywhere: dial 127.0.0.1 at `edge_port` and send the URL's host as `Host`.
What Nullspace does not publish is an `EdgeSwitches` field.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from typing import Literal

from preview_proxy.testing.dev_server import DevServer
from preview_proxy.testing.edge import Kind
from preview_proxy.testing.emulator import Emulator
from preview_proxy.testing.nullspace_api import NullspaceApi
from preview_proxy.testing.nullspace_edge import NullspaceEdge
from preview_proxy.testing.nullspace_state import (
    KINDS,
    EdgeSwitches,
    Grant,
    Machine,
    State,
)


class NullspaceEmulator(Emulator):
    """Nullspace with machines of your own. It runs while its `async with` block does, on asyncio.

    With an `ssl_context` the edge speaks TLS. Its certificate has to name each preview host that holds a "_": OpenSSL
    lets no wildcard stand for one. `api_key` is random. `clock`, a function without arguments that returns Unix
    seconds, may be replaced at any time.
    """

    def __init__(
        self,
        *,
        edge_domain: str = "nullspace.localhost",
        ssl_context: ssl.SSLContext | None = None,
        switches: EdgeSwitches | None = None,
    ) -> None:
        self.switches = switches or EdgeSwitches()
        self._state = State(self.switches, edge_domain, ssl_context is not None)
        super().__init__(self._state, NullspaceApi(self._state), NullspaceEdge(self._state, ssl_context))

    @property
    def api_key(self) -> str:
        return self._state.api_key

    @property
    def mints(self) -> int:
        """How many grants the API has given out."""
        return self._state.mints

    @property
    def grants(self) -> dict[str, Grant]:
        """Every grant by its id, oldest first, with its tokens and counters."""
        return self._state.grants

    def add_machine(
        self,
        machine_id: str,
        ports: Mapping[int, int | DevServer],
        *,
        status: Literal["creating", "running", "paused", "destroyed", "error"] = "running",
        auto_resume: bool | Literal["slow"] = False,
        traffic_token: str | None = None,
        mask_request_host: str | None = None,
    ) -> None:
        """Add a machine whose guest `ports` are served by dev servers or loopback ports.

        `auto_resume` tells what a request does to it while paused: wake it, fail at once (False) or fail for as
        long as it is paused because waking takes too long ("slow"). With a `traffic_token` every request must carry it.
        `mask_request_host`, such as ``localhost:${PORT}``, is the `Host` that the app sees.
        """
        self._state.machines[machine_id] = Machine(
            machine_id, dict(ports), status, auto_resume, traffic_token, mask_request_host, self.clock()
        )

    def expire(self, grant_id: str | None = None) -> None:
        """Let a grant end now; all of them without an id."""
        for grant in self._chosen(grant_id):
            grant.expires_at = min(grant.expires_at, self.clock())

    def revoke(self, grant_id: str | None = None) -> None:
        """Revoke a grant as its owner would; all of them without an id."""
        for grant in self._chosen(grant_id):
            grant.revoked_at = self.clock()
        self._state.changes.notify()

    def disable_grant(self, grant_id: str, disabled: bool = True) -> None:
        """The operator's switch for one grant."""
        self.grants[grant_id].disabled_at = self.clock() if disabled else None

    def disable_token(self, grant_id: str, kinds: Iterable[Kind] = KINDS) -> None:
        """The operator's switch for a grant's tokens: those of `kinds` are disabled, the others are not."""
        self.grants[grant_id].disabled_tokens = set(kinds)

    def disable_machine(self, machine_id: str, disabled: bool = True) -> None:
        """The operator's switch for every preview of a machine."""
        self._state.machines[machine_id].disabled = disabled

    def pause(self, machine_id: str) -> None:
        self._state.machines[machine_id].status = "paused"

    def resume(self, machine_id: str) -> None:
        self._state.machines[machine_id].status = "running"

    def unreachable(self, machine_id: str, unreachable: bool = True) -> None:
        """Cut the edge off from the machine's host, or reconnect it."""
        self._state.machines[machine_id].unreachable = unreachable

    def set_rate_limit(self, requests: int | None, seconds: float = 60.0) -> None:
        """Allow so many requests in each `seconds` for every grant, transport and client; None lifts the limit."""
        self._state.rate_limit = None if requests is None else (requests, seconds)

    def _chosen(self, grant_id: str | None) -> list[Grant]:
        return list(self.grants.values()) if grant_id is None else [self.grants[grant_id]]
