"""Targets that are known in advance: a dev server on this computer, or a preview with a fixed URL."""

from __future__ import annotations

from collections.abc import Mapping

from preview_proxy.core.cookies import is_token
from preview_proxy.core.headers import HOP_BY_HOP, HOP_BY_HOP_PREFIXES
from preview_proxy.core.models import Endpoint, Preview, Target
from preview_proxy.core.secret import Secret
from preview_proxy.errors import ConfigurationError, NotFound
from preview_proxy.providers.base import endpoint_from_url

# Header fields that the transport writes itself; a credential must not replace them.
_WRITTEN_BY_TRANSPORT = HOP_BY_HOP | {b"content-length", b"cookie", b"host"}


class Static:
    """A provider with one target per preview, written down.

    Each value is an https URL, or a `Target` made with `fixed_target`. A preview's `generation` does not matter.
    Raises `ConfigurationError` for a target that no request could use.
    """

    def __init__(self, targets: Mapping[Preview, str | Target]) -> None:
        self._targets = {
            (preview.machine, preview.port): _checked(fixed_target(target) if isinstance(target, str) else target)
            for preview, target in targets.items()
        }

    async def resolve(self, preview: Preview) -> Target:
        """The target written down for `preview`. Raises `NotFound` where there is none."""
        target = self._targets.get((preview.machine, preview.port))
        if target is None:
            raise NotFound
        return target

    def __repr__(self) -> str:
        return f"Static(<{len(self._targets)} targets>)"


def fixed_target(
    url: str,
    *,
    http_credentials: Mapping[str, str] | None = None,
    websocket_credentials: Mapping[str, str] | None = None,
    allow_insecure_loopback: bool = False,
) -> Target:
    """A target that never expires, for HTTP and WebSocket at one URL.

    The credentials are header names and values; WebSocket handshakes carry the HTTP ones unless given their own.
    `allow_insecure_loopback` admits ``http://localhost:5173`` and its like.
    Raises `ConfigurationError` for a URL that is not https, or a header that could not be sent.
    """

    def endpoint(credentials: Mapping[str, str] | None) -> Endpoint:
        return endpoint_from_url(url, _secrets(credentials or {}), allow_insecure_loopback=allow_insecure_loopback)

    if websocket_credentials is None:
        websocket_credentials = http_credentials
    try:
        return Target("static", endpoint(http_credentials), endpoint(websocket_credentials))
    except ValueError as error:
        reason = str(error)
    # Outside the block above: an exception's context keeps the frames that hold the credential.
    raise ConfigurationError(f"fixed_target: {reason}")


def _secrets(credentials: Mapping[str, str]) -> list[tuple[bytes, Secret]]:
    secrets = {_field_name(name): Secret(value) for name, value in credentials.items()}
    if len(secrets) != len(credentials):
        raise ValueError("a credential header is given twice")
    return list(secrets.items())


def _field_name(name: str) -> bytes:
    folded = name.lower().encode()
    if not is_token(folded) or folded in _WRITTEN_BY_TRANSPORT or folded.startswith(HOP_BY_HOP_PREFIXES):
        raise ValueError(f"{name!r} cannot be a credential header")
    return folded


def _checked(target: Target) -> Target:
    if target.http is None and target.websocket is None:
        raise ConfigurationError("a target needs an endpoint for HTTP or WebSocket")
    return target
