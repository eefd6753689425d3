"""Taking access back: what is open ends, and what was issued before opens nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from starlette.requests import HTTPConnection

from preview_proxy import Preview, Session, Tickets
from preview_proxy.core.models import Origin
from preview_proxy.core.websocket import outgoing_close
from preview_proxy.testing import WebSocket
from preview_proxy.transports import relay_websocket
from tests.apart import Apart
from tests.servers import WEBSOCKET_SERVERS
from tests.test_live import until
from tests.transports.test_relay_websocket import closed, dial
from tests.world import EMBEDDER, MACHINE, OWNER, SECRET, World, world

pytestmark = pytest.mark.anyio
PREVIEW = Preview(MACHINE, 3000)
LOGIN = "login-1"


def gate(w: World, login: str = LOGIN, *, subject: str = OWNER, expires_at: float | None = None) -> str:
    """A new gate for the login of a subject."""
    session = Session(subject, login, expires_at)
    return Tickets(SECRET, [EMBEDDER]).gate(origin=Origin.parse(w.origin), preview=PREVIEW, session=session)[0]


class Undecided:
    """An `authorize` that says yes, once it may."""

    def __init__(self) -> None:
        self.asked, self.answer = anyio.Event(), anyio.Event()

    async def __call__(self, subject: str, preview: Preview) -> bool:
        self.asked.set()
        await self.answer.wait()
        return True


@pytest.fixture
async def w() -> AsyncIterator[World]:
    async with world() as made:
        made.gate = gate(made)
        yield made


# --- what is asked for next ----------------------------------------------------------------------------------------


async def test_a07_a_decision_stands_until_it_is_revoked(w: World) -> None:
    assert (await w.get("/echo")).status == 200
    w.allowed.clear()
    assert (await w.get("/echo")).status == 200
    assert w.proxy.revoke(subject=OWNER) == 0
    w.gate = gate(w)
    assert (await w.get("/echo")).status == 404


@pytest.mark.parametrize(
    "named", [{"subject": OWNER}, {"preview": PREVIEW}, {"subject": OWNER, "preview": PREVIEW}, {"session": LOGIN}]
)
async def test_a07_gates_and_tickets_from_before_are_void(w: World, named: dict[str, Any]) -> None:
    ticket = (await w.proxy.ticket(PREVIEW, subject=OWNER, session_ref=LOGIN)).ticket
    assert (await w.get("/echo")).status == 200
    w.proxy.revoke(**named)
    for path in ("/echo", "/.well-known/preview-proxy/check"):
        assert (await w.get(path)).status == 401
    assert (await w.exchange(ticket)).json()["code"] == "ticket_refused"
    # a new one stands, unless it is of a login that has ended: that does not begin again
    w.gate = gate(w)
    assert (await w.get("/echo")).status == (401 if "session" in named else 200)


async def test_a07_the_end_of_one_login_leaves_the_others(w: World) -> None:
    gates = {gate(w): 401, gate(w, "login-2"): 200, gate(w, ""): 200}
    w.proxy.revoke(session=LOGIN)
    for w.gate, status in gates.items():
        assert (await w.get("/echo")).status == status


async def test_a07_a_ticket_for_a_login_that_has_ended_is_refused(w: World) -> None:
    w.proxy.revoke(session=LOGIN)
    ticket = (await w.proxy.ticket(PREVIEW, subject=OWNER, session_ref=LOGIN)).ticket
    assert (await w.exchange(ticket)).json()["code"] == "ticket_refused"


@pytest.mark.parametrize("named", [{"subject": OWNER}, {"preview": PREVIEW}, {"session": LOGIN}])
async def test_a07_what_was_being_decided_meanwhile_is_refused(named: dict[str, Any]) -> None:
    authorize = Undecided()
    with anyio.fail_after(10):
        async with world(authorize=authorize, sign_in=False) as w:
            w.gate = gate(w)

            async def ask() -> None:
                assert (await w.get("/echo")).status == 401

            async with anyio.create_task_group() as group:
                group.start_soon(ask)
                await authorize.asked.wait()
                w.proxy.revoke(**named)
                authorize.answer.set()
            assert w.dev.received == []


@pytest.mark.parametrize("named", [{"subject": OWNER}, {"preview": PREVIEW}, {"session": LOGIN}])
async def test_a07_a_ticket_that_is_being_exchanged_meanwhile_is_refused(named: dict[str, Any]) -> None:
    authorize = Undecided()
    authorize.answer.set()
    with anyio.fail_after(10):
        async with world(authorize=authorize, sign_in=False) as w:
            ticket = (await w.proxy.ticket(PREVIEW, subject=OWNER, session_ref=LOGIN)).ticket
            authorize.asked, authorize.answer = anyio.Event(), anyio.Event()

            async def exchange() -> None:
                refused = await w.exchange(ticket)
                assert (refused.status, refused.json()["code"]) == (403, "ticket_refused")
                assert refused.values(b"set-cookie") == []

            async with anyio.create_task_group() as group:
                group.start_soon(exchange)
                await authorize.asked.wait()
                w.proxy.revoke(**named)
                authorize.answer.set()


async def test_a07_the_customers_own_session_is_known_by_its_ref() -> None:
    async def session(connection: HTTPConnection) -> Session:
        return Session(OWNER, connection.headers["x-login"])

    async with world(session=session, tickets=None) as w:

        async def status(login: str) -> int:
            return (await w.get("/echo", headers={"X-Login": login})).status

        assert [await status(login) for login in (LOGIN, "login-2")] == [200, 200]
        w.proxy.revoke(session=LOGIN)
        assert [await status(login) for login in (LOGIN, "login-2")] == [401, 200]
        w.proxy.revoke(subject=OWNER)  # of unknown age, so `authorize` decides
        assert await status("login-2") == 200
        w.allowed.clear()
        w.proxy.revoke(subject=OWNER)
        assert await status("login-2") == 404


async def test_w10_a_second_time_acts_though_the_clock_was_set_back() -> None:
    async def session(connection: HTTPConnection) -> str:
        return OWNER

    async with world(session=session, tickets=None) as w:
        w.proxy.revoke(subject=OWNER)
        w.proxy._gate._revoked._clock = lambda: 1.0
        with anyio.fail_after(10):
            async with dial(w) as socket:
                await socket.send("x")
                await socket.recv()
                assert w.proxy.revoke(subject=OWNER) == 1
                assert (await closed(socket))[0] == 4401


async def test_somebody_or_something_is_named(w: World) -> None:
    with pytest.raises(ValueError, match="name the subject"):
        w.proxy.revoke()


# --- what is open --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", WEBSOCKET_SERVERS)
@pytest.mark.parametrize(
    ("named", "closing"),
    [
        ({"port": "3000"}, (4403, "access_ended")),
        ({"subject": OWNER, "port": "3000"}, (4403, "access_ended")),
        ({"subject": OWNER}, (4401, "not_signed_in")),
        ({"session": LOGIN}, (4401, "not_signed_in")),
    ],
)
async def test_w10_an_open_websocket_is_closed_on_both_sides(
    server: str, named: dict[str, str], closing: tuple[int, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "preview_proxy")
    async with world(serve=WEBSOCKET_SERVERS[server]) as w:
        w.gate = gate(w)
        with anyio.fail_after(10):
            async with dial(w) as socket:
                await socket.send("x")
                assert await socket.recv() == "x"
                assert await w.pull("revoke", **named) == 1
                assert await closed(socket) == closing
            await w.dev.wait_for(lambda dev: dev.websockets[-1].close_code == closing[0])
            await until(lambda: w.proxy._occupancy.websocket.taken == 0)
    records = [record.getMessage() for record in caplog.records if record.name == "preview_proxy"]
    if isinstance(WEBSOCKET_SERVERS[server], Apart):  # it logs in its own process
        assert records == []
    else:
        assert [f"{closing[1]}: cut short" in record for record in records] == [True]


@pytest.mark.parametrize(
    ("named", "closing"),
    [({"preview": PREVIEW}, (4403, "access_ended")), ({"session": LOGIN}, (4401, "not_signed_in"))],
)
async def test_w10_a_websocket_that_upstream_closes_at_the_same_time_says_that_access_has_ended(
    w: World, monkeypatch: pytest.MonkeyPatch, named: dict[str, Any], closing: tuple[int, str]
) -> None:
    ended: list[int] = []

    def closes(*how: Any) -> tuple[int, str]:
        """Upstream has closed, and before its relay learns of it, access ends."""
        asyncio.get_running_loop().call_soon(lambda: ended.append(w.proxy.revoke(**named)))
        return outgoing_close(*how)

    @w.dev.websocket("/bye")
    async def bye(socket: WebSocket) -> None:
        await socket.accept()
        monkeypatch.setattr(relay_websocket, "outgoing_close", closes)
        await socket.close(1000)

    with anyio.fail_after(10):
        async with dial(w, "/bye") as socket:
            assert await closed(socket) == closing
        await until(lambda: len(w.proxy._live) == 0)
    assert ended[0] == 1


async def test_a08_an_event_stream_is_cut(w: World) -> None:
    with anyio.fail_after(10):
        async with await anyio.connect_tcp("127.0.0.1", w.port) as stream:
            await stream.send(w.request("/sse"))
            await w.dev.wait_for(lambda dev: any(received.path == "/sse" for received in dev.received))
            w.dev.emit("tick")
            seen = b""
            while b"tick" not in seen:
                seen += await stream.receive()
            assert w.proxy.revoke(subject=OWNER, preview=PREVIEW) == 1
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                while chunk := await stream.receive():
                    assert b"0\r\n\r\n" not in chunk
        await w.dev.wait_for(lambda dev: dev.open_connections == 0)


@pytest.mark.parametrize(
    ("named", "status", "code"),
    [({"preview": PREVIEW}, 404, "access_ended"), ({"session": LOGIN}, 401, "not_signed_in")],
)
async def test_a_request_that_has_no_answer_yet_is_refused(
    w: World, named: dict[str, Any], status: int, code: str
) -> None:
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:

            async def ask() -> None:
                answer = await w.get("/slow")
                assert (answer.status, answer.json()["code"]) == (status, code)

            group.start_soon(ask)
            await w.dev.wait_for(lambda dev: any(received.path == "/slow" for received in dev.received))
            w.proxy.revoke(**named)


async def test_others_keep_what_they_have(w: World) -> None:
    others = [{"subject": "grace"}, {"preview": Preview(MACHINE, 3001)}, {"session": "login-2"}]
    with anyio.fail_after(10):
        async with dial(w) as socket:
            await socket.send("x")
            await socket.recv()
            assert [w.proxy.revoke(**named) for named in others] == [0, 0, 0]  # type: ignore[arg-type]
            await socket.send("y")
            assert await socket.recv() == "y"
