"""A wire between a provider and its API: it writes answers down, and plays them back with a fault in one of them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import anyio
import httpx

from preview_proxy.core.models import RawHeaders
from preview_proxy.providers.answers import json_document

T = TypeVar("T")


class Answer(NamedTuple):
    """A response of the API, whole."""

    status: int
    headers: RawHeaders
    body: bytes

    def response(self) -> httpx.Response:
        return httpx.Response(self.status, headers=list(self.headers), stream=httpx.ByteStream(self.body))

    def having(self, name: bytes, value: bytes) -> Answer:
        """It with one more header field."""
        return self._replace(headers=(*self.headers, (name, value)))


Fault = Callable[[httpx.Request, Answer], httpx.Response]
"""What stands in an answer's place; it may raise instead."""


class Flood(httpx.AsyncByteStream):
    """A body without an end."""

    sent = 0
    closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            await anyio.lowlevel.checkpoint()
            self.sent += 16 * 1024
            yield b" " * (16 * 1024)

    async def aclose(self) -> None:
        self.closed = True


class Wire(httpx.AsyncBaseTransport):
    """Passes the provider's calls on to `far_end`, until told to play the recorded answers."""

    def __init__(self, far_end: httpx.AsyncBaseTransport) -> None:
        self._far_end = far_end
        self._recording = False
        self._fault: Fault | None = None
        self._flood: Flood | None = None
        self._at: int | None = None
        self._hangs: int | None = None
        self.tape: list[Answer] = []
        self.calls = 0
        self.hanging = anyio.Event()

    async def record(self, operation: Awaitable[T]) -> T:
        """Await `operation`, and keep the answers that it got."""
        self.calls, self._recording, self.tape = 0, True, []
        try:
            return await operation
        finally:
            self._recording = False

    def play(self, call: int, fault: Fault) -> None:
        """From now on play the tape, with `fault` in place of one call's answer."""
        self.calls, self._at, self._fault, self._flood = 0, call, fault, None

    def play_flood(self, call: int) -> Flood:
        """The same with a body that never ends."""
        flood = self._flood = Flood()
        self.calls, self._at, self._fault = 0, call, None
        return flood

    def hang(self, call: int) -> None:
        """Let one call have no answer."""
        self.calls, self._hangs = 0, call

    def live(self) -> None:
        """Ask the far end again."""
        self.calls, self._hangs, self._at = 0, None, None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        call, self.calls = self.calls, self.calls + 1
        if call == self._hangs:
            self.hanging.set()
            await anyio.sleep_forever()
        if self._at is not None:
            return self._played(request, call)
        response = await self._far_end.handle_async_request(request)
        if not self._recording:
            return response
        try:
            body = await response.aread()
        finally:
            await response.aclose()
        answer = Answer(response.status_code, tuple(response.headers.raw), body)
        self.tape.append(answer)
        return answer.response()

    def _played(self, request: httpx.Request, call: int) -> httpx.Response:
        # a provider that asks again after a fault gets the last answer over and over
        answer = self.tape[min(call, len(self.tape) - 1)]
        if call != self._at:
            return answer.response()
        if self._flood is not None:
            return httpx.Response(answer.status, headers=[(b"content-type", b"application/json")], stream=self._flood)
        assert self._fault is not None  # noqa: S101 - `play` has set it
        return self._fault(request, answer)

    async def aclose(self) -> None:
        """Nothing: the far end belongs to whoever made it."""


def _raising(kind: type[Exception]) -> Fault:
    """An exception whose text repeats the request's head, as some libraries' do."""

    def fault(request: httpx.Request, answer: Answer) -> httpx.Response:
        raise kind(str(list(request.headers.raw)))

    return fault


def _status(status: int, *headers: tuple[bytes, bytes]) -> Fault:
    """An error whose body repeats the request's head, in a form that many APIs have."""

    def fault(request: httpx.Request, answer: Answer) -> httpx.Response:
        told = dict(request.headers)
        body = json.dumps({"error": told, "code": "unheard_of", "message": str(told)}).encode()
        return Answer(status, ((b"content-type", b"application/json"), *headers), body).response()

    return fault


def other_body(body: bytes) -> Fault:
    """The answer with another body."""
    return lambda request, answer: answer._replace(body=body).response()


FAULTS: dict[str, Fault] = {
    **{
        kind.__name__: _raising(kind)
        for kind in (
            httpx.ConnectError,
            httpx.ConnectTimeout,
            httpx.ReadTimeout,
            httpx.RemoteProtocolError,
            OSError,
            TimeoutError,
            ValueError,
        )
    },
    **{f"status {status}": _status(status) for status in (400, 401, 402, 403, 404, 409, 410, 418, 500, 502, 503, 504)},
    "status 429": _status(429, (b"retry-after", b"7")),
    "status 503 with a foolish Retry-After": _status(503, (b"retry-after", b"9" * 40)),
    "a redirect": _status(302, (b"location", b"https://attacker.example/")),
    "no body": other_body(b""),
    "HTML": other_body(b"<!doctype html><title>Maintenance</title>"),
    "null": other_body(b"null"),
    "a list": other_body(b"[]"),
    "an empty object": other_body(b"{}"),
    "bytes that are no text": other_body(b"\xff" * 100),
    "brackets without end": other_body(b"[" * 60_000),
    "a body of 4 MiB": other_body(b'{"padding": "' + b"x" * 4 * 1024 * 1024 + b'"}'),
    "an encoding unasked for": lambda request, answer: answer.having(b"content-encoding", b"br").response(),
}

# What a changed API, or a hostile one, may put in a field's place.
_ODD: tuple[object, ...] = (
    None,
    True,
    -1,
    10**30,
    "",
    "x",
    "x" * 10_000,
    "two\r\nlines: of a header",
    "https://attacker.example/",
    "2001-01-01T00:00:00Z",
    [],
    {},
)


def mutations(body: bytes) -> Iterator[tuple[str, bytes]]:
    """JSON answers with one field gone or of another value, at every place; nothing for other bodies."""
    document = json_document(body)
    for path in list(_paths(document)):
        yield f"{path} gone", json.dumps(_without(document, path)).encode()
        for value in _ODD:
            yield f"{path} = {str(value)[:40]!r}", json.dumps(_with(document, path, value)).encode()


def strings(body: bytes) -> Iterator[str]:
    """Every string in a JSON answer; nothing for other bodies."""
    document = json_document(body)
    for path in _paths(document):
        if isinstance(found := _at(document, path), str):
            yield found


Path = tuple[str | int, ...]


def _paths(document: Any, path: Path = ()) -> Iterator[Path]:
    items = (
        document.items() if isinstance(document, dict) else enumerate(document if isinstance(document, list) else [])
    )
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from _paths(value, (*path, key))


def _at(document: Any, path: Path) -> Any:
    for key in path:
        document = document[key]
    return document


def _with(document: Any, path: Path, value: object) -> Any:
    """A copy with another value at `path`."""
    if not path:
        return value
    copy = document.copy()
    copy[path[0]] = _with(document[path[0]], path[1:], value)
    return copy


def _without(document: Any, path: Path) -> Any:
    """A copy without what is at `path`."""
    copy = document.copy()
    if len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = _without(document[path[0]], path[1:])
    return copy
