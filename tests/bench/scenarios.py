"""Each scenario: what is done to a subject, and what is read off."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from tests.bench import micro
from tests.bench.load import Connection, Done, Site, Subject, echo, echo_many, get, hold_open, repeat
from tests.bench.origin import HUGE, LARGE
from tests.bench.processes import resident

KIB, MIB = 1024, 1024 * 1024
Measures = Mapping[str, float]


def rates(name: str, unit: str, done: Done, scale: float = 1) -> Measures:
    """The speed in `unit`, of which `scale` are one piece of work a second, and what a piece costs the subject."""
    measures = {f"{name}, {unit}": done.count / done.seconds * scale}
    if done.cpu:
        measures[f"{name}, CPU µs each"] = done.cpu / done.count * 1e6
    return measures


def small_requests(connections: int, subject: Subject, seconds: float) -> Measures:
    if connections >= 1000:
        seconds *= 2  # connecting takes a part of it
    name = f"GET 1 KiB, c={connections}"
    done = get(subject, "/small", connections=connections, seconds=seconds)
    return {f"{name}, p50 µs": done.p50, **rates(name, "req/s", done)}


def download(subject: Subject, seconds: float) -> Measures:
    with Connection(subject.files) as connection:
        done = repeat(subject, lambda: connection.download("/large", LARGE), seconds)
    return rates("download of 10 MiB", "MB/s", done, LARGE / 1e6)


def upload(subject: Subject, seconds: float) -> Measures:
    with Connection(subject.live) as connection:
        done = repeat(subject, lambda: connection.upload(LARGE), seconds)
    return rates("upload of 10 MiB", "MB/s", done, LARGE / 1e6)


def socket_alone(subject: Subject, seconds: float) -> Measures:
    return rates("WebSocket, 1 connection", "messages/s", echo(subject, 64, seconds))


def sockets_together(subject: Subject, seconds: float) -> Measures:
    return rates("WebSocket, 100 connections", "messages/s", echo_many(subject, 100, 64, seconds))


def large_messages(subject: Subject, seconds: float) -> Measures:
    return rates("WebSocket, 1 MiB", "messages/s", echo(subject, MIB, seconds))


def idle_sockets(count: int, subject: Subject, seconds: float) -> Measures:
    """What each of many open WebSockets takes from a process that has had a few before."""
    pid = _process(subject)
    hold_open(subject.live, 20, lambda: None)
    memory, cpu = resident(pid), subject.cpu()
    grown = spent = 0.0

    def look() -> None:
        nonlocal grown, spent
        grown, spent = resident(pid) - memory, subject.cpu() - cpu

    hold_open(subject.live, count, look)
    return {"idle WebSocket, KiB": grown / count / KIB, "opening a WebSocket, CPU ms": spent / count * 1e3}


def memory_growth(subject: Subject, seconds: float) -> Measures:
    """How far memory rises above where it was after an ordinary download and upload."""
    pid = _process(subject)
    highest = 0

    def look() -> None:
        nonlocal highest
        highest = max(highest, resident(pid))

    def peak(site: Site, action: Callable[[Connection], object]) -> int:
        nonlocal highest
        highest = 0
        with Connection(site) as connection:
            action(connection)
            look()
        return highest

    peak(subject.files, lambda connection: connection.download("/large", LARGE))
    peak(subject.live, lambda connection: connection.upload(LARGE))
    before = resident(pid)
    down = peak(subject.files, lambda connection: connection.download("/huge", HUGE, look))
    up = peak(subject.live, lambda connection: connection.upload(HUGE, look))
    stalled = peak(subject.files, lambda connection: _stall(connection, look))
    peaks = {"1 GiB down": down, "1 GiB up": up, "stalled reader": stalled}
    return {f"memory growth, {name}, MiB": (peak - before) / MIB for name, peak in peaks.items()}


def _stall(connection: Connection, look: Callable[[], None]) -> None:
    """Ask for a gigabyte and read none of it for a second."""
    connection.send(connection.site.head("GET", "/huge"))
    for _ in range(5):
        time.sleep(0.2)
        look()


def gate_decision(subject: Subject, seconds: float) -> Measures:
    return {"gate decision, µs": micro.gate_decision()}


def plan(subject: Subject, seconds: float) -> Measures:
    return {"plan of request and response, µs": micro.plan()}


def _process(subject: Subject) -> int:
    assert subject.pid is not None
    return subject.pid


@dataclass(frozen=True)
class Scenario:
    """`subjects` are those that a target needs; `others` are measured for comparison, and not in a quick run.

    `fresh` scenarios start a process of their own, so that memory freed earlier does not hide what they take.
    """

    run: Callable[[Subject, float], Measures]
    subjects: tuple[str, ...]
    others: tuple[str, ...] = ()
    fresh: bool = False


RIVALS = ("fastapi-proxy-lib", "caddy")
SCENARIOS = {
    "get-1": Scenario(
        partial(small_requests, 1), ("direct", "ours", "nginx"), ("ceiling", "fastapi-proxy-lib", "asgiproxy", "caddy")
    ),
    "get-32": Scenario(partial(small_requests, 32), ("ceiling", "ours", *RIVALS), ("direct", "asgiproxy", "nginx")),
    "get-128": Scenario(partial(small_requests, 128), ("ceiling", "ours", *RIVALS), ("direct", "asgiproxy", "nginx")),
    "get-1000": Scenario(partial(small_requests, 1000), ("ours",), ("ceiling", "nginx", "caddy")),
    "download": Scenario(download, ("ours", "nginx"), ("direct", "fastapi-proxy-lib", "asgiproxy", "caddy")),
    "upload": Scenario(upload, ("ours", "nginx"), ("direct", "fastapi-proxy-lib", "asgiproxy", "caddy")),
    "ws-1": Scenario(socket_alone, (), ("direct", "ours", "fastapi-proxy-lib", "asgiproxy", "nginx", "caddy")),
    "ws-100": Scenario(sockets_together, ("ours", "fastapi-proxy-lib", "nginx"), ("direct", "asgiproxy", "caddy")),
    "ws-1mib": Scenario(large_messages, ("ours", "nginx"), ("direct", "fastapi-proxy-lib", "asgiproxy", "caddy")),
    "ws-idle": Scenario(partial(idle_sockets, 2000), ("ours",), fresh=True),
    "memory": Scenario(memory_growth, ("ours",), fresh=True),
    "gate": Scenario(gate_decision, ("ours",)),
    "plan": Scenario(plan, ("ours",)),
}
