"""What depends on the ASGI server. The tests ask this table, and `docs/reference/servers.md` is written from it."""

from __future__ import annotations

from dataclasses import dataclass, field

UVICORN = ("httptools", "h11", "websockets-sansio", "wsproto")
"""uvicorn's HTTP and WebSocket implementations."""


@dataclass(frozen=True)
class Ability:
    """`what` the proxy does, and what happens `instead` with the servers named there."""

    what: str
    instead: dict[str, str] = field(default_factory=dict)


ABILITIES = {
    "http/2": Ability("Browsers may speak HTTP/2 to it.", dict.fromkeys(UVICORN, "HTTP/1.1 only.")),
    "early hints": Ability(
        "A 103 of upstream's reaches the browser, over HTTP/2.",
        dict.fromkeys((*UVICORN, "granian", "trio"), "It is swallowed."),
    ),
    "trailers": Ability(
        "Trailer fields of upstream's reach the browser, over HTTP/2.",
        dict.fromkeys((*UVICORN, "granian", "trio"), "They are dropped."),
    ),
    "headers of a 101": Ability(
        "Headers of upstream's 101, cookies among them, reach the browser.", {"granian": "They are dropped."}
    ),
    "refusals": Ability("A WebSocket that upstream refuses fails with upstream's own response."),
    "early leavers": Ability(
        "A visitor who leaves while upstream is dialled for a WebSocket takes that along.",
        {"granian": "Upstream is waited for until it answers, `head_timeout` at most."},
    ),
    "cuts": Ability(
        "A response that upstream breaks off is cut on HTTP/1.1, not ended.",
        {"granian": "The same; if that is before the first byte of its body, granian answers 500 itself."},
    ),
    "1012": Ability(
        "As the server stops, WebSockets close with 1012.",
        {"granian": "They are cut, which is 1006 to a browser. Upstream gets 1012 or, where that came first, 1000."},
    ),
    "restarts": Ability(
        "A stream that never ends is cut as the server stops.",
        {
            **dict.fromkeys(UVICORN, "After `--timeout-graceful-shutdown`; without one it is waited for."),
            "granian": "After `--workers-kill-timeout`, with the process; without one it is waited for.",
        },
    ),
    "no host": Ability(
        "A request without `Host` is 400.",
        {"granian": "It looks like an empty one, which is no preview's: your app gets it."},
    ),
    "absolute targets": Ability(
        "A request line with a whole URL is 400.",
        {
            "httptools": "All of it but the path is dropped; `Host` decides. 400 with `--http h11`.",
            "granian": "All of it but the path is dropped; `Host` decides.",
        },
    ),
    "h2c": Ability(
        "`Upgrade: h2c` is ignored.",
        dict.fromkeys(
            ("hypercorn", "trio"),
            "hypercorn changes to HTTP/2 by itself. What is asked there is checked like anything else.",
        ),
    ),
    "two framings": Ability(
        "Content-Length beside Transfer-Encoding is 400.",
        {"granian": "granian drops the length, and closes the connection after its answer."},
    ),
}


def can(server: str, ability: str) -> bool:
    """Whether `server`, by its name in `tests.servers`, has the `ability`, a key of `ABILITIES`."""
    return server not in ABILITIES[ability].instead
