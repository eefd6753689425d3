"""The emulated E2B, asked by the real SDK; the provider sends the token that the SDK was given."""

from __future__ import annotations

import subprocess
import sys
from contextlib import aclosing
from typing import Any

import pytest
from e2b import AsyncSandbox, SandboxNotFoundException

from preview_proxy.core.models import Preview
from preview_proxy.core.secret import Secret
from preview_proxy.testing import E2BEmulator
from tests.vendors import e2b_provider

pytestmark = pytest.mark.anyio


def account(e2b: E2BEmulator) -> dict[str, Any]:
    return {"api_key": e2b.api_key, "api_url": e2b.api_url, "domain": "e2b.localhost"}


async def test_a_sandbox_that_the_sdk_created_has_its_token() -> None:
    async with E2BEmulator() as e2b:
        sandbox = await AsyncSandbox.create(network={"allow_public_traffic": False}, **account(e2b))
        assert sandbox.traffic_access_token is not None
        preview = Preview(sandbox.sandbox_id, 3000)
        known = {sandbox.sandbox_id: sandbox.traffic_access_token}
        for tokens in (known, None):
            async with aclosing(e2b_provider(e2b, tokens=tokens)) as provider:
                target = await provider.resolve(preview)
            assert target.http is not None
            assert target.http.origin.host == sandbox.get_host(3000)
            assert target.http.credentials == ((b"e2b-traffic-access-token", Secret(sandbox.traffic_access_token)),)


async def test_connecting_by_the_sdk_resumes_and_gives_the_same_token() -> None:
    async with E2BEmulator() as e2b:
        made = e2b.add_sandbox("i0ddba115eed", {})
        e2b.set_state(made.id, "paused")
        sandbox = await AsyncSandbox.connect(made.id, timeout=60, **account(e2b))
        assert (sandbox.traffic_access_token, made.state) == (made.token, "running")
        [request] = e2b.api_requests
        assert (request.method, request.path) == ("POST", f"/v2/sandboxes/{made.id}/connect")
        assert request.json["timeout"] == 60
        with pytest.raises(SandboxNotFoundException):
            await AsyncSandbox.connect("gone", **account(e2b))


def test_the_sdk_is_never_imported() -> None:
    code = "import sys, preview_proxy.providers.e2b; sys.exit('e2b' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0
