from __future__ import annotations

import pytest

from preview_proxy.core.models import Endpoint, Origin, Preview, Target
from preview_proxy.core.secret import Secret
from preview_proxy.errors import ConfigurationError, NotFound
from preview_proxy.providers.static import Static, fixed_target

pytestmark = pytest.mark.anyio
CANARY = "canary-0123456789"
PREVIEW = Preview("mch_1", 3000)


async def test_a_url_serves_both_transports_and_never_expires() -> None:
    target = await Static({PREVIEW: "https://dev.example.com/base/"}).resolve(PREVIEW)
    endpoint = Endpoint(Origin("https", "dev.example.com", 443), b"/base")
    assert (target.http, target.websocket, target.expires_at) == (endpoint, endpoint, None)


async def test_a_new_generation_of_the_public_host_has_the_same_target() -> None:
    provider = Static({PREVIEW: "https://dev.example.com"})
    assert await provider.resolve(Preview("mch_1", 3000, generation=7)) is await provider.resolve(PREVIEW)


@pytest.mark.parametrize("preview", [Preview("mch_1", 3001), Preview("mch_2", 3000)])
async def test_an_unknown_preview_is_not_found(preview: Preview) -> None:
    with pytest.raises(NotFound):
        await Static({PREVIEW: "https://dev.example.com"}).resolve(preview)


async def test_h16_a_dev_server_on_this_computer_needs_the_word() -> None:
    with pytest.raises(ConfigurationError, match="allow_insecure_loopback=True"):
        Static({PREVIEW: "http://localhost:5173"})
    target = fixed_target("http://localhost:5173", allow_insecure_loopback=True)
    assert await Static({PREVIEW: target}).resolve(PREVIEW) is target


def test_handshakes_carry_the_http_credentials_unless_given_their_own() -> None:
    target = fixed_target("https://dev.example.com", http_credentials={"X-Token": CANARY})
    assert target.http is not None and target.websocket is not None
    assert target.http.credentials == target.websocket.credentials == ((b"x-token", Secret(CANARY)),)
    target = fixed_target("https://dev.example.com", http_credentials={"X-Token": CANARY}, websocket_credentials={})
    assert target.websocket is not None and target.websocket.credentials == ()


@pytest.mark.parametrize(
    "name", ["host", "Connection", "Proxy-Authorization", "content-length", "Cookie", "a b", "é", ""]
)
def test_a_header_that_the_transport_writes_is_no_credential(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be a credential header"):
        fixed_target("https://dev.example.com", http_credentials={name: CANARY})


def test_h13_a_header_twice_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="twice"):
        fixed_target("https://dev.example.com", http_credentials={"x-token": CANARY, "X-Token": CANARY})


@pytest.mark.parametrize("value", [f"{CANARY}\r\nx: y", "short", f"{CANARY} "])
def test_h13_a_value_that_no_header_can_have_is_refused_and_not_told(value: str) -> None:
    with pytest.raises(ConfigurationError, match="a credential must be") as caught:
        fixed_target("https://dev.example.com", http_credentials={"x-token": value})
    assert value not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "url", ["http://dev.example.com", "https://user@dev.example.com", "dev.example.com", "https://10.0.0.1"]
)
def test_p09_a_url_that_is_not_https_to_a_name_is_refused_at_construction(url: str) -> None:
    with pytest.raises(ConfigurationError, match="the URL must"):
        Static({PREVIEW: url})


def test_a_target_made_by_hand_has_an_endpoint() -> None:
    with pytest.raises(ConfigurationError, match="needs an endpoint"):
        Static({PREVIEW: Target("t", None, None)})


def test_h19_its_repr_shows_no_target() -> None:
    assert repr(Static({PREVIEW: "https://secret-host.example.com"})) == "Static(<1 targets>)"
