"""Bounds on real connections: what is too much is refused at once, and nobody else notices."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack, suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.types import Message
from websockets.exceptions import InvalidStatus

from preview_proxy import Limits, Policy, Preview, Session, Static, Tickets
from preview_proxy.breaker import FAILURES
from preview_proxy.core.models import Origin
from preview_proxy.errors import LimitExceeded
from preview_proxy.providers.static import fixed_target
from preview_proxy.testing import DevServer
from tests.test_gate import HOST, Door, gate_cookie
from tests.test_live import until
from tests.test_visit import scope_of
from tests.transports.test_relay_websocket import closed, dial
from tests.world import EMBEDDER, MACHINE, OWNER, SECRET, ZONE, Answer, World, read_answer, world

pytestmark = pytest.mark.anyio

OTHER = "mch_e5f6a7b8"


async def on_other(w: World, target: str = "/echo") -> Answer:
    """A request for another machine, by the same subject."""
    w.allowed[OWNER].add(OTHER)
    host = f"3000-{OTHER}.{ZONE}:{w.port}"
    gate, _ = Tickets(SECRET, [EMBEDDER]).gate(
        origin=Origin.parse(f"http://{host}"), preview=Preview(OTHER, 3000), session=Session(OWNER)
    )
    return await w.get(target, headers={"Host": host, "Cookie": f"pp-development={gate}"})


async def test_v02_a_preview_that_is_full_answers_at_once_and_another_is_not_affected() -> None:
    limits = Limits(requests_per_preview=5)
    async with world(policy=Policy(limits=limits)) as w, DevServer() as second:
        w.nullspace.add_machine(OTHER, {3000: second})
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                answers: list[Answer] = []

                async def slow() -> None:
                    answers.append(await w.get("/slow"))

                for _ in range(5):
                    group.start_soon(slow)
                await w.dev.wait_for(lambda dev: sum(each.path == "/slow" for each in dev.received) == 5)
                refused = await w.get("/echo")
                assert (refused.status, refused.json()["code"]) == (503, "preview_busy")
                assert refused.values(b"retry-after") == [b"1"]
                assert (await on_other(w)).status == 200
                w.dev.release()
            assert [answer.status for answer in answers] == [200] * 5
            assert (await w.get("/echo")).status == 200


async def test_v02_a_subject_who_has_too_much_under_way_is_told_429() -> None:
    async with world(policy=Policy(limits=Limits(requests_per_subject=1))) as w:
        with anyio.fail_after(20):
            async with await anyio.connect_tcp("127.0.0.1", w.port) as stream:
                await stream.send(w.request("/sse"))
                await w.dev.wait_for(lambda dev: any(each.path == "/sse" for each in dev.received))
                answer = await w.get("/echo")
                assert (answer.status, answer.json()["code"]) == (429, "too_many_requests")
                assert answer.values(b"retry-after") == [b"1"]
            while (await w.get("/echo")).status == 429:
                pass  # until the server has noticed that the stream's visitor left
            assert (await w.get("/echo")).status == 200


@pytest.mark.parametrize(
    ("limits", "status", "code"),
    [
        (Limits(sockets_per_subject=2), 429, "too_many_requests"),
        (Limits(sockets_per_preview=2), 503, "preview_busy"),
        (Limits(sockets=2), 503, "server_busy"),
        (Limits(handshakes_per_minute=2), 429, "too_many_requests"),
    ],
)
async def test_w11_a_socket_too_many_is_refused_before_anything_is_dialled(
    limits: Limits, status: int, code: str
) -> None:
    async with world(policy=Policy(limits=limits)) as w:
        with anyio.fail_after(20):
            async with dial(w), dial(w):
                handshakes = len(w.dev.received)
                with pytest.raises(InvalidStatus) as refusal:
                    async with dial(w):
                        pass
                response = refusal.value.response
                assert (response.status_code, response.headers["retry-after"]) == (status, "1")
                assert code.encode() in response.body
                assert len(w.dev.received) == handshakes
                assert (await w.get("/echo")).status == 200  # requests have a room of their own


async def test_w11_ten_thousand_that_were_broken_off_anyhow_leave_no_count(caplog: pytest.LogCaptureFixture) -> None:
    door = Door()
    chance, gone = random.Random(1), {"http": "http.disconnect", "websocket": "websocket.disconnect"}
    headers = [(b"origin", b"https://" + HOST.encode()), *gate_cookie(door.gate())]

    async def one(kind: str) -> None:
        fails_at, cancelled_at = chance.choice([1, 2, 99]), chance.choice([1, 2, 99])
        asked = 0

        async def receive() -> Message:
            nonlocal asked
            asked += 1
            if asked == 1:
                return {"type": "websocket.connect" if kind == "websocket" else "http.request"}
            if chance.random() < 0.5:
                await anyio.sleep_forever()
            return {"type": gone[kind]}

        async def send(message: Message) -> None:
            nonlocal fails_at, cancelled_at
            fails_at, cancelled_at = fails_at - 1, cancelled_at - 1
            if not fails_at:
                raise ConnectionResetError
            if not cancelled_at:
                raise asyncio.CancelledError

        with suppress(asyncio.CancelledError):
            await door.proxy(scope_of(kind, host=HOST, headers=headers), receive, send)

    caplog.set_level("CRITICAL", "preview_proxy")
    for _ in range(100):
        running = [asyncio.create_task(one(chance.choice(["http", "websocket"]))) for _ in range(100)]
        for _ in range(chance.randrange(5)):
            await anyio.lowlevel.checkpoint()
        for task in chance.sample(running, 20):
            task.cancel()
        await asyncio.wait(running)
    rooms = door.proxy._occupancy
    assert (rooms.http.taken, rooms.websocket.taken) == (0, 0)
    assert not any(count[0] for room in (rooms.http, rooms.websocket) for count in room._counts.values())
    assert len(door.proxy._live) == 0


async def test_w11_sockets_that_come_and_go_on_the_wire_leave_no_count() -> None:
    async with world() as w:
        rooms = w.proxy._occupancy

        async def come_and_go() -> None:
            for number in range(10):
                async with dial(w) as socket:
                    if number % 2:
                        socket.transport.abort()

        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(come_and_go)
            await until(lambda: rooms.websocket.taken == 0)
        assert len(w.dev.websockets) == 200
        assert not any(count[0] for count in rooms.websocket._counts.values())


async def test_pitfall_77_one_session_loads_1500_modules_over_100_streams() -> None:
    """As a browser over HTTP/2 would: a hundred requests at a time, of one page."""
    statuses: list[int] = []
    async with world() as w:

        async def load(numbers: range) -> None:
            async with await anyio.connect_tcp("127.0.0.1", w.port) as stream:
                for number in numbers:
                    await stream.send(w.request(f"/bytes/{number}"))
                    answer = await read_answer(stream)
                    statuses.append(answer.status)
                    assert len(answer.body) == number

        with anyio.fail_after(120):
            async with anyio.create_task_group() as group:
                for first in range(100):
                    group.start_soon(load, range(first, 1500, 100))
    assert statuses == [200] * 1500


async def test_pitfall_77_a_module_that_the_edge_was_asked_for_too_soon_comes_a_little_later() -> None:
    async with world() as w:
        w.nullspace.set_rate_limit(3, 1)
        with anyio.fail_after(20):
            answers = [await w.get("/echo") for _ in range(5)]
    assert [answer.status for answer in answers] == [200] * 5
    verdicts = [request.verdict for request in w.nullspace.edge_requests]
    assert verdicts.count("served") == 5
    assert verdicts.count("rate_limit_exceeded") == 1


async def test_pitfall_77_what_is_unsafe_or_has_to_wait_for_long_is_told_so_at_once() -> None:
    async with world() as w:
        w.nullspace.set_rate_limit(0, 7)
        for method in ("GET", "POST"):
            answer = await w.get("/echo", method=method, headers={"Origin": w.origin})
            assert (answer.status, answer.json()["code"]) == (429, "rate_limit_exceeded")
            assert answer.values(b"retry-after") == [b"7"]
        w.nullspace.set_rate_limit(0, 1)
        answer = await w.get("/echo", method="POST", headers={"Origin": w.origin})
        assert (answer.status, answer.values(b"retry-after")) == (429, [b"1"])
        assert len(w.nullspace.edge_requests) == 3
        assert (await w.get("/echo")).status == 429  # it waits once, not for ever
        assert len(w.nullspace.edge_requests) == 5


# --- P-18: sizes ---------------------------------------------------------------------------------------------------


def of_size(w: World, *, fields: int = 0, size: int = 0) -> dict[str, str]:
    """Header fields that bring a request to that many fields or bytes of names and values."""
    own = {"Host": w.host, "Cookie": f"pp-development={w.gate}"}
    if fields:
        return {f"X-{number}": "x" for number in range(fields - len(own))}
    left = size - sum(len(name) + len(value) for name, value in own.items())
    return {"X-Half": "x" * (left // 2 - 6), "X-Rest": "x" * (left - left // 2 - 6)}


async def test_p18_each_default_holds_at_its_edge_on_the_wire() -> None:
    async with world(policy=Policy(limits=Limits(body_bytes=1000))) as w:
        for beyond, status in ((0, 200), (1, 431)):
            assert (await w.get("/echo", headers=of_size(w, fields=100 + beyond))).status == status
            assert (await w.get("/echo", headers=of_size(w, size=32 * 1024 + beyond))).status == status
        for beyond, status in ((0, 404), (1, 414)):  # there is no such file
            assert (await w.get("/" + "x" * (8 * 1024 - 1 + beyond))).status == status
        for beyond, status in ((0, 200), (1, 414)):
            assert (await w.get("/echo?" + "x" * (16 * 1024 + beyond))).status == status
        for beyond, status in ((0, 200), (1, 413)):
            length = 1000 + beyond
            head = w.request("/echo", method="POST", headers={"Origin": w.origin, "Content-Length": str(length)})
            assert (await w.raw(head + bytes(length))).status == status


async def test_p18_w07_a_message_of_the_largest_size_passes_and_no_larger_one() -> None:
    async with world(policy=Policy(limits=Limits(message_bytes=1000))) as w:
        with anyio.fail_after(20):
            async with dial(w) as socket:
                for message in ("x" * 1000, bytes(1000), "é" * 500):
                    await socket.send(message)
                    assert await socket.recv() == message
            for message in ("x" * 1001, bytes(1001), "é" * 500 + "x"):
                async with dial(w) as socket:
                    await socket.send(message)
                    assert (await closed(socket))[0] == 1009


# --- V-06: machines that are not there -----------------------------------------------------------------------------


async def test_v06_a_dead_machine_is_not_dialled_for_each_request_and_comes_back() -> None:
    async with DevServer() as gone:
        port = gone.port
    alive = Preview(OTHER, 3000)

    def provider(_: object) -> Static:
        dead = fixed_target(f"http://127.0.0.1:{port}", allow_insecure_loopback=True)
        other = fixed_target(f"http://127.0.0.1:{second.port}", allow_insecure_loopback=True)
        return Static({Preview(MACHINE, 3000): dead, alive: other})

    async with AsyncExitStack() as stack:
        second = await stack.enter_async_context(DevServer())
        w = await stack.enter_async_context(world(provider=provider))
        stack.enter_context(anyio.fail_after(30))
        answers = [await w.get("/echo") for _ in range(FAILURES + 1)]
        assert [answer.status for answer in answers] == [502] * FAILURES + [503]
        assert answers[-1].json()["code"] == "upstream_unavailable"
        assert answers[-1].values(b"retry-after") in ([b"1"], [b"2"])
        with pytest.raises(InvalidStatus) as refusal:
            async with dial(w):
                pass
        assert refusal.value.response.status_code == 503
        assert (await on_other(w)).status == 200
        back = await stack.enter_async_context(DevServer(port=port))
        while (answer := await w.get("/echo")).status == 503:
            pass
        assert answer.status == 200
        assert len(back.received) == 1


@pytest.mark.parametrize("status", [404, 429, 500, 502, 503, 504])
async def test_v06_what_the_app_answers_is_no_failure(status: int) -> None:
    async with world() as w:
        for _ in range(2 * FAILURES):
            assert (await w.get(f"/status/{status}")).status == status


async def test_v07_the_apps_own_retry_after_passes_as_it_is() -> None:
    async with world() as w:
        for value in ("3600", "Fri, 31 Dec 2027 23:59:59 GMT"):

            @w.dev.route("/later")
            async def later(request: Any, response: Any, value: str = value) -> None:
                await response.send(503, [("Retry-After", value), ("Content-Type", "text/plain")], b"the app's own")

            answer = await w.get("/later")
            assert (answer.status, answer.body) == (503, b"the app's own")
            assert answer.values(b"retry-after") == [value.encode()]


@pytest.mark.parametrize(("given", "sent"), [(None, 5), (0, 5), (1, 1), (300, 300), (301, 5), (99999999, 5), (2.5, 5)])
def test_v07_ours_is_1_to_300_seconds(given: Any, sent: int) -> None:
    assert LimitExceeded("preview_busy", retry_after=given).retry_after == sent
