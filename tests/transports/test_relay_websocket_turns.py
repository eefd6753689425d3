"""One WebSocket step by step: which of its two sides says what, and in which turn."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from preview_proxy import Limits, live
from preview_proxy.core.frames import BINARY, CLOSE, TEXT
from preview_proxy.core.websocket import accept_value
from preview_proxy.errors import CredentialRejected, PreviewProxyError, Unreachable, UpstreamProtocol
from preview_proxy.revocation import Revocation
from preview_proxy.transports.relay_http import Aborted
from preview_proxy.transports.relay_websocket import FULL_AGE, GRACE, MAX_REFUSAL
from preview_proxy.transports.websocket_stream import CLOSE_TIMEOUT
from tests.transports.relaying import Lease, Relaying
from tests.transports.test_websocket_stream import frame, frames
from tests.transports.wires import Wires
from tests.turns import pass_time, turns

pytestmark = pytest.mark.anyio

REFUSED = b"HTTP/1.1 401 No\r\nContent-Length: 10\r\n\r\ncredential"


def sent(r: Relaying) -> list[tuple[int, bytes]]:
    """What went upstream after the handshake."""
    return frames(r.wires[-1].sent.partition(b"\r\n\r\n")[2])


def heard(r: Relaying) -> list[Any]:
    """What the visitor was sent after the accept."""
    accepted, *rest = r.visitor.heard
    assert accepted["type"] == "websocket.accept"
    return rest


def closing(code: int, reason: str = "") -> dict[str, Any]:
    return {"type": "websocket.close", "code": code, "reason": reason}


async def left(r: Relaying, code: int = 1000) -> None:
    """The visitor closes, upstream answers, and the relay is over."""
    r.visitor.say("websocket.disconnect", code=code, reason="")
    await turns()
    r.wires[-1].say(frame(CLOSE, code.to_bytes(2)))
    await r.task


# --- dialling ------------------------------------------------------------------------------------------------------


async def test_what_was_cured_is_dialled_again(r: Relaying, wires: Wires) -> None:
    r.lease = Lease(credential=CredentialRejected())
    r.lease.cures = True
    await r.websocket()
    for _ in range(2):
        wires[0].say(REFUSED)
        await turns()
    with pytest.raises(CredentialRejected):
        await r.task
    assert r.lease.told == ["preview_proxy_token_invalid", CredentialRejected]
    assert not r.visitor.heard


@pytest.mark.parametrize(("status", "body"), [(403, b"no"), (304, b"")])
async def test_w06_a_refusal_is_the_visitors_to_see(r: Relaying, wires: Wires, status: int, body: bytes) -> None:
    await r.websocket()
    wires[0].say(b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))
    await r.task
    start, end = r.visitor.heard
    assert (start["type"], start["status"]) == ("websocket.http.response.start", status)
    assert end == {"type": "websocket.http.response.body", "body": body, "more_body": False}


async def test_a_server_that_cannot_refuse_by_http_closes(r: Relaying, wires: Wires) -> None:
    await r.websocket(can_deny=False)
    wires[0].say(REFUSED)
    await r.task
    assert r.visitor.heard == [closing(1008)]


async def test_an_endless_refusal_is_not_held(r: Relaying, wires: Wires) -> None:
    await r.websocket()
    wires[0].say(b"HTTP/1.1 403 No\r\n\r\n" + bytes(MAX_REFUSAL + 1))
    with pytest.raises(UpstreamProtocol):
        await r.task
    assert wires[0].is_aborted


@pytest.mark.parametrize(("break_off", "kind"), [(True, PreviewProxyError), (False, Unreachable)])
async def test_an_upstream_that_does_not_answer_is_told(
    r: Relaying, wires: Wires, break_off: bool, kind: type[PreviewProxyError]
) -> None:
    await r.websocket()
    if break_off:
        wires[0].say(b"no HTTP")
    else:
        wires[0].lose(OSError())
    with pytest.raises(kind):
        await r.task


async def test_w05_a_101_that_answers_another_key_is_closed(r: Relaying, wires: Wires) -> None:
    await r.websocket()
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    wires[0].say(head + b"Sec-WebSocket-Accept: %s\r\n\r\n" % accept_value(b"another"))
    with pytest.raises(UpstreamProtocol):
        await r.task
    assert wires[0].is_aborted


async def test_who_leaves_while_upstream_is_dialled_is_sent_nothing(
    r: Relaying, wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "PATIENCE", 0)
    await r.websocket()
    r.visitor.say("websocket.disconnect", code=1001)
    await r.task
    assert wires[0].is_aborted
    assert not r.visitor.heard


async def test_who_has_left_when_upstream_accepts_is_not_relayed(r: Relaying, wires: Wires) -> None:
    r.visitor.has_left = True
    await r.opened()
    await r.task
    assert wires[0].is_aborted


# --- relaying ------------------------------------------------------------------------------------------------------


async def test_messages_pass_both_ways(r: Relaying, wires: Wires) -> None:
    await r.opened()
    r.visitor.say("websocket.receive", text="grüße")
    r.visitor.say("websocket.receive", text=None, bytes=b"\x00")
    wires[0].say(frame(TEXT, "grüße".encode()) + frame(BINARY, b"\x00"))
    await turns()
    assert sent(r) == [(TEXT, "grüße".encode()), (BINARY, b"\x00")]
    assert heard(r) == [{"type": "websocket.send", "text": "grüße"}, {"type": "websocket.send", "bytes": b"\x00"}]
    await left(r, 3000)
    assert sent(r)[2:] == [(CLOSE, (3000).to_bytes(2))]


async def test_w09_upstreams_close_is_the_visitors(r: Relaying, wires: Wires) -> None:
    await r.opened()
    wires[0].say(frame(CLOSE, (3000).to_bytes(2) + b"done"))
    await turns()
    assert heard(r) == [closing(3000, "done")]
    r.visitor.say("websocket.receive", text="too late")
    r.visitor.say("websocket.disconnect", code=3000)
    await r.task
    assert sent(r) == [(CLOSE, (3000).to_bytes(2) + b"done")]


async def test_w10_what_comes_in_the_turn_in_which_access_ends_is_not_shown(r: Relaying, wires: Wires) -> None:
    await r.opened()
    wires[0].say(frame(TEXT, b"secret"))
    r.relays.revoke(Revocation("ada", None, None, time.time()))
    with pytest.raises(Aborted) as caught:
        await r.task
    assert caught.value.cause.code == "not_signed_in"
    assert heard(r) == [closing(4401, "not_signed_in")]


async def test_a_visitor_who_is_gone_is_found_by_who_sends_and_closes_by_who_receives(
    r: Relaying, wires: Wires
) -> None:
    await r.opened()
    r.visitor.has_left = True
    wires[0].say(frame(TEXT, b"x"))
    await turns()
    assert not r.task.done()
    await left(r)
    assert not heard(r)


@pytest.mark.parametrize("message", [{"text": "ü" * 51}, {"bytes": bytes(101)}])
async def test_w07_a_message_over_the_limit_closes_both_sides(wires: Wires, message: dict[str, Any]) -> None:
    r = Relaying(wires, limits=Limits(message_bytes=100))
    await r.opened()
    r.visitor.say("websocket.receive", text="ü" * 50)
    r.visitor.say("websocket.receive", bytes=bytes(100))
    r.visitor.say("websocket.receive", **message)
    r.visitor.say("websocket.disconnect", code=1009)
    await turns()
    wires[0].say(frame(CLOSE, (1009).to_bytes(2)))
    await r.task
    assert [opcode for opcode, _ in sent(r)] == [TEXT, BINARY, CLOSE]
    assert heard(r) == [closing(1009, "message too big")]
    await r.pool.aclose()


@pytest.mark.parametrize("is_gone", [True, False])
async def test_w08_a_relay_ends_though_the_visitor_does_not_read_that_upstream_is_gone(
    r: Relaying, wires: Wires, monkeypatch: pytest.MonkeyPatch, is_gone: bool
) -> None:
    """Or takes no more. Its end cannot be heard before what came before it."""
    r.visitor.reads_no = "websocket.send"
    await r.opened()
    wires[0].say(frame(TEXT, b"not read"))
    await turns()
    if is_gone:
        wires[0].lose()
    else:
        wires[0].protocol.pause_writing()
    r.visitor.say("websocket.receive", text="not taken")
    await turns()
    if not is_gone:
        pass_time(Limits().write_timeout, monkeypatch)
        await turns()
        assert wires[0].is_aborted
    pass_time(GRACE, monkeypatch)
    await turns()
    assert heard(r) == [closing(1011)]
    r.visitor.say("websocket.disconnect", code=1011)
    await r.task


async def test_v09_a_drain_says_when_to_come_again(r: Relaying, wires: Wires) -> None:
    await r.opened()
    drain = asyncio.create_task(r.relays.drain(5))
    await r.task
    await drain
    [close] = heard(r)
    assert close["code"] == 1012
    assert close["reason"].startswith("shutting_down; retry in ")
    assert sent(r) == [(CLOSE, (1012).to_bytes(2))]


async def test_a_server_that_cancels_says_the_same(r: Relaying) -> None:
    await r.opened()
    r.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await r.task
    assert heard(r)[0]["code"] == 1012


async def test_what_nobody_foresaw_ends_both_sides(r: Relaying, wires: Wires) -> None:
    r.visitor.failure = ValueError("x")
    await r.opened()
    with pytest.raises(Aborted) as caught:
        await r.task
    assert caught.value.cause.detail == "ValueError"
    assert wires[0].is_aborted


async def test_a_socket_is_closed_before_its_greatest_age(
    r: Relaying, wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    r.lease = Lease(max_socket_age=900)
    await r.opened()
    pass_time(900 * FULL_AGE, monkeypatch)
    await turns()
    assert heard(r) == [closing(1012, "reconnect")]
    r.visitor.say("websocket.disconnect", code=1012)
    wires[0].say(frame(TEXT, b"too late") + frame(CLOSE, (1012).to_bytes(2)))
    await r.task
    assert len(heard(r)) == 1


async def test_a_young_one_is_closed_by_who_likes(r: Relaying) -> None:
    r.lease = Lease(max_socket_age=900)
    await r.opened()
    await left(r)
    assert sent(r) == [(CLOSE, (1000).to_bytes(2))]


async def test_w08_an_upstream_that_does_not_close_is_not_waited_for(
    r: Relaying, wires: Wires, monkeypatch: pytest.MonkeyPatch
) -> None:
    await r.opened()
    r.visitor.say("websocket.disconnect", code=1000)
    await turns()
    assert not r.task.done()
    pass_time(CLOSE_TIMEOUT, monkeypatch)
    await r.task
    assert wires[0].is_aborted
