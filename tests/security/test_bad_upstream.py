"""Everything that can be wrong behind the proxy: one fixed answer, and a log line that tells nothing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from preview_proxy import Preview, Session, Tickets
from preview_proxy.core.models import Origin
from preview_proxy.testing import Request, Response
from tests.discretion import one_line, says_nothing
from tests.world import EMBEDDER, MACHINE, OWNER, SECRET, ZONE, World, world

pytestmark = pytest.mark.anyio


def gate(w: World, label: str, subject: str = OWNER) -> dict[str, str]:
    """The fields that sign `subject` in at another preview's host."""
    port, _, machine = label.partition("-")
    name = f"{label}.{ZONE}:{w.port}"
    value, _ = Tickets(SECRET, [EMBEDDER]).gate(
        origin=Origin.parse(f"http://{name}"), preview=Preview(machine, int(port)), session=Session(subject)
    )
    return {"Host": name, "Origin": f"http://{name}", "Cookie": f"pp-development={value}"}


def knock(w: World, kind: str, fields: dict[str, str] | None = None) -> bytes:
    """A request, or a handshake, of the preview's own page."""
    own = {"Origin": w.origin, **(fields or {})}
    if kind == "http":
        return w.request("/echo?canary-query", headers=own)
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    return w.request("/ws?canary-query", headers={**upgrade, **own})


@dataclass(frozen=True)
class Trouble:
    """Something wrong behind the proxy, and what the visitor gets of it."""

    cause: Callable[[World], object]
    status: int
    code: str
    retry_after: list[bytes]


def _grant(w: World) -> str:
    return next(iter(w.nullspace.grants))


def _disable_tokens(w: World) -> None:
    w.nullspace.disable_token(_grant(w))


