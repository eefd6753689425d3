"""Asking the customer's own code: within a time, and failing closed."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar, cast

import anyio

from preview_proxy import event_loop
from preview_proxy.errors import CheckFailed, PreviewProxyError

T = TypeVar("T")


async def check(question: Coroutine[Any, Any, T], *, timeout: float, what: str) -> T:  # noqa: ASYNC109 - part of the promise
    """The answer. Raises `CheckFailed` if the code raises, or does not answer in `timeout` seconds.

    One of our own errors comes through as it is. Of any other, only the class is named: its text, and the frames
    behind it, may hold the visitor's credential.
    """
    failure: PreviewProxyError
    try:
        if not event_loop.is_asyncio():
            with anyio.fail_after(timeout):
                return await question
        try:
            # most answers come without waiting, and then a deadline would cost more than the question
            waited_for = question.send(None)
        except StopIteration as answered:
            return cast("T", answered.value)
        # not an anyio scope: those close in order, and the question may have opened one of its own by now
        async with asyncio.timeout(timeout):
            return await _rest(question, waited_for)
    except PreviewProxyError as ours:
        failure = ours
    except asyncio.CancelledError:
        if event_loop.is_cancelled():
            raise
        failure = CheckFailed(detail=f"{what} was cancelled")
    except Exception as error:
        failure = CheckFailed(detail=f"{what} failed with {type(error).__name__}")
    raise failure


@types.coroutine
def _rest(question: Coroutine[Any, Any, T], waited_for: Any) -> Generator[Any, Any, T]:
    """Await what is left of a coroutine that has been started by hand and waits for `waited_for`."""
    while True:
        try:
            reply = yield waited_for
        except BaseException as thrown:
            cause: BaseException | None = thrown
        else:
            cause = None
        try:
            waited_for = question.send(reply) if cause is None else question.throw(cause)
        except StopIteration as answered:
            return cast("T", answered.value)
