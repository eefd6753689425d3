"""The targets, and whether what was measured meets them. Arithmetic only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

Medians = Mapping[tuple[str, str], float]
"""(measure, subject) → the median of its runs. A measure's name ends in its unit."""


def medians(runs: Mapping[tuple[str, str], list[float]]) -> dict[tuple[str, str], float]:
    """The median of each measure that has any run."""
    return {key: median(values) for key, values in runs.items() if values}


def _itself(value: float) -> float:
    return value


def _ratio(value: float, other: float) -> float:
    return value / other


def _added(ours: float, other: float, direct: float) -> float:
    """What we add to the latency of no proxy at all, in terms of what the other adds."""
    return (ours - direct) / (other - direct)


@dataclass(frozen=True)
class Target:
    """A bound on `value`, computed from the medians of `parts`. `unit` is "x" for a ratio."""

    name: str
    parts: tuple[tuple[str, str], ...]
    value: Callable[..., float]
    bound: Literal["at least", "at most"]
    goal: float
    unit: str = "x"

    def row(self, measured: Medians) -> dict[str, Any]:
        """A row of the report. `ok` is None, and so is the ratio or value, where a part was not measured."""
        behind = {f"{subject}: {measure}": measured.get((measure, subject)) for measure, subject in self.parts}
        result = ok = None
        if None not in behind.values():
            try:
                result = self.value(*behind.values())
                ok = result >= self.goal if self.bound == "at least" else result <= self.goal
            except ZeroDivisionError:
                pass
        key = "ratio" if self.unit == "x" else "value"
        row = {"target": self.name, key: result, "bound": self.bound, "goal": self.goal, "ok": ok, "medians": behind}
        return row if key == "ratio" else {**row, "unit": self.unit}


def _against(name: str, measure: str, other: str, goal: float) -> Target:
    return Target(f"{name} x {other}", ((measure, "ours"), (measure, other)), _ratio, "at least", goal)


def _single(name: str, measure: str, goal: float) -> Target:
    return Target(name, ((measure, "ours"),), _itself, "at most", goal, measure.rpartition(" ")[2])


def _small_requests(connections: int) -> tuple[Target, ...]:
    measure, name = f"GET 1 KiB, c={connections}, req/s", f"1 GET 1 KiB, c={connections}:"
    return (
        _against(name, measure, "ceiling", 0.5),
        _against(name, measure, "fastapi-proxy-lib", 25),
        _against(name, measure, "caddy", 1.2),
    )


TARGETS = (
    *_small_requests(32),
    *_small_requests(128),
    Target(
        "2 GET 1 KiB, c=1: added p50 latency x nginx's",
        tuple(("GET 1 KiB, c=1, p50 µs", subject) for subject in ("ours", "nginx", "direct")),
        _added,
        "at most",
        1.5,
    ),
    Target(
        "2 GET 1 KiB: throughput at c=1000 x at c=32",
        (("GET 1 KiB, c=1000, req/s", "ours"), ("GET 1 KiB, c=32, req/s", "ours")),
        _ratio,
        "at least",
        0.75,
    ),
    _against("3 download of 10 MiB:", "download of 10 MiB, MB/s", "nginx", 1),
    _against("3 upload of 10 MiB:", "upload of 10 MiB, MB/s", "nginx", 1),
    _single("3 memory growth, 1 GiB down", "memory growth, 1 GiB down, MiB", 8),
    _single("3 memory growth, 1 GiB up", "memory growth, 1 GiB up, MiB", 8),
    _single("3 memory growth, stalled reader", "memory growth, stalled reader, MiB", 8),
    _against("4 WebSocket, 100 connections:", "WebSocket, 100 connections, messages/s", "nginx", 0.55),
    _against("4 WebSocket, 100 connections:", "WebSocket, 100 connections, messages/s", "fastapi-proxy-lib", 6),
    _against("4 WebSocket, 1 MiB messages:", "WebSocket, 1 MiB, messages/s", "nginx", 0.7),
    _single("4 WebSocket, memory of an idle one", "idle WebSocket, KiB", 36),
    _single("4 WebSocket, CPU to open one", "opening a WebSocket, CPU ms", 1.2),
    _single("5 gate decision from the cache", "gate decision, µs", 10),
    _single("5 plan_request + plan_response", "plan of request and response, µs", 25),
)