TROUBLES = {
    "expired": Trouble(lambda w: w.nullspace.expire(), 502, "preview_proxy_token_expired", []),
    "revoked": Trouble(lambda w: w.nullspace.revoke(), 502, "preview_proxy_token_revoked", []),
    "grant disabled": Trouble(lambda w: w.nullspace.disable_grant(_grant(w)), 502, "preview_grant_disabled", []),
    "token disabled": Trouble(_disable_tokens, 502, "preview_proxy_token_disabled", []),
    "machine disabled": Trouble(lambda w: w.nullspace.disable_machine(MACHINE), 502, "preview_machine_disabled", []),
    "rate limited": Trouble(lambda w: w.nullspace.set_rate_limit(0, 7), 429, "rate_limit_exceeded", [b"7"]),
    "paused": Trouble(lambda w: w.nullspace.pause(MACHINE), 503, "machine_paused_auto_resume_disabled", [b"5"]),
    "unreachable": Trouble(lambda w: w.nullspace.unreachable(MACHINE), 503, "edge_runtime_host_unreachable", [b"5"]),
}


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES.keys())
async def test_r15_what_the_edge_refuses_gets_its_code_and_nothing_else(
    kind: str, trouble: Trouble, caplog: pytest.LogCaptureFixture
) -> None:
    async with world() as w:
        assert (await w.get("/echo")).status == 200
        trouble.cause(w)
        with caplog.at_level(logging.DEBUG):
            answer = await w.raw(knock(w, kind))
        assert (answer.status, answer.code) == (trouble.status, trouble.code)
        assert answer.values(b"retry-after") == trouble.retry_after
        says_nothing(answer, w)
        one_line(caplog, w, answer, trouble.code)
        assert w.nullspace.mints == 1


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("label", "subject", "code"),
    [
        ("3000-mch_unknown", OWNER, "no_such_preview"),
        ("3000-mch_of_eve", OWNER, "no_such_preview"),
        (f"3000-{MACHINE}", "eve", "no_such_preview"),
        ("22-mch_of_eve", OWNER, "no_such_preview"),
        (f"22-{MACHINE}", OWNER, "unsupported_preview_port"),
        (f"5900-{MACHINE}", OWNER, "unsupported_preview_port"),
        (f"5999-{MACHINE}", OWNER, "unsupported_preview_port"),
        ("3000-mch_destroyed", OWNER, "machine_not_found"),
    ],
)
async def test_p19_what_nobody_may_see_is_404_and_costs_nothing(
    kind: str, label: str, subject: str, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with world() as w:
        w.nullspace.add_machine("mch_of_eve", {3000: w.dev})
        w.allowed[OWNER].add("mch_destroyed")
        w.allowed["eve"] = {"mch_of_eve"}
        with caplog.at_level(logging.DEBUG):
            answer = await w.raw(knock(w, kind, gate(w, label, subject)))
        assert (answer.status, answer.code) == (404, code)
        says_nothing(answer, w)
        one_line(caplog, w, answer, code)
        assert (w.nullspace.mints, w.nullspace.edge_requests) == (0, [])


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a12_an_unknown_machine_and_anothers_are_told_apart_by_nothing(kind: str) -> None:
    async with world() as w:
        w.nullspace.add_machine("mch_of_eve", {3000: w.dev})
        bodies, heads = [], []
        for label in ("3000-mch_of_eve", "3000-mch_unknown"):
            answer = await w.raw(knock(w, kind, gate(w, label)))
            bodies.append({**answer.json(), "request_id": ""})
            heads.append([field for field in answer.headers if field[0] != b"date"])
        assert bodies[0] == bodies[1]
        assert heads[0] == heads[1]


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a_service_that_is_down_is_503(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async with world() as w:
        with caplog.at_level(logging.DEBUG):
            answer = await w.raw(knock(w, kind, gate(w, f"3001-{MACHINE}")))
        assert (answer.status, answer.code) == (503, "preview_service_not_ready")
        assert answer.values(b"retry-after") == [b"5"]
        says_nothing(answer, w)
        one_line(caplog, w, answer, "preview_service_not_ready")


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_an_edge_that_is_gone_is_502(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    async with world() as w:
        assert (await w.get("/echo")).status == 200
        await w.nullspace._edge.__aexit__(None, None, None)
        with caplog.at_level(logging.DEBUG):
            answer = await w.raw(knock(w, kind))
        assert (answer.status, answer.code) == (502, "upstream_unreachable")
        says_nothing(answer, w)
        one_line(caplog, w, answer, "upstream_unreachable")


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("api", ["gone", "wrong key"])
async def test_an_api_that_does_not_help_is_502(kind: str, api: str, caplog: pytest.LogCaptureFixture) -> None:
    code = {"gone": "provider_failed", "wrong key": "provider_refused"}[api]

    async with world() as w:
        if api == "gone":
            await w.nullspace._api.__aexit__(None, None, None)
        else:
            w.nullspace._state.api_key = "another"
        with caplog.at_level(logging.DEBUG):
            answer = await w.raw(knock(w, kind))
        assert (answer.status, answer.code) == (502, code)
        says_nothing(answer, w)
        one_line(caplog, w, answer, code)


@pytest.mark.parametrize(
    "wire",
    [
        b"canary\r\n\r\n",
        b"HTTP/1.1 999 canary\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncanary: \x01\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: canary\r\n\r\n",
        b"",
    ],
    ids=["text", "status", "control character", "length", "nothing"],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_garbage_from_upstream_is_502_and_not_repeated(
    kind: str, wire: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with world() as w:

        async def garbage(request: Request, response: Response) -> None:
            await response.raw(wire)
            response.close()

        for path in ("/echo", "/ws"):
            w.dev.route(path)(garbage)
        w.dev._websocket_routes.clear()
        with caplog.at_level(logging.DEBUG):
            answer = await w.raw(knock(w, kind))
        assert (answer.status, answer.code) == (502, "upstream_protocol_error")
        says_nothing(answer, w)
        one_line(caplog, w, answer, "upstream_protocol_error")
        assert (await w.get("/bytes/3")).body == bytes(3)


# --- V-04, V-05: a credential that ran out -------------------------------------------------------------------------


def later(w: World, seconds: float) -> None:
    """Let the cache of targets believe that it is later."""
    w.proxy._targets._clock = lambda: time.time() + seconds


@pytest.mark.parametrize("how", ["expire", "revoke"])
@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_v05_a_request_without_a_body_is_sent_again_with_a_new_credential(kind: str, how: str) -> None:
    async with world() as w:
        assert (await w.get("/echo")).status == 200
        later(w, 31)
        getattr(w.nullspace, how)()
        if kind == "http":
            assert (await w.raw(knock(w, kind))).status == 200
        else:
            async with w.connected() as stream:
                await stream.send(knock(w, kind))
                assert (await stream.receive()).startswith(b"HTTP/1.1 101 ")
        assert w.nullspace.mints == 2
        verdicts = [request.verdict for request in w.nullspace.edge_requests]
        assert verdicts == ["served", f"preview_proxy_token_{how}d", "served"]
        getattr(w.nullspace, how)()
        for _ in range(5):
            assert (await w.raw(knock(w, kind))).status == 502
        assert w.nullspace.mints == 2
        later(w, 62)
        if kind == "http":
            assert (await w.raw(knock(w, kind))).status == 200
            assert w.nullspace.mints == 3


async def test_v05_a_body_is_never_sent_twice_but_the_next_one_finds_a_new_credential() -> None:
    async with world() as w:
        assert (await w.get("/echo")).status == 200
        later(w, 31)
        w.nullspace.expire()
        head = w.request("/body", method="POST", headers={"Content-Length": "6", "Origin": w.origin})
        answer = await w.raw(head + b"canary", method="POST")
        assert (answer.status, answer.code) == (502, "preview_proxy_token_expired")
        assert [request.method for request in w.nullspace.edge_requests].count(b"POST") == 1
        assert w.nullspace.edge_raw.count(b"canary") == 1
        assert [request.method for request in w.dev.received] == [b"GET"]
        assert (await w.raw(head + b"canary", method="POST")).body == b"canary"
        assert w.nullspace.mints == 2


async def test_v04_refusals_that_the_preview_forges_cost_one_mint_in_30_seconds() -> None:
    async with world() as w:

        @w.dev.route("/forged")
        async def forged(request: Request, response: Response) -> None:
            fields = [("content-type", "application/json")]
            await response.send(401, fields, b'{"error": "canary", "code": "preview_proxy_token_expired"}')

        for seconds, mints in ((0, 1), (31, 2), (62, 3)):
            later(w, seconds)
            for _ in range(5):
                answer = await w.get("/forged")
                assert (answer.status, answer.code) == (502, "preview_proxy_token_expired")
                says_nothing(answer, w)
            assert w.nullspace.mints == mints


async def test_an_expiry_of_our_own_clock_is_no_failure() -> None:
    async with world() as w:
        assert (await w.get("/echo")).status == 200
        later(w, 1000)
        w.nullspace.clock = lambda: time.time() + 1000
        assert (await w.get("/echo")).status == 200
        assert [request.verdict for request in w.nullspace.edge_requests] == ["served", "served"]
        assert w.nullspace.mints == 2
