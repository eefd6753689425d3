from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from preview_proxy.core.models import Origin
from preview_proxy.core.secret import Secret
from preview_proxy.errors import ConfigurationError
from preview_proxy.providers.options import (
    api_option,
    configured,
    domains_option,
    edge_option,
    secret_option,
    timeout_option,
)

CANARY = "canary-0123456789"


def test_a_secret_is_wrapped_once() -> None:
    secret = Secret(CANARY)
    assert secret_option("api_key", secret) is secret
    assert secret_option("api_key", CANARY) == secret


def test_a_value_error_is_told_with_the_arguments_name_and_without_its_frames() -> None:
    with pytest.raises(ConfigurationError, match="api_key: a credential must be visible ASCII") as caught:
        secret_option("api_key", f"{CANARY}\n")
    assert CANARY not in str(caught.value) and caught.value.__context__ is None


def test_what_was_built_is_returned() -> None:
    assert configured("a", lambda: 7) == 7


def test_domains_are_folded() -> None:
    assert domains_option(["Preview.Example.com"], "x.dev") == ("preview.example.com",)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: api_option("http://api.example.com", True),
        lambda: api_option("http://localhost:1", False),
        lambda: api_option("https://api.example.com/?a=b", False),
        lambda: timeout_option(0),
        lambda: timeout_option(float("nan")),
    ],
)
def test_what_could_not_work_is_refused(mistake: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError):
        mistake()


@pytest.mark.parametrize("domains", ["x.dev", [], ["dev"], ["*.x.dev"], ["https://x.dev"], ["x.dev:443"]])
def test_domains_are_a_list_of_names(domains: Sequence[str]) -> None:
    with pytest.raises(ConfigurationError, match=r"domains: give a list of DNS names such as 'x\.dev'"):
        domains_option(domains, "x.dev")


def test_what_works_is_returned() -> None:
    assert api_option("http://127.0.0.1:8000/v0", True).base_path == b"/v0"
    assert timeout_option(0.5) == 0.5


def test_an_edge_is_an_origin_with_room_for_a_label() -> None:
    assert edge_option("https://Edge.Example.com:8443/", False) == Origin("https", "edge.example.com", 8443)
    assert edge_option("http://edge.localhost:81", True) == Origin("http", "edge.localhost", 81)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://edge.example.com/path", "edge_url: the URL must have no path"),
        ("https://edge.example.com/?a=b", "edge_url: the URL must have no path"),
        ("https://" + ".".join(["long" * 12] * 4), "room for one more label"),
        ("http://edge.example.com", "edge_url: the URL must be https"),
        ("edge.example.com", "edge_url: the URL must be absolute"),
    ],
)
def test_what_is_no_edge_is_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        edge_option(url, True)
