"""What a provider adapter is. `Provider` is all that is needed; the other protocols are optional powers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from preview_proxy.core.models import DEFAULT_PORTS, HOST, Endpoint, Origin, Preview, RawHeaders, Target
from preview_proxy.core.secret import Secret
from preview_proxy.core.urls import strip_parameters
from preview_proxy.errors import ProviderError


class Provider(Protocol):
    """Says where a preview is served, and with which credential."""

    async def resolve(self, preview: Preview) -> Target:
        """A target for `preview`, fresh from the provider; caching is the proxy's part.

        Raises `PortNotAllowed` for a port the provider never exposes, `MachineUnavailable` for one to retry,
        and `ProviderError` for everything else. An exception never holds a credential.
        """
        ...


@runtime_checkable
class SupportsExplainError(Protocol):
    """A provider whose edge answers failures in a recognisable form."""

    def may_explain(self, status: int, headers: RawHeaders) -> bool:
        """Whether this response head could be the edge's own, so that its body (at most 4 KiB) is worth reading."""
        ...

    def explain_error(self, status: int, headers: RawHeaders, body: bytes) -> ProviderError | None:
        """The failure that the edge reports, or None where the answer is the app's own.

        An app can imitate its provider's edge, so whatever is done about the answer must be harmless and bounded.
        """
        ...


@runtime_checkable
class SupportsRevoke(Protocol):
    """A provider that can take a target back before it expires. `Policy.revoke_on_close` has the proxy ask for it."""

    async def revoke(self, preview: Preview, target: Target) -> None:
        """End what `target` gives access to. One that is gone is no error; `PreviewProxyError` says what is."""
        ...


@runtime_checkable
class SupportsReadiness(Protocol):
    """A provider that can tell whether anything listens on a preview's port, without asking the app."""

    async def wait_until_ready(self, preview: Preview, *, timeout: float) -> None:  # noqa: ASYNC109 - the provider's own
        """Return once the port answers. Raises `MachineUnavailable` if it does not within `timeout` seconds."""
        ...


@runtime_checkable
class SupportsWake(Protocol):
    """A provider whose paused machines do not resume at a request alone. `Policy.wake` has the proxy ask for it."""

    async def wake(self, preview: Preview) -> None:
        """Resume the machine, and return when it runs. One that does is no error; `PreviewProxyError` says what is."""
        ...


@runtime_checkable
class SupportsRotation(Protocol):
    """A provider that replaces a machine's credential under way."""

    def when_rotated(self, forget: Callable[[str], None]) -> None:
        """Have `forget` called with the machine's id before the credential of its targets changes."""
        ...


# RFC 3986 §3, less what an endpoint never has: user name, IPv6 literal, fragment, empty and dot segments.
# A grammar of what may pass leaves no room for the differences between URL parsers.
_URL = re.compile(
    r"(?P<scheme>https?|wss?)://(?P<host>[A-Z0-9._-]+)(?::(?P<port>[1-9][0-9]{0,4}))?"
    r"(?P<path>(?:/(?!(?:\.|%2E){1,2}(?:[/?]|\Z))[A-Z0-9._~!$&'()*+,;=:@%-]+)*)/?"
    r"(?:\?(?P<query>[A-Z0-9._~!$&'()*+,;=:@%/?-]*))?\Z",
    re.IGNORECASE | re.ASCII,
)
# WHATWG URL §3.5: a host whose last label is a number is an IPv4 address, in one of its spellings.
_IPV4 = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\Z")
_SECURE = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
# Reserved parameters that an endpoint may carry, because they are no credential.
_INSTRUCTIONS = frozenset({b"__ns_preview_transport=header"})


def endpoint_from_url(
    url: str,
    credentials: Sequence[tuple[bytes, Secret]] = (),
    *,
    instructions: RawHeaders = (),
    domains: Sequence[str] | None = None,
    allow_insecure_loopback: bool = False,
) -> Endpoint:
    """The endpoint that an absolute URL names, bound to the credentials that only its origin may see.

    `ws` and `wss` become `http` and `https`, so that both transports dial alike. The path becomes the base path,
    the query the marker. `instructions` are fields for the edge that are no secret. With `domains`, for a URL that
    somebody else chose, the host must be one of them or below one, at port 443. `allow_insecure_loopback` admits plain
    HTTP, any port and 127.0.0.0/8, but only for a host that is loopback by its name.

    Raises `ValueError` with the rule that the URL breaks; the message never holds the URL.
    """
    origin, base_path, marker = _split(url)
    if not (allow_insecure_loopback and origin.is_loopback):
        _check_public(origin, listed=domains is None)
    if domains is not None and not any(f".{origin.host}".endswith(f".{domain}") for domain in domains):
        raise ValueError("the URL must be under one of: " + ", ".join(domains))
    endpoint = Endpoint(origin, base_path, marker, tuple(credentials), instructions=instructions)
    parameters = b"&".join(part for part in re.split(b"[&;]", marker) if part not in _INSTRUCTIONS)
    if strip_parameters(parameters) != parameters or endpoint.leaks(url.encode()):
        raise ValueError("the URL must not carry a credential")
    return endpoint


def _split(url: str) -> tuple[Origin, bytes, bytes]:
    match = _URL.match(url)
    if match is None or not HOST.match(match["host"].lower()):
        raise ValueError("the URL must be absolute, such as https://host.example/path, without user name and fragment")
    scheme = _SECURE[match["scheme"].lower()]
    port = int(match["port"] or DEFAULT_PORTS[scheme])
    if port > 65535:
        raise ValueError("the URL must have a port from 1 to 65535")
    return Origin(scheme, match["host"].lower(), port), match["path"].encode(), (match["query"] or "").encode()


def _check_public(origin: Origin, *, listed: bool) -> None:
    if origin.scheme != "https":
        raise ValueError("the URL must be https; plain HTTP needs a loopback host and allow_insecure_loopback=True")
    if _IPV4.match(origin.host):
        raise ValueError("the URL must have a DNS name, not an IP address")
    if not listed and origin.port != 443:
        raise ValueError("the URL must be at port 443")
