"""The proxy's lifespan, and the parts that it is made of."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from preview_proxy import (
    ConfigurationError,
    Limits,
    Policy,
    PreviewProxy,
    PreviewProxyMiddleware,
    RedisState,
    Routed,
    Static,
    Tickets,
)
from preview_proxy.core.models import Origin
from preview_proxy.transports import pool
from tests.test_gate import Door, Upstream, gate_cookie, owner_only
from tests.test_proxy import APP, HOST, PATTERN, PREVIEW
from tests.test_visit import call, scope_of
from tests.world import OWNER, SECRET

pytestmark = pytest.mark.anyio


# --- the lifespan --------------------------------------------------------------------------------------------------


class Closable(Static):
    closed = 0

    async def aclose(self) -> None:
        self.closed += 1


async def lifespan(app: ASGIApp) -> list[str]:
    """What an app sends in a lifespan of startup and shutdown."""
    answer = await call(app, {"type": "lifespan"}, {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
    return [message["type"] for message in answer.messages]


async def test_alone_the_proxy_has_a_lifespan_and_closes_what_it_holds() -> None:
    provider = Closable({})
    proxy = PreviewProxy(router=PATTERN, provider=provider, authorize=owner_only, tickets=Tickets(SECRET, [APP]))
    assert await lifespan(proxy) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert provider.closed == 1


async def test_the_apps_lifespan_happens_and_the_proxy_closes_before_its_shutdown() -> None:
    provider = Closable({})
    order: list[object] = []

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(2):
            message = await receive()
            order.append((message["type"], provider.closed))
            await send({"type": message["type"] + ".complete"})

    proxy = PreviewProxy(router=PATTERN, provider=provider, authorize=owner_only, tickets=Tickets(SECRET, [APP]))
    sent = await lifespan(PreviewProxyMiddleware(inner, proxy=proxy))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert order == [("lifespan.startup", 0), ("lifespan.shutdown", 1)]


on_trio = pytest.mark.parametrize("anyio_backend", ["trio"])


@on_trio
@pytest.mark.parametrize("alone", [True, False])
async def test_on_trio_the_pool_refuses_to_start_and_says_what_does(alone: bool) -> None:
    proxy = PreviewProxy(router=PATTERN, provider=Static({}), authorize=owner_only, tickets=Tickets(SECRET, [APP]))
    app = proxy if alone else PreviewProxyMiddleware(Starlette(), proxy=proxy)
    answer = await call(app, {"type": "lifespan"}, {"type": "lifespan.startup"})
    (said,) = answer.messages
    assert said["type"] == "lifespan.startup.failed"
    assert "transport=httpx.AsyncHTTPTransport" in said["message"]


@on_trio
async def test_on_trio_the_proxy_starts_and_closes_with_a_transport_that_runs_there() -> None:
    provider = Closable({})
    proxy = PreviewProxy(
        router=PATTERN,
        provider=provider,
        authorize=owner_only,
        tickets=Tickets(SECRET, [APP]),
        transport=httpx.AsyncHTTPTransport(trust_env=False),
    )
    assert await lifespan(proxy) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert provider.closed == 1


@on_trio
async def test_on_trio_a_request_for_the_pool_is_refused_and_the_log_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    door = Door()
    door.proxy._transport = pool.UpstreamPool()
    answer = await door.knock("http", gate_cookie(door.gate()))
    assert answer.status == 500
    assert "transport=httpx.AsyncHTTPTransport" in caplog.text


async def test_as_a_context_the_proxy_closes_what_it_holds() -> None:
    provider = Closable({})
    async with PreviewProxy(
        router=PATTERN, provider=provider, authorize=owner_only, tickets=Tickets(SECRET, [APP])
    ) as proxy:
        assert (await call(proxy, scope_of(host=HOST))).status == 401
        assert provider.closed == 0
    assert provider.closed == 1


# --- the rest ------------------------------------------------------------------------------------------------------


async def test_our_endpoints_are_answered_here() -> None:
    door = Door()
    path = "/.well-known/preview-proxy/check"
    assert (await call(door.proxy, scope_of(host=HOST, path=path, headers=gate_cookie(door.gate())))).status == 204


async def test_p22_who_leaves_as_our_endpoints_answer_is_no_failure_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    async def receive() -> Message:
        return {"type": "http.request"}

    async def gone(message: Message) -> None:
        raise ConnectionResetError  # by the ASGI spec an OSError

    door = Door()
    path = "/.well-known/preview-proxy/check"
    await door.proxy(scope_of(host=HOST, path=path, headers=gate_cookie(door.gate())), receive, gone)
    assert door.proxy.counters() == {}
    assert not [record for record in caplog.records if record.name == "preview_proxy"]


def sharing(tickets: Tickets | None = None, **options: Any) -> PreviewProxy:
    tickets = tickets or Tickets(SECRET, [APP])
    return PreviewProxy(router=PATTERN, provider=Static({}), authorize=owner_only, tickets=tickets, **options)


def test_v10_several_workers_need_to_hear_of_each_others_revocations(monkeypatch: pytest.MonkeyPatch) -> None:
    state = RedisState("redis://localhost", secret=SECRET)
    monkeypatch.setenv("WEB_CONCURRENCY", "4")
    desk = Tickets(SECRET, [APP], store=state)
    with pytest.raises(ConfigurationError, match=r"WEB_CONCURRENCY is 4.*revocations="):
        sharing(tickets=desk)
    sharing(tickets=desk, revocations=state, targets=state)


def test_gates_that_outlive_what_redis_remembers_are_refused() -> None:
    state = RedisState("redis://localhost", secret=SECRET)
    with pytest.raises(ConfigurationError, match="gate_ttl must be at most 86400"):
        sharing(tickets=Tickets(SECRET, [APP], store=state, gate_ttl=86_401), revocations=state)


def test_one_worker_does_not_revoke_what_others_use() -> None:
    state = RedisState("redis://localhost", secret=SECRET)
    with pytest.raises(ConfigurationError, match="revoke_on_close"):
        sharing(targets=state, policy=Policy(revoke_on_close=True))


async def test_what_is_revoked_opens_nothing_any_more() -> None:
    door = Door()
    scope = scope_of(host=HOST, headers=gate_cookie(door.gate()))
    assert (await call(door.proxy, scope)).status == 200
    assert door.proxy.revoke(subject=OWNER) == 0
    assert (await call(door.proxy, scope)).status == 401
    for nothing in (None, ""):
        with pytest.raises(ValueError, match="name the subject"):
            door.proxy.revoke(session=nothing)


async def test_policies_reach_every_part() -> None:
    upstream = Upstream()
    proxy = PreviewProxy(
        router=PATTERN,
        provider=upstream,
        authorize=owner_only,
        tickets=Tickets(SECRET, [APP]),
        policy=Policy(embedders=("https://second.example",), limits=Limits(path_bytes=5)),
        transport=upstream,
    )
    answer = await call(proxy, scope_of(host=HOST, path="/123456"))
    assert (answer.status, answer.json()["code"]) == (414, "target_too_long")
    (policy,) = answer.values(b"content-security-policy")
    assert policy.endswith(b"frame-ancestors https://app.example https://second.example")


async def test_p10_a_machine_of_ones_own_needs_the_word(monkeypatch: pytest.MonkeyPatch) -> None:
    dialled: list[bool] = []

    async def session(connection: HTTPConnection) -> str:
        return OWNER

    async def refused(*args: object, private: bool) -> None:
        dialled.append(private)
        raise ConnectionRefusedError

    monkeypatch.setattr(pool, "dial", refused)
    for policy in (None, Policy(private_upstreams=True)):
        proxy = PreviewProxy(
            router=PATTERN,
            provider=Static({PREVIEW: "https://machine.internal"}),
            authorize=owner_only,
            session=session,
            policy=policy,
        )
        assert (await call(proxy, scope_of(host=HOST))).status == 502
    assert dialled == [False, True]


def test_a_routed_preview_has_its_public_origin() -> None:
    assert PATTERN.host_for(PREVIEW) == Routed(PREVIEW, Origin("https", HOST, 443)).public
