"""What providers are constructed with, checked: a mistake is told at once, and without the secret in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from preview_proxy.core.models import HOST, Endpoint, Origin
from preview_proxy.core.secret import Secret
from preview_proxy.errors import ConfigurationError
from preview_proxy.providers.base import endpoint_from_url

T = TypeVar("T")


def configured(name: str, build: Callable[[], T]) -> T:
    """What `build` returns, with its `ValueError` told as a `ConfigurationError` about the argument `name`."""
    try:
        return build()
    except ValueError as error:
        reason = str(error)
    # Outside the block above: an exception's context keeps the frames that hold the credential.
    raise ConfigurationError(f"{name}: {reason}")


def secret_option(name: str, value: str | Secret) -> Secret:
    """A credential given as text or already wrapped. Raises `ConfigurationError` for what no header could carry."""
    return value if isinstance(value, Secret) else configured(name, lambda: Secret(value))


def api_option(url: str, allow_insecure_loopback: bool) -> Endpoint:
    """The address of an API, from `base_url`. Raises `ConfigurationError` for one that is not https."""
    endpoint = configured("base_url", lambda: endpoint_from_url(url, allow_insecure_loopback=allow_insecure_loopback))
    if endpoint.marker:
        raise ConfigurationError("base_url: the URL must have no query")
    return endpoint


def edge_option(url: str, allow_insecure_loopback: bool) -> Origin:
    """What the hosts of an edge are below, from `edge_url`. Raises `ConfigurationError` if a label has no room."""
    endpoint = configured("edge_url", lambda: endpoint_from_url(url, allow_insecure_loopback=allow_insecure_loopback))
    if endpoint.marker or endpoint.base_path or not HOST.match(f"{'x' * 63}.{endpoint.origin.host}"):
        raise ConfigurationError("edge_url: the URL must have no path and no query, and room for one more label")
    return endpoint.origin


def domains_option(domains: Sequence[str], example: str) -> tuple[str, ...]:
    """The names below which an edge is. Raises `ConfigurationError` for anything but a list of DNS names."""
    names = () if isinstance(domains, str) else tuple(domain.lower() for domain in domains)
    if not names or not all("." in name and HOST.match(name) for name in names):
        raise ConfigurationError(
            f"domains: give a list of DNS names such as {example!r}, without scheme, port or wildcard"
        )
    return names


def timeout_option(timeout: float) -> float:
    """Seconds. Raises `ConfigurationError` for what is no time at all."""
    if not timeout > 0:
        raise ConfigurationError("timeout must be greater than 0 seconds")
    return timeout
