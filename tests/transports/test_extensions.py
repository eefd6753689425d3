"""Early hints and trailers, where the ASGI server offers to send them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from preview_proxy.testing import Request, Response
from tests.world import OWNER, World, world

pytestmark = pytest.mark.anyio
BOTH: dict[str, dict[str, str]] = {"http.response.early_hint": {}, "http.response.trailers": {}}


@pytest.fixture
async def w() -> AsyncIterator[World]:
    async with world() as made:

        @made.dev.route("/both")
        async def both(_: Request, response: Response) -> None:
            link = "</a.css>; rel=preload, <http://localhost:3000/b.js>; rel=preload"
            await response.raw(f"HTTP/1.1 103 Early Hints\r\nLink: {link}\r\nSet-Cookie: x=1\r\n\r\n".encode())
            await response.raw(b"HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
            await response.raw(b"0\r\nX-Sum: 7\r\nSet-Cookie: evil=1\r\nContent-Type: a\r\nX-Nullspace-A: 1\r\n\r\n")

        @made.dev.route("/breaks")
        async def breaks(_: Request, response: Response) -> None:
            await response.raw(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")
            response.close()

        yield made


async def nothing() -> dict[str, Any]:
    await anyio.sleep_forever()
    raise AssertionError


async def visit(w: World, extensions: dict[str, Any], path: str, send: Any) -> None:
    """A request to a server with these extensions, whose visitor stays."""
    scope = {
        "type": "http", "method": "GET", "scheme": "http", "http_version": "1.1",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "client": ("127.0.0.1", 1), "extensions": extensions,
        "headers": [(b"host", w.host.encode()), (b"cookie", f"pp-development={w.gate}".encode())],
    }  # fmt: skip
    with anyio.fail_after(5):
        await w.proxy(scope, nothing, send)


async def ask(w: World, extensions: dict[str, Any], path: str = "/both") -> list[dict[str, Any]]:
    """Everything the proxy sends to such a server."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await visit(w, extensions, path, send)
    return sent


async def test_both_are_passed_on_where_they_are_offered(w: World) -> None:
    hint, start, *body, trailers = await ask(w, BOTH)
    assert hint == {
        "type": "http.response.early_hint",
        "links": [f"</a.css>; rel=preload, <{w.origin}/b.js>; rel=preload".encode()],
    }
    assert (start["status"], start["trailers"]) == (200, True)
    assert b"".join(message["body"] for message in body) == b"ok"
    assert trailers == {"type": "http.response.trailers", "headers": [(b"x-sum", b"7")], "more_trailers": False}


async def test_a_failure_after_a_hint_is_still_answered(w: World) -> None:
    hint, start, *_ = await ask(w, BOTH, "/breaks")
    assert hint["type"] == "http.response.early_hint"
    assert start["status"] == 502


async def test_neither_is_sent_where_it_is_not(w: World) -> None:
    messages = await ask(w, {})
    assert {message["type"] for message in messages} == {"http.response.start", "http.response.body"}
    assert "trailers" not in messages[0]


async def test_w13_a_hint_that_the_server_does_not_take_ends_with_its_relay(w: World) -> None:
    begun, ended = anyio.Event(), anyio.Event()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.early_hint":
            begun.set()
            try:
                await anyio.sleep_forever()
            finally:
                ended.set()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(visit, w, BOTH, "/both", send)
            await begun.wait()
            assert w.proxy.revoke(subject=OWNER) == 1
        await ended.wait()
