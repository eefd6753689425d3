from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from preview_proxy import Provider
from preview_proxy.core.models import HiddenOrigin, Preview
from preview_proxy.core.secret import Secret
from preview_proxy.errors import ConfigurationError, NotFound, ProviderError
from preview_proxy.providers.aether import PREFIX_LENGTH, TARGET_LIFETIME, Aether
from preview_proxy.providers.base import SupportsExplainError
from preview_proxy.testing import EdgeFailure, ProviderContract

pytestmark = pytest.mark.anyio

TOKEN = "canary0123456789"
PROJECT = "abc12345-6789-4def"
PREVIEW = Preview(PROJECT, 3000)
HOST = f"3000-abc12345-{TOKEN}.preview.runaether.dev"


class TestAether(ProviderContract):
    preview = PREVIEW
    unknown = Preview("short", 3000)
    secrets = (TOKEN,)
    edge_failures = (
        EdgeFailure(502, (), b"", "preview_service_not_ready"),
        EdgeFailure(502, ((b"content-type", b"text/plain"),), b"Bad Gateway\n", "preview_service_not_ready"),
        EdgeFailure(504, ((b"content-type", b"text/html"),), b"504 Gateway Timeout", "edge_runtime_host_unreachable"),
    )

    @asynccontextmanager
    async def provider(self, transport: httpx.AsyncBaseTransport, timeout: float) -> AsyncIterator[Provider]:
        yield Aether({PROJECT: TOKEN})


async def test_the_address_is_port_prefix_and_token() -> None:
    target = await Aether({PROJECT: TOKEN}).resolve(PREVIEW)
    assert target.id == "3000-abc12345"
    assert target.http is not None and target.websocket == target.http
    assert target.http.origin == HiddenOrigin("https", HOST, 443, Secret(TOKEN))
    assert target.http.credentials == ((b"host", Secret(HOST)),)


async def test_h14_the_host_is_in_no_textual_form() -> None:
    aether = Aether({PROJECT: TOKEN})
    target = await aether.resolve(PREVIEW)
    assert target.http is not None
    for shown in (aether, vars(aether), target, target.http, target.http.origin):
        assert TOKEN not in repr(shown) + str(shown)
    assert str(target.http.origin) == "https://hidden.invalid"


async def test_a_token_may_be_replaced_at_any_time() -> None:
    tokens = {PROJECT: TOKEN}
    aether = Aether(tokens)
    tokens[PROJECT] = "replacement0123"
    target = await aether.resolve(PREVIEW)
    assert target.http is not None and target.http.origin.host.startswith("3000-abc12345-replacement0123.")
    assert target.expires_at == pytest.approx(time.time() + TARGET_LIFETIME, abs=5)


@pytest.mark.parametrize("token", ["", "short", "UPPER0123456789", "with-dash-01234", "a.b.c.d.e.f", "x" * 45])
async def test_a_project_without_a_usable_token_is_refused(token: str) -> None:
    tokens: dict[str, str] = {}
    aether = Aether(tokens)
    tokens[PROJECT] = token
    with pytest.raises(ProviderError) as caught:
        await aether.resolve(PREVIEW)
    assert caught.value.code == "provider_refused"
    assert not token or token not in str(caught.value)


@pytest.mark.parametrize("machine", ["abc", "abc-1234", "abc_12345", "a.b.c.d.e"])
async def test_what_is_no_project_id_is_not_found(machine: str) -> None:
    with pytest.raises(NotFound) as caught:
        await Aether({machine: TOKEN}).resolve(Preview(machine, 3000))
    assert caught.value.code == "machine_not_found"


async def test_the_longest_label_fits_a_host_name() -> None:
    target = await Aether({PROJECT: "t" * 44}).resolve(Preview(PROJECT, 65535))
    assert target.http is not None
    assert len(target.http.origin.host.partition(".")[0]) == 5 + 1 + PREFIX_LENGTH + 1 + 44


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": {PROJECT: "CANARY-NOT-A-LABEL"}}, "tokens: each must be"),
        ({"edge_url": "http://preview.runaether.dev"}, "edge_url: the URL must be https"),
        ({"edge_url": "https://preview.runaether.dev/path"}, "edge_url: the URL must have no path"),
        ({"edge_url": "https://preview.runaether.dev/?a=b"}, "edge_url: the URL must have no path"),
        ({"edge_url": "preview.runaether.dev"}, "edge_url: the URL must be absolute"),
        ({"edge_url": "https://" + ".".join(["long" * 12] * 4)}, "room for one more label"),
    ],
)
def test_what_could_not_work_is_refused_at_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        Aether(**{"tokens": {}} | options)
    assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "code"), [(502, "preview_service_not_ready"), (504, "edge_runtime_host_unreachable")]
)
@pytest.mark.parametrize("form", ["", "{phrase}", "{status} {phrase}\n", "\r\n"])
def test_a_bare_failure_is_the_gateway_s(status: int, code: str, form: str) -> None:
    aether = Aether({})
    assert isinstance(aether, SupportsExplainError)
    body = form.format(status=status, phrase={502: "Bad Gateway", 504: "gateway timeout"}[status]).encode()
    error = aether.explain_error(status, (), body)
    assert error is not None
    assert (error.code, error.retry_after) == (code, 5)


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 502, 503, 504])
def test_any_other_failure_is_the_app_s(status: int) -> None:
    assert Aether({}).may_explain(status, ())
    assert Aether({}).explain_error(status, (), b'{"error": "the app has its own reasons"}') is None


def test_a_page_that_is_no_failure_is_not_read() -> None:
    assert not Aether({}).may_explain(200, ())
    assert not Aether({}).may_explain(307, ())
