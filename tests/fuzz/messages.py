"""Targets for whole heads and for what comes as a stream: frames, and responses on a connection."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any, cast

import h11
from httpx import HTTPError

from preview_proxy.core.frames import Close, close_payload
from preview_proxy.core.models import Outbound
from preview_proxy.core.policy import Limits
from preview_proxy.core.websocket import outgoing_close
from preview_proxy.transports.connection import Connection
from preview_proxy.transports.request import NO_BODY, UpstreamRequest
from preview_proxy.transports.response import PooledResponse
from tests.core import test_frames, test_plan, test_plan_response, test_snapshot
from tests.fuzz.values import choice, property_of
from tests.transports import test_request

_request = property_of(test_plan.test_h05_no_request_emits_what_must_not_cross)
_head = property_of(test_request.test_p08_whatever_is_asked_the_head_names_one_upstream_and_holds_path_and_query)
_handshake = property_of(test_plan.test_w04_no_handshake_emits_what_must_not_cross)
_response = property_of(test_plan_response.test_r01_no_response_emits_what_must_not_cross)
_snapshot = property_of(test_snapshot.test_nothing_is_raised_but_rejections)
_frames = property_of(test_frames.test_any_bytes_are_the_same_events_however_they_are_cut)


def _fields(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for line in lines for name, _, value in [line.partition(b":")]]


def request(data: bytes) -> None:
    """A method, a version, a path, a query and fields, a line each."""
    method, version, path, query, *lines = [*data.split(b"\n"), b"", b"", b""][: max(4, data.count(b"\n") + 1)]
    texts = method.decode("latin-1"), version.decode("latin-1")
    _snapshot(_fields(lines), texts[0], path, query, texts[1], "http")
    _snapshot(_fields(lines), "GET", path, query, "1.1", "websocket")
    _request(_fields(lines), *texts)
    _handshake(_fields(lines), query.decode("utf-8", "replace").split(","))
    if b"?" not in path:
        _head(_fields(lines), path, query)


def response(data: bytes) -> None:
    """A status and fields, a line each."""
    status, *lines = data.split(b"\n")
    _response(_fields(lines), int(status) if status.isdigit() and len(status) < 5 else 200, "GET")
    _response(_fields(lines), 200, "HEAD")


def frames(data: bytes) -> None:
    """A WebSocket server's bytes, whole and cut."""
    size, wire = choice(list(range(1, 64)), data)
    _frames(wire, size)


def close(data: bytes) -> None:
    """A close from the visitor's side, which goes on to upstream."""
    code, reason = int.from_bytes(data[:4]) if len(data) > 3 else None, data[4:].decode("utf-8", "surrogateescape")
    sent = outgoing_close(code, reason)
    assert test_frames.read(test_frames.frame(8, close_payload(*sent))) == [Close(*sent)]


class _Transport(asyncio.Transport):
    """What an `asyncio.Transport` does for a connection, with nothing behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.closing = False
        self.reading = True

    def write(self, data: object) -> None: ...

    def close(self) -> None:
        self.closing = True

    abort = close

    def is_closing(self) -> bool:
        return self.closing

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class _Loop:
    """A clock that stands still."""

    def time(self) -> float:
        return 0.0


_LIMITS = Limits()


class _Visit:
    """One exchange on a connection of its own, and what was told about it."""

    def __init__(self, method: str, pieces: list[bytes]) -> None:
        self.released = self.closed = 0
        self.informed: list[int] = []
        outbound = Outbound(method, test_plan.ENDPOINT, b"/", (), False, None)
        asked = UpstreamRequest(outbound, NO_BODY)
        asked.on_informational = lambda status, headers: self.informed.append(status)
        self.connection = Connection(
            cast("asyncio.AbstractEventLoop", _Loop()), release=self._release, closed=self._close
        )
        self.transport = _Transport()
        self.connection.connection_made(self.transport)
        self.answer = PooledResponse(self.connection, asked, _LIMITS)
        self.connection.start(self.answer, b"GET / HTTP/1.1\r\n\r\n")
        for piece in pieces:
            if not self.transport.closing:
                self.connection.data_received(piece)
        if not self.transport.closing:
            self.connection.eof_received()
        self.connection.connection_lost(None)

    def _release(self, connection: Connection) -> None:
        self.released += 1

    def _close(self, connection: Connection) -> None:
        self.closed += 1

    @property
    def seen(self) -> tuple[Any, ...]:
        """All that a reader can tell; of a head that is not whole, that it is not."""
        answer = self.answer
        if not answer.status_code:
            return 0, self.informed
        body = b"".join(answer._chunks)
        trailers = answer.trailers if answer.is_whole else []  # nobody asks for those of a body that broke off
        return answer.status_code, answer.raw_headers, body, trailers, answer.is_whole, self.informed


def _as_h11_reads_it(method: str, data: bytes) -> tuple[int, bytes] | None:
    """The first response, if that parser finds one and it is whole."""
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    client.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    client.receive_data(b"")
    status, body = 0, b""
    try:
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif event is h11.NEED_DATA or event is h11.PAUSED:
                return None
    except h11.RemoteProtocolError:
        return None
    return status, body


def connection(data: bytes) -> None:
    """An upstream's bytes after a request: settled in every case, and the same however they are cut."""
    (method, size), wire = choice([(method, size) for size in (1, 2, 3, 7, 50) for method in ("GET", "HEAD")], data)
    whole = _Visit(method, [wire])
    cut = _Visit(method, [wire[start:end] for start, end in pairwise([*range(0, len(wire), size), len(wire)])])
    for visit in (whole, cut):
        answer, upgraded = visit.answer, visit.connection.upgraded is not None
        assert visit.closed >= 1 and visit.released <= 1 and not visit.connection.is_open
        assert (answer.status_code == 101) is upgraded
        assert answer.status_code == 0 or upgraded or answer.status_code >= 200
        assert answer.is_whole or upgraded or isinstance(answer.failure, HTTPError)
    assert whole.seen == cut.seen
    read = _as_h11_reads_it(method, wire)
    if read is not None and whole.answer.is_whole:
        assert read == whole.seen[0:3:2]
