"""Where a ticket's one use is remembered."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from preview_proxy import tickets as module
from preview_proxy.core.models import Preview
from preview_proxy.errors import CheckFailed, ConfigurationError
from preview_proxy.tickets import MemoryTicketStore, Tickets
from tests.test_tickets import APP, SECRET, SESSION, Clock, exchange, issue, refused

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WEB_CONCURRENCY", raising=False)


@pytest.fixture
def clock() -> Clock:
    return Clock()


# --- stores --------------------------------------------------------------------------------------------------------


class Store:
    """A store that does what a test says."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[float] = []

    async def consume(self, ticket_id: str, expires_at: float) -> bool:
        self.asked.append(expires_at)
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is ...:
            await anyio.sleep_forever()
        return self.answer  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (ConnectionError("canary"), "ConnectionError"),
        (..., "TimeoutError"),
        (None, "NoneType"),
        (1, "int"),
        ("OK", "str"),
    ],
)
async def test_v10_a_store_that_does_not_say_yes_or_no_fails_closed(
    answer: object, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STORE_TIMEOUT", 0.01)
    tickets = Tickets(SECRET, [APP], store=Store(answer))
    with anyio.fail_after(5), pytest.raises(CheckFailed, match=f"Store.consume failed with {named}") as caught:
        await exchange(tickets, issue(tickets))
    assert caught.value.status == 503
    assert caught.value.__context__ is None and "canary" not in str(caught.value)


async def test_e05_only_a_ticket_that_holds_reaches_the_store(clock: Clock) -> None:
    store = Store(True)
    tickets = Tickets(SECRET, [APP], store=store, clock=clock)
    await refused(tickets, issue(tickets), embedder="https://evil.test")
    await refused(tickets, issue(tickets), preview=Preview("other", 1))
    assert store.asked == []
    await exchange(tickets, issue(tickets))
    assert store.asked == [1_800_000_030]


async def test_v10_the_memory_store_says_yes_once_and_forgets_after_expiry(clock: Clock) -> None:
    store = MemoryTicketStore(clock)
    assert await store.consume("canary-late", clock.now + 20)
    assert await store.consume("canary-early", clock.now + 10)
    assert not await store.consume("canary-early", clock.now + 10)
    assert "canary" not in str(vars(store))
    clock.now += 10
    assert not await store.consume("canary-late", clock.now + 20)
    assert await store.consume("canary-early", clock.now + 10)
    clock.now += 10
    assert await store.consume("canary-late", clock.now + 20)


async def test_v10_a_full_memory_store_refuses_rather_than_forgets(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_LIVE_TICKETS", 2)
    tickets = Tickets(SECRET, [APP], clock=clock)
    spent = issue(tickets)
    await exchange(tickets, spent)
    await exchange(tickets, issue(tickets))
    with pytest.raises(CheckFailed, match=r"MemoryTicketStore\.consume failed with RuntimeError"):
        await exchange(tickets, issue(tickets))
    assert await refused(tickets, spent) == "it was spent before"
    clock.now += 30
    assert await exchange(tickets, issue(tickets)) == SESSION


@pytest.mark.parametrize("store", [None, MemoryTicketStore()])
def test_v10_several_workers_may_not_remember_tickets_each_for_itself(
    store: MemoryTicketStore | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    with pytest.raises(ConfigurationError, match=r"WEB_CONCURRENCY is 4.*store=.*or run one worker"):
        Tickets(SECRET, [APP], store=store)
    Tickets(SECRET, [APP], store=Store(True))


@pytest.mark.parametrize("workers", ["", "1", "auto"])
def test_v10_one_worker_may(workers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", workers)
    Tickets(SECRET, [APP])
