"""Load on one subject: wrk for many small requests, plain sockets for bulk, asyncio for many WebSockets."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import uvloop

from tests.bench.origin import message
from tests.bench.processes import LOAD_CORE, Unmeasured, bound_to, cpu_seconds, program

TIMEOUT = 20.0
_BUFFER = bytearray(1024 * 1024)
_BODY = bytes(1024 * 1024)
_ZERO_MASK = bytes(4)
_LUA = Path(__file__).with_name("wrk.lua")


@dataclass(frozen=True)
class Site:
    """How to reach one origin through a subject: its port on loopback, what goes before a path, and header fields."""

    port: int
    prefix: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)

    def head(self, method: str, path: str, **more: str) -> bytes:
        fields = {"Host": f"127.0.0.1:{self.port}", **self.headers, **more}
        lines = [f"{method} {self.prefix}{path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def handshake(self) -> bytes:
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
        return self.head("GET", "/socket/1", **upgrade, **key)


@dataclass(frozen=True)
class Subject:
    """A subject that is up. `files` leads to the origin of downloads, `live` to that of uploads and WebSockets.

    There is no `pid` where nothing is between load and origin.
    """

    name: str
    pid: int | None
    files: Site
    live: Site

    def cpu(self) -> float:
        """Seconds of CPU time so far."""
        return cpu_seconds(self.pid) if self.pid else 0.0


@dataclass(frozen=True)
class Done:
    """How much was done in which time, how much CPU time that took the subject, and wrk's median latency in µs."""

    count: int
    seconds: float
    cpu: float
    p50: float = 0.0


def get(subject: Subject, path: str, *, connections: int, seconds: float) -> Done:
    """GET over `connections` connections, for 5 seconds where nothing is answered in `seconds`."""
    done = _wrk(subject, path, connections, seconds)
    if not done.count:
        done = _wrk(subject, path, connections, 5)
    if not done.count:
        raise Unmeasured("not one answer in 5 seconds")
    return done


def _wrk(subject: Subject, path: str, connections: int, seconds: float) -> Done:
    """One run of wrk, which takes whole seconds only, so it is interrupted."""
    site = subject.files
    command = [program("wrk") or "wrk", "-t1", f"-c{connections}", "-d60s", "--timeout=10s", f"-s{_LUA}"]
    for name, value in site.headers.items():
        command += ["-H", f"{name}: {value}"]
    command.append(f"http://127.0.0.1:{site.port}{site.prefix}{path}")
    before = subject.cpu()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=bound_to(LOAD_CORE),
    )
    try:
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
        process.wait()
    return _done(output.decode(errors="replace"), subject.cpu() - before)


