"""What the Nullspace provider refuses at construction, and what closes with it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from preview_proxy.errors import ConfigurationError
from preview_proxy.providers.base import SupportsExplainError
from preview_proxy.providers.nullspace import Nullspace
from tests.providers.test_nullspace import API_KEY, CANARIES, TRAFFIC_TOKEN, Api, provider

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"api_key": None}, "either an api_key or a client"),
        ({"client": object()}, "either an api_key or a client"),
        ({"api_key": ""}, "api_key: a credential must be 8 to 8192 bytes"),
        ({"api_key": f"{API_KEY}\n"}, "api_key: a credential must be visible ASCII"),
        ({"base_url": "http://api.nullspace.dev"}, "base_url: the URL must be https"),
        ({"base_url": "http://localhost:3000"}, "allow_insecure_loopback=True"),
        ({"base_url": "https://api.nullspace.dev?x=1"}, "base_url: the URL must have no query"),
        ({"base_url": "https://user:password@api.nullspace.dev"}, "base_url: the URL must be absolute"),
        ({"expires_in": 59}, "60 to 86400"),
        ({"expires_in": 86_401}, "60 to 86400"),
        ({"timeout": 0}, "timeout must be greater than 0"),
        ({"timeout": float("nan")}, "timeout must be greater than 0"),
        ({"domains": "nullspace.dev"}, "domains: give a list"),
        ({"domains": ()}, "domains: give a list"),
        ({"domains": ["*.nullspace.dev"]}, "domains: give a list"),
        ({"domains": ["https://nullspace.dev"]}, "domains: give a list"),
        ({"domains": ["dev"]}, "domains: give a list"),
        ({"traffic_tokens": "short"}, "traffic_tokens: a credential"),
        ({"traffic_tokens": {"mch_1": f"{TRAFFIC_TOKEN} "}}, "traffic_tokens: a credential"),
    ],
)
def test_what_could_not_work_is_refused_at_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Nullspace(**{"api_key": API_KEY, "base_url": "https://api.nullspace.dev"} | options)
    assert message in str(caught.value)
    assert caught.value.__context__ is None
    assert not [canary for canary in (*CANARIES, "password") if canary in str(caught.value)]


def test_without_a_base_url_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NULLSPACE_API_URL", raising=False)
    monkeypatch.delenv("NULLSPACE_BASE_URL", raising=False)
    with pytest.raises(ConfigurationError, match="set NULLSPACE_API_URL"):
        Nullspace(API_KEY)


def test_h19_nothing_that_prints_it_shows_a_secret() -> None:
    nullspace = provider(Api(), traffic_tokens={"mch_1": TRAFFIC_TOKEN})
    assert repr(nullspace) == "Nullspace('https://api.nullspace.dev')"
    shown = repr(vars(nullspace)) + repr(vars(nullspace._mint))
    assert not [canary for canary in CANARIES if canary in shown]


# --- the edge's errors, and the end ---


def test_it_explains_its_edges_errors() -> None:
    nullspace = provider(Api())
    head = ((b"content-type", b"application/json"),)
    assert isinstance(nullspace, SupportsExplainError)
    assert nullspace.may_explain(401, head) and not nullspace.may_explain(404, head)
    error = nullspace.explain_error(401, head, b'{"error": "x", "code": "preview_proxy_token_expired"}')
    assert error is not None and error.code == "preview_proxy_token_expired"
    assert nullspace.explain_error(401, head, b'{"error": "log in first"}') is None


async def test_it_closes_the_transport_it_was_given() -> None:
    class Transport(httpx.MockTransport):
        closed = False

        async def aclose(self) -> None:
            self.closed = True

    transport = Transport(Api())
    await Nullspace(API_KEY, base_url="https://api.nullspace.dev", transport=transport).aclose()
    assert transport.closed


async def test_closing_before_the_first_call_is_fine() -> None:
    await Nullspace(API_KEY, base_url="https://api.nullspace.dev").aclose()
