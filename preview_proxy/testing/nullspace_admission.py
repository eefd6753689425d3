"""Who passes the emulated Nullspace edge, in the order of its checks, and what the machine is then sent."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from preview_proxy.testing.edge import EdgeRequest, Passage, Refused
from preview_proxy.testing.nullspace_state import (
    MARKER,
    TOKEN_HEADER,
    TRAFFIC_HEADER,
    EdgeSwitches,
    Grant,
    Machine,
    State,
    is_preview_port,
)
from preview_proxy.testing.tcp import Changes

RawHeaders = list[tuple[bytes, bytes]]
_TOKEN, _TRAFFIC = TOKEN_HEADER.encode(), TRAFFIC_HEADER.encode()
_HOST = re.compile(r"(\d{1,5})-([A-Za-z0-9_-]+)\.(.+?)(?::\d+)?")


@dataclass
class GrantedPassage(Passage):
    """An admitted request, and the grant that admitted it."""

    grant: Grant = field(kw_only=True)
    switches: EdgeSwitches = field(kw_only=True)

    def count(self, sent: int, received: int) -> None:
        self.grant.bytes_in += sent
        self.grant.bytes_out += received

    def answer(self, data: bytes) -> bytes:
        name = self.switches.continuation_cookie
        if name is None or not data.startswith(b"HTTP/1."):
            return data
        line, _, rest = data.partition(b"\r\n")
        cookie = f"Set-Cookie: {name}={self.grant.id}; Path=/; HttpOnly; SameSite=Lax"
        return b"\r\n".join([line, cookie.encode(), rest])

    async def cut(self, changes: Changes) -> None:
        await changes.until(lambda: self.switches.revoke_closes_websockets and self.grant.revoked_at is not None)


class Admission:
    """One request before the edge's checks. `admit` runs them; each raises `Refused` with its code."""

    def __init__(self, state: State, request: EdgeRequest, client: str) -> None:
        self.state = state
        self.request = request
        self.client = client
        path, _, query = request.target.partition(b"?")
        self.path = path
        self.query = query.split(b"&") if query else []

    def admit(self) -> GrantedPassage:
        machine_id, port = self._route()
        grant = self._grant(machine_id, port)
        self.request.grant_id = grant.id
        machine = self.state.machines[machine_id]
        self._check_grant(grant, machine)
        self._check_traffic_token(machine)
        self._check_rate(grant)
        self._check_status(machine)
        grant.used(self.request.kind, self.state.clock())
        return GrantedPassage(
            machine.loopback_port(port),
            self._target(),
            self._headers(machine, port),
            self.state.switches.websocket_idle_seconds,
            grant=grant,
            switches=self.state.switches,
        )

    def _route(self) -> tuple[str, int]:
        """Machine and port, from the host, or from the path with the switch `path_style`."""
        match = _HOST.fullmatch(self.request.host)
        if match and match[3].lower() == self.state.edge_domain:
            machine_id, port = match[2], int(match[1])
        else:
            machine_id, port = self._route_by_path()
        if not is_preview_port(port):
            raise Refused("unsupported_preview_port", port=port)
        return machine_id, port

    def _route_by_path(self) -> tuple[str, int]:
        match = re.fullmatch(rb"/([A-Za-z0-9_-]+)/(\d{1,5})(/.*)", self.path, re.DOTALL)
        domain = self.request.host.rpartition(":")[0] or self.request.host
        if match is None or not self.state.switches.path_style or domain.lower() != self.state.edge_domain:
            raise Refused("not_found")
        self.path = match[3]
        return match[1].decode(), int(match[2])

    def _grant(self, machine_id: str, port: int) -> Grant:
        """The grant of the one token sent, which must be for this transport, machine and port."""
        if self._is_marked():
            prefix, tokens = "preview_proxy_token", self.request.values(_TOKEN)
        else:
            prefix, tokens = "edge_token", [p[11:] for p in self.query if p.startswith(b"edge_token=")]
        if not tokens:
            raise Refused(f"{prefix}_missing", token_transport="header" if self._is_marked() else "query")
        found = self.state.find(tokens[0].decode("latin-1"))
        if found is None or len(tokens) > 1:
            raise Refused(f"{prefix}_invalid")
        grant, kind = found
        mode = "proxy" if self._is_marked() else "direct"
        if (kind, grant.auth_mode, grant.machine_id, grant.port) != (self.request.kind, mode, machine_id, port):
            raise Refused(f"{prefix}_scope_mismatch")
        return grant

    def _is_marked(self) -> bool:
        """Whether the request asks for its token to be read from a header; otherwise it is a direct preview."""
        required = self.state.switches.marker_required
        optional = required == "never" or (required == "root" and self.path != b"/")
        return MARKER in self.query or (optional and bool(self.request.values(_TOKEN)))

    def _check_grant(self, grant: Grant, machine: Machine) -> None:
        proxied = grant.auth_mode == "proxy"
        if self.state.clock() >= grant.expires_at:
            raise Refused("preview_proxy_token_expired" if proxied else "edge_token_expired")
        if grant.revoked_at is not None:
            raise Refused(self.state.switches.revoked_code if proxied else "preview_grant_revoked")
        if grant.disabled_at is not None:
            raise Refused("preview_grant_disabled")
        if self.request.kind in grant.disabled_tokens:
            raise Refused("preview_proxy_token_disabled")
        if machine.disabled:
            raise Refused("preview_machine_disabled")

    def _check_traffic_token(self, machine: Machine) -> None:
        sent = self.request.values(_TRAFFIC)
        if machine.traffic_token is None:
            return
        if not sent:
            raise Refused("traffic_access_token_missing")
        if sent != [machine.traffic_token.encode()]:
            raise Refused("traffic_access_token_invalid")

    def _check_rate(self, grant: Grant) -> None:
        """So many requests in each window, for each grant, port, transport and client address."""
        if self.state.rate_limit is None:
            return
        allowed, seconds = self.state.rate_limit
        client = self.client
        if self.state.switches.rate_limit_by_forwarded_for:
            client = b",".join(self.request.values(b"x-forwarded-for")).decode("latin-1")
        key = (grant.id, self.request.kind, client)
        now = self.state.clock()
        start, count = self.state.windows.get(key, (now, 0))
        if now >= start + seconds:
            start, count = now, 0
        if count >= allowed:
            raise Refused("rate_limit_exceeded", retry_after=max(1, math.ceil(start + seconds - now)))
        self.state.windows[key] = start, count + 1

    def _check_status(self, machine: Machine) -> None:
        """A paused machine is woken where it may be."""
        if machine.status == "destroyed":
            raise Refused("machine_not_found", machine_id=machine.id)
        if machine.unreachable or machine.status in ("creating", "error"):
            raise Refused("edge_runtime_host_unreachable")
        if machine.status == "running":
            return
        if machine.auto_resume is False:
            raise Refused("machine_paused_auto_resume_disabled")
        if machine.auto_resume == "slow":
            raise Refused(self.state.switches.slow_resume_code)
        machine.status = "running"

    def _target(self) -> bytes:
        dropped = {MARKER} if self.state.switches.strip_marker else set()
        kept = [part for part in self.query if part not in dropped and not part.startswith(b"edge_token=")]
        return self.path + (b"?" + b"&".join(kept) if kept else b"")

    def _headers(self, machine: Machine, port: int) -> RawHeaders:
        """The fields as they came, without the credentials; `mask_request_host` replaces `Host` alone."""
        stripped = {_TRAFFIC} | ({_TOKEN} if self.state.switches.strip_token else set())
        mask = machine.mask_request_host and machine.mask_request_host.replace("${PORT}", str(port)).encode()
        return [
            (name, mask if mask and name.lower() == b"host" else value)
            for name, value in self.request.headers
            if name.lower() not in stripped
        ]
