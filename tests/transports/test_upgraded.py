"""The byte stream behind a 101, between a transport in memory and a receiver."""

from __future__ import annotations

import asyncio

import pytest

from preview_proxy.transports.upgraded import Upgraded
from tests.transports.wires import Wire

pytestmark = pytest.mark.anyio


def stream(leftover: bytes = b"") -> tuple[Wire, Upgraded]:
    wire = Wire(asyncio.Protocol())
    return wire, Upgraded(wire, leftover)


async def test_what_came_before_there_was_a_receiver_comes_first_and_once() -> None:
    wire, upgraded = stream(b"a")
    upgraded.feed(b"b")
    assert not wire.is_reading()  # what is held is bounded by what had arrived
    said: list[bytes] = []
    upgraded.attach(said.append, lambda: said.append(b"end"))
    assert wire.is_reading()
    upgraded.feed(b"c")
    assert said == [b"a", b"b", b"c"]
    upgraded.lost()
    assert said == [b"a", b"b", b"c", b"end"]


async def test_a_receiver_hears_of_an_end_before_it_was_there() -> None:
    _, upgraded = stream(b"a")
    upgraded.lost()
    said: list[bytes] = []
    upgraded.attach(said.append, lambda: said.append(b"end"))
    assert said == [b"a", b"end"]


async def test_a_receiver_that_is_behind_holds_upstream_back() -> None:
    wire, upgraded = stream()
    for _ in range(2):
        upgraded.pause()
        assert not wire.is_reading()
    for _ in range(2):
        upgraded.resume()
        assert wire.is_reading()


async def test_nothing_is_asked_of_a_transport_that_is_gone() -> None:
    wire, upgraded = stream()
    upgraded.pause()
    wire.close()
    upgraded.resume()  # asyncio raises where a transport that closes is to go on
    upgraded.lost()
    upgraded.resume()
    upgraded.pause()
    assert not wire.reads


@pytest.mark.parametrize("how", ["closing", "lost"])
async def test_nothing_is_written_to_a_transport_that_is_gone(how: str) -> None:
    wire, upgraded = stream()
    assert upgraded.write(b"a")
    if how == "closing":
        wire.close()
    else:
        upgraded.lost()
    assert not upgraded.write(b"b")
    assert wire.sent == b"a"


@pytest.mark.parametrize("how", ["drained", "lost"])
async def test_who_waits_to_write_goes_on_when_there_is_room_or_nobody(how: str) -> None:
    _, upgraded = stream()
    await upgraded.drain()  # waits for nothing
    upgraded.block()
    assert upgraded.is_blocked
    waiting = asyncio.create_task(upgraded.drain())
    await asyncio.sleep(0)
    assert not waiting.done()
    getattr(upgraded, how)()
    assert not upgraded.is_blocked
    await waiting
    await upgraded.drain()


async def test_who_gave_up_waiting_to_write_is_forgotten() -> None:
    _, upgraded = stream()
    upgraded.block()
    waiting = asyncio.create_task(upgraded.drain())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    upgraded.drained()
    assert not upgraded.is_blocked


async def test_whoever_uses_it_as_httpxs_may_close_it() -> None:
    wire, upgraded = stream()
    await upgraded.aclose()
    assert wire.is_aborted
