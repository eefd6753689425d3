"""Aether: previews whose token is part of the host name, so that the whole address is a secret.

    https://{port}-{project id's prefix}-{token}.preview.runaether.dev   (Aether's page "Preview URLs")

There is no call to make: the address is computed. Aether's gateway gives the app ``Host: localhost:{port}``, adds
permissive CORS fields, and remembers for 30 seconds which workspace a prefix leads to.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus

from preview_proxy.core.models import Endpoint, HiddenOrigin, Preview, RawHeaders, Target
from preview_proxy.core.secret import Secret
from preview_proxy.errors import ConfigurationError, MachineUnavailable, NotFound, ProviderError
from preview_proxy.providers.options import edge_option

PREFIX_LENGTH = 8
"""How much of a project's id is in its preview's host."""

TARGET_LIFETIME = 60.0
"""Seconds after which a project's token is looked up anew."""

_TOKEN = re.compile(r"[a-z0-9]{8,44}")
_EVENTS = b"text/event-stream"
EDGE_ERRORS = {502: "preview_service_not_ready", 504: "edge_runtime_host_unreachable"}
"""What the gateway says for itself when nothing listens, and when the workspace does not answer."""


class Aether:
    """Previews of Aether workspaces. A preview's machine is the project's id, of which the host has the first eight.

    `tokens` are the previews' tokens by project id, read anew for each target, so that one can be added or replaced
    at any time. A project without a token is refused: its address could be guessed, and then passes by the gate.
    `edge_url` is what the previews' hosts are below; `allow_insecure_loopback` admits plain HTTP to hosts that are
    loopback by name, for tests and emulators.

    Raises `ConfigurationError` for anything in these that could not work.
    """

    def __init__(
        self,
        tokens: Mapping[str, str],
        *,
        edge_url: str = "https://preview.runaether.dev",
        allow_insecure_loopback: bool = False,
    ) -> None:
        if not all(_TOKEN.fullmatch(token) for token in tokens.values()):
            raise ConfigurationError("tokens: each must be 8 to 44 lower-case letters and digits, as a host label has")
        self._edge = edge_option(edge_url, allow_insecure_loopback)
        # A closure, so that no attribute shows the customer's mapping.
        self._token: Callable[[str], Secret | None] = lambda project: _token(tokens.get(project, ""))

    async def resolve(self, preview: Preview) -> Target:
        """The address of `preview`. Raises `NotFound` for what is no project id, `ProviderError` without a token."""
        prefix = preview.machine[:PREFIX_LENGTH].lower()
        if not re.fullmatch(rf"[a-z0-9_]{{{PREFIX_LENGTH}}}", prefix):
            raise NotFound("machine_not_found", detail=f"a project id starts with {PREFIX_LENGTH} letters or digits")
        token = self._token(preview.machine)
        if token is None:
            raise ProviderError("provider_refused", detail="Aether(tokens=...) has no usable token for the project")
        endpoint = self._endpoint(f"{preview.port}-{prefix}", token)
        return Target(f"{preview.port}-{prefix}", endpoint, endpoint, time.time() + TARGET_LIFETIME)

    def _endpoint(self, label: str, token: Secret) -> Endpoint:
        host = f"{label}-{token.reveal().decode()}.{self._edge.host}"
        origin = HiddenOrigin(self._edge.scheme, host, self._edge.port, token)
        return Endpoint(origin, credentials=((b"host", Secret(origin.field)),))

    def may_explain(self, status: int, headers: RawHeaders) -> bool:
        """Whether it is a failure with an end, whose text could repeat the host, or be the gateway's own."""
        return status >= 400 and not any(
            name == b"content-type" and _EVENTS in value.lower() for name, value in headers
        )

    def explain_error(self, status: int, headers: RawHeaders, body: bytes) -> ProviderError | None:
        """The gateway's 502 and 504, told by a body that says nothing beyond the status; None for the app's own."""
        code = EDGE_ERRORS.get(status)
        if code is None or not _is_bare(status, body):
            return None
        return MachineUnavailable(code, detail=f"the gateway answered {status}", retry_after=5)

    def __repr__(self) -> str:
        return f"Aether({str(self._edge)!r})"


def _is_bare(status: int, body: bytes) -> bool:
    """Whether a body is empty, or no more than the status in words (RFC 9110 §15)."""
    phrase = HTTPStatus(status).phrase.lower().encode()
    return body.strip().lower() in (b"", phrase, b"%d %s" % (status, phrase))


def _token(text: str) -> Secret | None:
    return Secret(text) if _TOKEN.fullmatch(text) else None
