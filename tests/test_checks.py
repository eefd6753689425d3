from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from traceback import TracebackException
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from preview_proxy.checks import check
from preview_proxy.errors import CheckFailed, NotFound

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


CANARY = "canary-0123456789"


async def test_an_answer_comes_through() -> None:
    async def ask() -> str:
        return "yes"

    assert await check(ask(), timeout=5, what="authorize") == "yes"


async def with_a_timeout() -> str:
    with anyio.fail_after(5):
        await anyio.lowlevel.checkpoint()
        return "yes"


async def with_tasks() -> str:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.lowlevel.checkpoint)
    return "yes"


async def with_a_lock() -> str:
    async with anyio.Lock():
        return await anyio.to_thread.run_sync(lambda: "yes")


async def after_waiting() -> str:
    await anyio.lowlevel.checkpoint()
    return await with_a_timeout()


@pytest.mark.parametrize("ask", [with_a_timeout, with_tasks, with_a_lock, after_waiting])
async def test_a_check_may_wait_as_it_likes(ask: Callable[[], Coroutine[Any, Any, str]]) -> None:
    assert await check(ask(), timeout=5, what="authorize") == "yes"


async def raise_text() -> None:
    token = "canary-" + "0123456789"
    raise RuntimeError(f"bad token {token}")


async def raise_group() -> None:
    raise ExceptionGroup("several", [RuntimeError(CANARY)])


async def raise_timeout() -> None:
    raise TimeoutError(CANARY)


async def raise_unnamed() -> None:
    raise type("Strange", (Exception,), {})(CANARY)


@pytest.mark.parametrize(
    ("ask", "name"),
    [
        (raise_text, "RuntimeError"),
        (raise_group, "ExceptionGroup"),
        (raise_timeout, "TimeoutError"),
        (raise_unnamed, "Strange"),
    ],
)
async def test_a01_a_check_that_raises_has_failed_and_only_its_class_is_told(
    ask: Callable[[], Coroutine[Any, Any, None]], name: str
) -> None:
    with pytest.raises(CheckFailed) as caught:
        await check(ask(), timeout=5, what="the router")
    assert caught.value.detail == f"the router failed with {name}"
    assert caught.value.__cause__ is caught.value.__context__ is None
    told = "".join(TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert CANARY not in told


async def test_a01_a_check_that_hangs_has_failed() -> None:
    ended = anyio.Event()

    async def hang() -> bool:
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()
        return True

    with anyio.fail_after(5), pytest.raises(CheckFailed) as caught:
        await check(hang(), timeout=0.01, what="authorize")
    assert caught.value.detail == "authorize failed with TimeoutError"
    assert caught.value.__context__ is None
    assert ended.is_set()


@pytest.mark.parametrize("answer", [True, None, 5])
async def test_a01_what_cannot_be_awaited_has_failed(answer: Any) -> None:
    with pytest.raises(CheckFailed, match=r"failed with (Type|Attribute)Error"):
        await check(answer, timeout=5, what="authorize")


async def test_an_error_of_ours_comes_through_as_it_is() -> None:
    error = NotFound(detail="no row")

    async def refuse() -> None:
        raise error

    with pytest.raises(NotFound) as caught:
        await check(refuse(), timeout=5, what="authorize")
    assert caught.value is error
    assert caught.value.__context__ is None


async def test_a_cancelled_visit_is_not_a_failed_check() -> None:
    with anyio.move_on_after(0.01) as scope:
        await check(anyio.sleep_forever(), timeout=5, what="authorize")
    assert scope.cancelled_caught


async def cancelled_at_once() -> None:
    raise asyncio.CancelledError


async def cancelled_later() -> None:
    await anyio.lowlevel.checkpoint()
    raise asyncio.CancelledError


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("ask", [cancelled_at_once, cancelled_later])
async def test_a01_a_cancellation_that_the_code_leaks_is_no_answer(
    ask: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    with pytest.raises(CheckFailed, match="authorize was cancelled"):
        await check(ask(), timeout=5, what="authorize")


async def test_a_cancellation_of_whoever_asks_is_not_swallowed() -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await check(anyio.sleep_forever(), timeout=5, what="authorize")
    assert scope.cancelled_caught
