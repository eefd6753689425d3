"""What holds for one worker holds for several, as long as Redis does; without it nobody is let in."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from websockets.asyncio.client import ClientConnection

from preview_proxy import RedisState, Session, Tickets
from preview_proxy.tickets import MemoryTicketStore
from tests.redis_server import redis_server
from tests.several_workers.deployment import HOW, ROOT, Deployment, deployment
from tests.several_workers.racer import EMBEDDER, ORIGIN, PREVIEW
from tests.transports.test_relay_websocket import closed
from tests.world import MACHINE, SECRET

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]
RACED = 10_000
BATCH = 1000


@pytest.fixture(params=HOW)
async def d(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Deployment]:
    async with deployment(request.param, tmp_path) as made:
        yield made


@contextlib.asynccontextmanager
async def sockets(d: Deployment, cookie: str) -> AsyncIterator[list[ClientConnection]]:
    """WebSockets, as many as it takes for each worker to have one."""
    async with contextlib.AsyncExitStack() as stack:
        found: list[ClientConnection] = []
        while min(worker["open"] for worker in (await d.workers()).values()) == 0:
            for port in d.ports:
                found.append(await stack.enter_async_context(d.dial(cookie, port)))
        yield found


async def test_v10_one_ticket_opens_one_gate_whichever_worker_is_asked(d: Deployment) -> None:
    with anyio.fail_after(120):
        for round_ in range(50):
            ticket = await d.ticket(f"user-{round_}")
            statuses: list[int] = []

            async def exchange(port: int, ticket: str = ticket, statuses: list[int] = statuses) -> None:
                statuses.append((await d.exchange(ticket, port)).status_code)

            async with anyio.create_task_group() as group:
                for port in (d.ports * 4)[:4]:
                    group.start_soon(exchange, port)
            assert sorted(statuses) == [204, 403, 403, 403]


async def test_v10_two_processes_race_ten_thousand_tickets_and_each_has_one_winner(tmp_path: Path) -> None:
    desk = Tickets(SECRET, [EMBEDDER], store=MemoryTicketStore())
    async with redis_server(tmp_path, durable=False) as redis, contextlib.AsyncExitStack() as stack:
        stack.enter_context(anyio.fail_after(200))
        racers = []
        for _ in range(2):
            command = [sys.executable, "-m", "tests.several_workers.racer", redis.url]
            racer = await stack.enter_async_context(await anyio.open_process(command, cwd=ROOT, stderr=None))
            racers.append((racer, lines(racer)))
        assert [await anext(said) for _, said in racers] == ["ready", "ready"]
        async with contextlib.aclosing(RedisState(redis.url, secret=SECRET)) as state:
            await state.consume("the first, with which the memory begins", time.time() + 60)
        won = [0, 0]
        for _ in range(RACED // BATCH):
            session = Session("ada")
            batch = [desk.issue(origin=ORIGIN, preview=PREVIEW, session=session) for _ in range(BATCH)]
            for racer, _ in racers:
                assert racer.stdin is not None
                await racer.stdin.send(" ".join(batch).encode() + b"\n")
            first, second = [await anext(said) for _, said in racers]
            assert len(first) == len(second) == BATCH
            assert {one + other for one, other in zip(first, second, strict=True)} <= {"10", "01"}
            won[0] += first.count("1")
            won[1] += second.count("1")
        assert sum(won) == RACED and min(won) > 0
        for racer, _ in racers:
            assert racer.stdin is not None
            await racer.stdin.aclose()
            assert await racer.wait() == 0


async def lines(process: anyio.abc.Process) -> AsyncIterator[str]:
    assert process.stdout is not None
    rest = b""
    async for chunk in process.stdout:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode()


async def test_a07_v10_a_revocation_in_one_worker_ends_what_is_open_in_the_other(d: Deployment) -> None:
    with anyio.fail_after(120):
        ada, eve = await d.sign_in("ada"), await d.sign_in("eve")
        async with sockets(d, ada) as of_ada, sockets(d, eve) as of_eve:
            await d.ask("POST", "/revoke?subject=ada")
            # `authorize` goes on saying yes, so nothing but the revocation ends them
            assert {await closed(socket) for socket in of_ada} == {(4401, "not_signed_in")}
            await d.everywhere(ada, 401)
            await d.everywhere(eve, 200)
            for socket in of_eve:
                await socket.send("still there")
                assert await socket.recv() == "still there"


async def test_v04_workers_mint_once_for_all(d: Deployment) -> None:
    with anyio.fail_after(120):
        gate = await d.sign_in("ada")
        async with anyio.create_task_group() as group:
            for port in d.ports * 10:
                group.start_soon(d.get, gate, port)
        while not all(worker["targets"] for worker in (await d.workers()).values()):
            for port in d.ports:
                assert await d.get(gate, port) == 200
        assert d.nullspace.mints == 1
        assert [worker["targets"] for worker in (await d.workers()).values()] == [list(d.nullspace.grants)] * 2


async def test_v10_redis_dies_and_comes_back_and_nothing_is_lost(d: Deployment) -> None:
    with anyio.fail_after(200):
        spent = await d.ticket("ada")
        await d.exchange(spent)
        ada, eve, revoked = await d.sign_in("ada"), await d.sign_in("eve"), await d.sign_in("mallory")
        await d.ask("POST", "/revoke?subject=mallory")
        await d.everywhere(revoked, 401)
        unspent = await d.ticket("grace")
        async with sockets(d, ada) as open_:
            d.redis.kill()
            for port in d.ports:
                assert (await d.exchange(unspent, port)).status_code == 503
            await d.everywhere(ada, 503)
            await d.ask("POST", "/revoke?subject=eve")  # one worker knows; the others cannot be told yet
            assert {await closed(socket) for socket in open_} == {(4503, "check_failed")}
        await d.redis.start()
        await d.everywhere(ada, 200)
        await d.everywhere(eve, 401)
        await d.everywhere(revoked, 401)
        for port in d.ports:
            assert (await d.exchange(spent, port)).status_code == 403
        assert await d.get(await d.sign_in("grace")) == 200


async def test_h14_what_is_in_redis_tells_nobody_anything(d: Deployment) -> None:
    with anyio.fail_after(120):
        ticket = await d.ticket("canary-subject")
        gate = (await d.exchange(ticket)).headers["set-cookie"].partition(";")[0].partition("=")[2]
        assert await d.get(f"pp-development={gate}") == 200
        await d.ask("POST", "/revoke?subject=canary-subject")
        kinds = (b"epoch", b"revocations", b"target", b"ticket")
        dumped = b""
        while not all(b"preview-proxy:" + kind in dumped for kind in kinds):  # one is published in the background
            dumped = await d.redis.dump()
    [grant] = d.nullspace.grants.values()
    secrets = [*grant.tokens.values(), d.nullspace.api_key, ticket, gate, SECRET]
    for word in [*secrets, grant.id, "canary-subject", "canary-login", MACHINE, d.nullspace.edge_domain]:
        assert word.encode() not in dumped, word
