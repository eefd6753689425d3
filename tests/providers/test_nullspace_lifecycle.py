"""Readiness, waking and revoking at Nullspace: by plain HTTP and by its own SDK, against the emulator."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest
from nullspace.client import AsyncNullspaceClient

from preview_proxy import Nullspace, Preview, Target
from preview_proxy.errors import CODES, MachineUnavailable, NotFound, PreviewProxyError, ProviderError
from preview_proxy.providers import nullspace_lifecycle
from preview_proxy.providers.base import SupportsReadiness, SupportsRevoke, SupportsWake
from preview_proxy.providers.nullspace_lifecycle import _NOT_READY, READINESS_SLICE, wait_until_ready, wake
from preview_proxy.testing import DevServer, NullspaceEmulator

pytestmark = pytest.mark.anyio
PREVIEW = Preview("mch_a1b2c3d4", 3000)
PAUSED = Preview("mch_paused", 3000)
GONE = Preview("mch_gone", 3000)


@pytest.fixture
async def nullspace() -> AsyncIterator[NullspaceEmulator]:
    async with NullspaceEmulator() as emulator, DevServer() as dev:
        emulator.add_machine(PREVIEW.machine, {PREVIEW.port: dev})
        emulator.add_machine(PAUSED.machine, {PAUSED.port: dev}, status="paused")
        yield emulator


@pytest.fixture(params=["http", "sdk"])
async def provider(request: pytest.FixtureRequest, nullspace: NullspaceEmulator) -> AsyncIterator[Nullspace]:
    if request.param == "http":
        made = Nullspace(
            nullspace.api_key,
            base_url=nullspace.api_url,
            domains=[nullspace.edge_domain],
            allow_insecure_loopback=True,
        )
        yield made
        await made.aclose()
        return
    client = AsyncNullspaceClient(api_key=nullspace.api_key, base_url=nullspace.api_url)
    yield Nullspace(client=client, domains=[nullspace.edge_domain], allow_insecure_loopback=True)
    await client.close()


def paths(nullspace: NullspaceEmulator) -> list[tuple[str, str]]:
    return [(request.method, request.path) for request in nullspace.api_requests]


async def test_it_has_the_three_powers(provider: Nullspace) -> None:
    assert isinstance(provider, SupportsRevoke)
    assert isinstance(provider, SupportsReadiness)
    assert isinstance(provider, SupportsWake)


async def test_a_port_that_listens_is_ready(provider: Nullspace, nullspace: NullspaceEmulator) -> None:
    with anyio.fail_after(10):
        await provider.wait_until_ready(PREVIEW, timeout=5)
    assert paths(nullspace) == [("POST", f"/v1/machines/{PREVIEW.machine}/ports/3000/readiness")]


async def test_a_port_that_does_not_listen_is_not(provider: Nullspace) -> None:
    with anyio.fail_after(20), pytest.raises(MachineUnavailable) as caught:
        await provider.wait_until_ready(Preview(PREVIEW.machine, 3001), timeout=1)
    assert (caught.value.code, caught.value.retry_after) == ("preview_service_not_ready", 5)


async def test_why_it_is_not_ready_is_told(provider: Nullspace, nullspace: NullspaceEmulator) -> None:
    with anyio.fail_after(20), pytest.raises(MachineUnavailable) as caught:
        await provider.wait_until_ready(PAUSED, timeout=1)
    assert caught.value.code == "machine_paused_auto_resume_disabled"
    assert all("resume" not in path for _, path in paths(nullspace))


async def test_a_machine_that_is_gone_is_told_at_once(provider: Nullspace, nullspace: NullspaceEmulator) -> None:
    with anyio.fail_after(10), pytest.raises(NotFound) as caught:
        await provider.wait_until_ready(GONE, timeout=60)
    assert caught.value.code == "machine_not_found"
    assert len(nullspace.api_requests) == 1


async def test_a_paused_machine_is_woken(provider: Nullspace, nullspace: NullspaceEmulator) -> None:
    with anyio.fail_after(10):
        await provider.wake(PAUSED)
        await provider.wake(PAUSED)  # one that runs
        await provider.wait_until_ready(PAUSED, timeout=5)
    assert paths(nullspace)[0] == ("POST", f"/v1/machines/{PAUSED.machine}/resume")


async def test_a_machine_that_is_gone_is_not_woken(provider: Nullspace) -> None:
    with pytest.raises(NotFound) as caught:
        await provider.wake(GONE)
    assert caught.value.__context__ is None


async def test_a_grant_is_revoked_and_one_that_is_gone_is_no_error(
    provider: Nullspace, nullspace: NullspaceEmulator
) -> None:
    target = await provider.resolve(PREVIEW)
    assert nullspace.grants[target.id].revoked_at is None
    await provider.revoke(PREVIEW, target)
    assert nullspace.grants[target.id].revoked_at is not None
    assert paths(nullspace)[-1] == ("DELETE", f"/v1/machines/{PREVIEW.machine}/preview-urls/{target.id}")
    nullspace.grants.clear()
    await provider.revoke(PREVIEW, target)


@pytest.mark.parametrize("kind", ["http", "sdk"])
async def test_a_wrong_key_revokes_nothing_and_is_told(kind: str, nullspace: NullspaceEmulator) -> None:
    client = AsyncNullspaceClient(api_key="another-key", base_url=nullspace.api_url)
    provider = (
        Nullspace("another-key", base_url=nullspace.api_url, allow_insecure_loopback=True)
        if kind == "http"
        else Nullspace(client=client, allow_insecure_loopback=True)
    )
    with pytest.raises(ProviderError) as caught:
        await provider.revoke(PREVIEW, Target("pvg_1", None, None))
    assert caught.value.code == "provider_refused"
    await provider.aclose()
    await client.close()


async def test_an_api_that_is_not_there_is_told() -> None:
    async def nowhere(method: str, path: str, body: object = None) -> PreviewProxyError:
        return ProviderError("provider_timeout")

    for failure in (await wait_until_ready(nowhere, PREVIEW, 5), await wake(nowhere, PREVIEW)):
        assert failure is not None and failure.code == "provider_timeout"


async def test_a_port_is_asked_about_until_it_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    async def ready_soon(method: str, path: str, body: object = None) -> dict[str, object]:
        asked.append(body)
        return {"ready": len(asked) == 3}

    monkeypatch.setattr(nullspace_lifecycle, "PAUSE", 0)
    with anyio.fail_after(5):
        assert await wait_until_ready(ready_soon, PREVIEW, 60) is None
    assert asked == [{"kind": "tcp", "timeout_secs": READINESS_SLICE, "interval_ms": 250}] * 3


async def test_an_answer_that_says_something_else_is_a_failure() -> None:
    async def confused(method: str, path: str, body: object = None) -> dict[str, object]:
        return {"ready": "yes", "code": "canary-0123456789", "status": "error"}

    with anyio.fail_after(5):
        not_ready, asleep = await wait_until_ready(confused, PREVIEW, 0.01), await wake(confused, PREVIEW)
    assert not_ready is not None and not_ready.code == "preview_service_not_ready"
    assert asleep is not None and asleep.code == "provider_failed"
    assert set(CODES) >= _NOT_READY