def _done(output: str, cpu: float) -> Done:
    try:
        seen = json.loads(output.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise Unmeasured(f"wrk: {output.strip()[-200:]}") from None
    requests, errors = seen["requests"], seen["errors"]
    if errors > requests / 100:
        raise Unmeasured(f"{errors} errors in {requests} requests")
    return Done(requests, seen["duration"] / 1e6, cpu, seen["p50"])


class Connection:
    """One HTTP/1.1 connection, blocking: the least that can be in the way."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._socket = socket.create_connection(("127.0.0.1", site.port), TIMEOUT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()

    def send(self, octets: bytes) -> None:
        self._socket.sendall(octets)

    def read_head(self, expected: int) -> tuple[bytes, bytes]:
        """The response head, in lower case, and what came with it."""
        read = b""
        while b"\r\n\r\n" not in read:
            more = self._socket.recv(65536)
            if not more:
                raise Unmeasured(f"the connection was closed after {read[:100]!r}")
            read += more
        head, _, rest = read.partition(b"\r\n\r\n")
        if head.split(b" ", 2)[1] != b"%d" % expected:
            raise Unmeasured(f"answered with {read[:200]!r}")
        return head.lower(), rest

    def skip(self, size: int, each: Callable[[], None] | None = None) -> None:
        """Read `size` bytes and forget them; call `each` about every 16 MiB."""
        read = told = 0
        while read < size:
            count = self._socket.recv_into(_BUFFER, min(len(_BUFFER), size - read))
            if not count:
                raise Unmeasured(f"the connection was closed {size - read} bytes early")
            read += count
            if each and read - told >= 16 * len(_BUFFER):
                told = read
                each()

    def download(self, path: str, size: int, each: Callable[[], None] | None = None) -> None:
        self.send(self.site.head("GET", path))
        head, rest = self.read_head(200)
        if b"\r\ncontent-length: %d" % size not in head:
            raise Unmeasured("the length was not relayed")
        self.skip(size - len(rest), each)

    def upload(self, size: int, each: Callable[[], None] | None = None) -> None:
        self.send(self.site.head("POST", "/sink", **{"Content-Length": str(size)}))
        for sent in range(0, size, len(_BODY)):
            self.send(_BODY)
            if each and sent % (16 * len(_BODY)) == 0:
                each()
        _, rest = self.read_head(200)
        if not rest.endswith(b"ok"):
            self.skip(2 - len(rest))


def repeat(subject: Subject, action: Callable[[], object], seconds: float) -> Done:
    """Do `action` again and again, for about `seconds`."""
    begun, cpu = time.perf_counter(), subject.cpu()
    count = 0
    while (elapsed := time.perf_counter() - begun) < seconds or not count:
        action()
        count += 1
    return Done(count, elapsed, subject.cpu() - cpu)


def echo(subject: Subject, size: int, seconds: float) -> Done:
    """Messages on one WebSocket, each sent when the one before it is back."""
    there, back = message(size, mask=_ZERO_MASK), len(message(size))
    with Connection(subject.live) as connection:
        connection.send(subject.live.handshake())
        connection.read_head(101)

        def once() -> None:
            connection.send(there)
            connection.skip(back)

        return repeat(subject, once, seconds)


class Socket(asyncio.Protocol):
    """One WebSocket. `opened` is resolved by the handshake; `start` sends a message for each that came back."""

    def __init__(self, site: Site, size: int) -> None:
        self._site = site
        self._there = message(size, mask=_ZERO_MASK)
        self._back = message(size)
        self._unread = b""
        self.received = 0
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by class
        self.transport.write(self._site.handshake())

    def data_received(self, data: bytes) -> None:
        if data == self._back:  # nearly always
            self.received += 1
            self.transport.write(self._there)
            return
        self._unread += data
        if not self.opened.done():
            self._open()
        elif self._unread.startswith(self._back):
            self._unread = self._unread[len(self._back) :]
            self.received += 1
            self.transport.write(self._there)

    def _open(self) -> None:
        head, end, rest = self._unread.partition(b"\r\n\r\n")
        if not end:
            return
        self._unread = rest
        if head.startswith(b"HTTP/1.1 101"):
            self.opened.set_result(None)
        else:
            self.opened.set_exception(Unmeasured(f"answered with {head[:100]!r}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if not self.opened.done():
            self.opened.set_exception(Unmeasured("closed before the handshake was over"))

    def start(self) -> None:
        self.transport.write(self._there)


async def _open_sockets(site: Site, count: int, size: int) -> list[Socket]:
    """`count` open WebSockets, 50 handshakes at a time."""
    loop = asyncio.get_running_loop()
    sockets: list[Socket] = []
    for begun in range(0, count, 50):
        batch = []
        for _ in range(min(50, count - begun)):
            _, opening = await loop.create_connection(lambda: Socket(site, size), "127.0.0.1", site.port)
            batch.append(opening)
        await asyncio.wait_for(asyncio.gather(*(opening.opened for opening in batch)), TIMEOUT)
        sockets += batch
    return sockets


async def _close(sockets: list[Socket]) -> None:
    lost = sum(each.closed for each in sockets)
    for each in sockets:
        each.transport.abort()
    await asyncio.sleep(0)
    if lost:
        raise Unmeasured(f"{lost} of {len(sockets)} WebSockets were closed")


def echo_many(subject: Subject, count: int, size: int, seconds: float) -> Done:
    """Messages on `count` WebSockets together, one under way on each."""

    async def run() -> Done:
        sockets = await _open_sockets(subject.live, count, size)
        for each in sockets:
            each.start()
        await asyncio.sleep(seconds / 10)  # until all have begun
        begun, cpu, before = time.perf_counter(), subject.cpu(), sum(each.received for each in sockets)
        await asyncio.sleep(seconds)
        after = sum(each.received for each in sockets)
        done = Done(after - before, time.perf_counter() - begun, subject.cpu() - cpu)
        silent = sum(not each.received for each in sockets)
        await _close(sockets)
        if silent:
            raise Unmeasured(f"nothing came back on {silent} of {count} WebSockets")
        return done

    return uvloop.run(run())


def hold_open(site: Site, count: int, opened: Callable[[], None]) -> None:
    """Open `count` WebSockets, let them be for half a second, and call `opened` while they are."""

    async def run() -> None:
        sockets = await _open_sockets(site, count, 64)
        await asyncio.sleep(0.5)
        opened()
        await _close(sockets)

    uvloop.run(run())
