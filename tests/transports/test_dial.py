"""Where a name leads, and where it may not."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from preview_proxy.core.models import Endpoint, Origin, Outbound
from preview_proxy.testing import DevServer
from preview_proxy.transports import dial as dialling
from preview_proxy.transports.dial import dial
from preview_proxy.transports.pool import UpstreamPool
from preview_proxy.transports.request import NO_BODY, UpstreamRequest

pytestmark = pytest.mark.anyio


@pytest.fixture
async def dev() -> AsyncIterator[DevServer]:
    async with DevServer() as server:
        yield server


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """A resolver that gives these addresses, one list per look-up; the names it was asked for."""
    asked: list[str] = []
    turns = iter(answers)

    async def getaddrinfo(host: str, port: int, **kwargs: Any) -> list[tuple[Any, ...]]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in next(turns)]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    return asked


async def connected(port: int, *, private: bool, host: str = "up.example") -> Any:
    origin = Origin("http", host, port)
    transport = await dial(asyncio.get_running_loop(), asyncio.Protocol(), origin, None, private=private)
    transport.close()
    return transport.get_extra_info("peername")[0]


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["::ffff:127.0.0.1"], ["10.0.0.1", "169.254.169.254"], []])
async def test_p10_a_name_that_leads_into_a_private_network_is_not_dialled(
    dev: DevServer, monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    resolving(monkeypatch, addresses)
    with pytest.raises(OSError, match="no address that may be dialled"):
        await connected(dev.port, private=False)
    assert dev.open_connections == 0


async def test_p10_localhost_is_this_computer_whatever_a_resolver_would_say(
    dev: DevServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = resolving(monkeypatch, ["203.0.113.1"])
    assert await connected(dev.port, private=False, host="up.localhost") == "127.0.0.1"
    assert asked == []


async def test_p10_machines_of_ones_own_may_be_in_one(dev: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, ["127.0.0.1"])
    assert await connected(dev.port, private=True) == "127.0.0.1"


async def test_p10_what_was_checked_is_what_is_dialled(dev: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = resolving(monkeypatch, ["127.0.0.1", "127.0.0.2"], ["10.0.0.1"])
    monkeypatch.setattr(dialling, "is_public", lambda address: address == "127.0.0.1")
    assert await connected(dev.port, private=False) == "127.0.0.1"
    assert asked == ["up.example"]


async def test_another_address_is_tried_where_the_first_does_not_answer(
    dev: DevServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, ["127.0.0.2", "127.0.0.1"], ["127.0.0.2", "127.0.0.3"])
    assert await connected(dev.port, private=True) == "127.0.0.1"
    with pytest.raises(ConnectionRefusedError):
        await connected(dev.port, private=True)


async def test_an_answer_that_is_not_tls_is_not_tried_again(dev: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, ["127.0.0.1", "127.0.0.1"])
    loop, origin = asyncio.get_running_loop(), Origin("https", "up.example", dev.port)
    with pytest.raises(ssl.SSLError):
        await dial(loop, asyncio.Protocol(), origin, ssl.create_default_context(), private=True)
    await dev.wait_for(lambda dev: dev.open_connections == 0)


async def test_p10_the_pool_says_no_more_than_that_it_could_not_connect(
    dev: DevServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, ["127.0.0.1"])
    outbound = Outbound("GET", Endpoint(Origin("https", "up.example", dev.port)), b"/", (), False, None)
    pool = UpstreamPool()
    with pytest.raises(httpx.ConnectError, match=r"^OSError$"):
        await pool.handle_async_request(UpstreamRequest(outbound, NO_BODY))
    await pool.aclose()
