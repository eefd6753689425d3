"""The Nullspace provider against the emulator, over real sockets."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from preview_proxy.core.models import Origin, Preview
from preview_proxy.core.secret import Secret
from preview_proxy.errors import NotFound, ProviderError
from preview_proxy.providers.nullspace import TRAFFIC_HEADER, Nullspace
from preview_proxy.testing import NullspaceEmulator
from tests.providers.test_nullspace import API_KEY, MARKER, PREVIEW, TRAFFIC_TOKEN, assert_told_nothing

pytestmark = pytest.mark.anyio


@pytest.fixture
async def nullspace() -> AsyncIterator[NullspaceEmulator]:
    async with NullspaceEmulator() as emulator:
        emulator.add_machine(PREVIEW.machine, {PREVIEW.port: 9})
        emulator.add_machine("mch_private", {3000: 9}, traffic_token=TRAFFIC_TOKEN)
        yield emulator


@pytest.fixture
async def real(nullspace: NullspaceEmulator) -> AsyncIterator[Nullspace]:
    provider = Nullspace(
        nullspace.api_key,
        base_url=nullspace.api_url,
        domains=[nullspace.edge_domain],
        traffic_tokens={"mch_private": TRAFFIC_TOKEN},
        allow_insecure_loopback=True,
        timeout=5,
    )
    yield provider
    await provider.aclose()


async def test_a_target_is_minted_over_http(nullspace: NullspaceEmulator, real: Nullspace) -> None:
    target = await real.resolve(PREVIEW)
    [(grant_id, grant)] = nullspace.grants.items()
    origin = Origin("http", f"3000-{PREVIEW.machine}.{nullspace.edge_domain}", nullspace.edge_port)
    assert target.id == grant_id
    assert target.expires_at == pytest.approx(grant.expires_at, abs=1)
    for endpoint in (target.http, target.websocket):
        assert endpoint is not None
        assert (endpoint.origin, endpoint.base_path, endpoint.marker) == (origin, b"", MARKER.encode())


async def test_a_private_machine_gets_its_traffic_token(real: Nullspace) -> None:
    target = await real.resolve(Preview("mch_private", 3000))
    assert target.http is not None and target.http.credentials[1] == (TRAFFIC_HEADER.encode(), Secret(TRAFFIC_TOKEN))


async def test_connections_are_kept_for_the_next_mint(nullspace: NullspaceEmulator, real: Nullspace) -> None:
    assert (await real.resolve(PREVIEW)).id != (await real.resolve(PREVIEW)).id
    assert nullspace.mints == 2


async def test_an_unknown_machine_is_not_found(real: Nullspace) -> None:
    with pytest.raises(NotFound) as caught:
        await real.resolve(Preview("mch_gone", 3000))
    assert caught.value.code == "machine_not_found"


async def test_a_wrong_key_is_refused(nullspace: NullspaceEmulator) -> None:
    provider = Nullspace(API_KEY, base_url=nullspace.api_url, allow_insecure_loopback=True)
    with pytest.raises(ProviderError) as caught:
        await provider.resolve(PREVIEW)
    assert caught.value.code == "provider_refused"
    assert_told_nothing(caught.value)
    await provider.aclose()


async def test_p09_an_edge_outside_the_domains_is_refused(nullspace: NullspaceEmulator) -> None:
    provider = Nullspace(nullspace.api_key, base_url=nullspace.api_url, allow_insecure_loopback=True)
    with pytest.raises(ProviderError, match=r"must be under one of: nullspace\.dev"):
        await provider.resolve(PREVIEW)
    await provider.aclose()


async def test_an_api_that_is_not_there_is_a_provider_error(unused_tcp_port_url: str) -> None:
    provider = Nullspace(API_KEY, base_url=unused_tcp_port_url, allow_insecure_loopback=True)
    with pytest.raises(ProviderError, match="ConnectError") as caught:
        await provider.resolve(PREVIEW)
    assert_told_nothing(caught.value)
    await provider.aclose()


@pytest.fixture
def unused_tcp_port_url() -> Iterator[str]:
    """A loopback port that is bound, so that nobody else listens there, and where nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


async def test_p11_no_proxy_variable_of_the_environment_reroutes_the_key(
    real: Nullspace, unused_tcp_port_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, unused_tcp_port_url)
    assert await real.resolve(PREVIEW)


async def test_no_visitor_waits_for_certificates_to_be_read(real: Nullspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a quarter of a second, in which the event loop serves nobody."""
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", None)
    assert await real.resolve(PREVIEW)


async def test_an_answer_of_endless_bytes_is_cut_off_and_its_connection_closed() -> None:
    closed = anyio.Event()

    async def flood(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
            with suppress(anyio.BrokenResourceError):
                while True:
                    await stream.send(b" " * 65536)
        closed.set()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)
    provider = Nullspace(API_KEY, base_url=f"http://127.0.0.1:{port}", allow_insecure_loopback=True, timeout=5)
    with anyio.fail_after(5):
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, flood)
            with pytest.raises(ProviderError, match="not a small JSON object"):
                await provider.resolve(PREVIEW)
            await closed.wait()
            group.cancel_scope.cancel()
    await provider.aclose()


async def test_h14_no_secret_is_logged_at_any_level(
    nullspace: NullspaceEmulator, real: Nullspace, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    for name in ("httpx", "httpcore", "asyncio"):
        caplog.set_level(1, logger=name)
    target = await real.resolve(Preview("mch_private", 3000))
    [grant] = nullspace.grants.values()
    logged = "".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)
    assert logged, "httpcore logs something at this level"
    for secret in (nullspace.api_key, TRAFFIC_TOKEN, *grant.tokens.values()):
        assert secret not in logged and secret not in repr(target)
