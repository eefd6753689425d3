"""Asking the customer's own code: within a time, and failing closed."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

import anyio

from preview_proxy.errors import CheckFailed, PreviewProxyError

T = TypeVar("T")


async def check(question: Awaitable[T], *, timeout: float, what: str) -> T:  # noqa: ASYNC109 - part of the promise
    """The answer. Raises `CheckFailed` if the code raises, or does not answer in `timeout` seconds.

    One of our own errors comes through as it is. Of any other, only the class is named: its text, and the frames
    behind it, may hold the visitor's credential.
    """
    failure: PreviewProxyError
    try:
        with anyio.fail_after(timeout):
            return await question
    except PreviewProxyError as ours:
        failure = ours
    except Exception as error:
        failure = CheckFailed(detail=f"{what} failed with {type(error).__name__}")
    raise failure
