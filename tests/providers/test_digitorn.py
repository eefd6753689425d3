"""Attaching loopback ports, how they go again, and what visitors get."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from preview_proxy import Preview, Provider, Target
from preview_proxy.core.models import Endpoint, Origin
from preview_proxy.errors import ConfigurationError, Misdirected, NotFound
from preview_proxy.hosts import Router
from preview_proxy.providers.cache import TargetCache
from preview_proxy.providers.digitorn import TARGET_LIFETIME, Attachment, AttachRefused, Digitorn, DigitornHosts
from preview_proxy.testing import DevServer, ProviderContract
from tests.front import Front, front
from tests.transports.test_relay_websocket import dial

pytestmark = pytest.mark.anyio

PORTS = range(4000, 4100)
IDLE = 1800.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def digitorn(clock: Clock, **options: Any) -> Digitorn:
    return Digitorn(PORTS, clock=clock, **options)


class TestDigitorn(ProviderContract):
    preview = Preview("s1", 4000)
    unknown = Preview("s2", 4000)

    @asynccontextmanager
    async def provider(self, transport: httpx.AsyncBaseTransport, timeout: float) -> AsyncIterator[Provider]:
        registry = Digitorn(PORTS)
        registry.attach("s1", 4000, user="ada")
        yield registry


# --- attaching ---


async def test_an_attached_port_is_served_on_loopback(clock: Clock) -> None:
    registry = digitorn(clock)
    assert registry.attach("s1", 4000, user="ada") == Preview("s1", 4000)
    endpoint = Endpoint(Origin("http", "localhost", 4000))
    target = await registry.resolve(Preview("s1", 4000))
    assert target == Target("s1:default", endpoint, endpoint, clock.now + TARGET_LIFETIME)


@pytest.mark.parametrize("preview", [Preview("s1", 4001), Preview("s2", 4000), Preview("s1", 22)])
async def test_h16_no_other_port_and_no_other_session_is(clock: Clock, preview: Preview) -> None:
    registry = digitorn(clock)
    registry.attach("s1", 4000, user="ada")
    with pytest.raises(NotFound):
        await registry.resolve(preview)


def refusal(registry: Digitorn, session: str, port: int, *, user: str = "ada", name: str = "default") -> str:
    before = registry.attachments()
    with pytest.raises(AttachRefused) as caught:
        registry.attach(session, port, user=user, name=name)
    assert registry.attachments() == before
    return str(caught.value)


@pytest.mark.parametrize("port", [22, 3999, 4100, 8000])
def test_h16_a_port_that_is_not_for_dev_servers_is_refused(clock: Clock, port: int) -> None:
    assert refusal(digitorn(clock), "s1", port) == f"refused: port {port} is not among the ports for dev servers"


@pytest.mark.parametrize(("session", "name"), [("s1", "other"), ("s2", "default")])
def test_a_port_that_is_attached_is_refused(clock: Clock, session: str, name: str) -> None:
    registry = digitorn(clock)
    registry.attach("s1", 4000, user="ada")
    assert refusal(registry, session, 4000, name=name) == "refused: port 4000 is attached already"


def test_five_in_a_session_and_twenty_for_a_user(clock: Clock) -> None:
    registry = digitorn(clock)
    for number in range(20):
        registry.attach(f"s{number // 5}", 4000 + number, user="ada", name=f"n{number % 5}")
    assert refusal(registry, "s0", 4050, user="bob") == "refused: 5 / session; detach one of: n0, n1, n2, n3, n4"
    assert refusal(registry, "s9", 4050) == "refused: 20 / user; detach one in another session"
    assert registry.attach("s9", 4050, user="bob")


def test_the_limits_can_be_others(clock: Clock) -> None:
    registry = digitorn(clock, per_session=1, per_user=2)
    registry.attach("s1", 4000, user="ada")
    assert refusal(registry, "s1", 4001, name="second").startswith("refused: 1 / session")
    registry.attach("s2", 4001, user="ada")
    assert refusal(registry, "s3", 4002).startswith("refused: 2 / user")


async def test_a_name_that_is_attached_anew_moves_to_the_new_port(clock: Clock) -> None:
    gone: list[Attachment] = []
    registry = digitorn(clock, per_session=1, on_detach=gone.append)
    registry.attach("s1", 4000, user="ada")
    registry.attach("s1", 4001, user="ada")
    registry.attach("s1", 4001, user="ada")
    assert [attachment.port for attachment in registry.attachments()] == [4001]
    assert [attachment.port for attachment in gone] == [4000]
    with pytest.raises(NotFound):
        await registry.resolve(Preview("s1", 4000))


def test_an_impossible_session_id_is_refused(clock: Clock) -> None:
    with pytest.raises(ValueError, match="machine must be"):
        digitorn(clock).attach("no/session", 4000, user="ada")


@pytest.mark.parametrize(
    "options", [{"per_session": 0}, {"per_user": 0}, {"idle_timeout": TARGET_LIFETIME}, {"idle_timeout": float("nan")}]
)
def test_settings_that_could_not_work_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="limits must be at least 1, idle_timeout more than 60 seconds"):
        Digitorn(PORTS, **options)


# --- going ---


async def test_a_detached_port_is_shown_no_more(clock: Clock) -> None:
    gone: list[Attachment] = []
    registry = digitorn(clock, on_detach=gone.append)
    registry.attach("s1", 4000, user="ada", name="web")
    assert registry.detach("s1") is None
    detached = registry.detach("s1", "web")
    assert detached == Attachment("s1", "web", 4000, "ada", clock.now)
    assert gone == [detached] and registry.attachments() == []
    with pytest.raises(NotFound):
        await registry.resolve(Preview("s1", 4000))


async def test_e04_a_detached_port_is_nobody_elses_while_a_target_for_it_may_be_kept(clock: Clock) -> None:
    registry = digitorn(clock)
    cache = TargetCache(registry, timeout=1, clock=clock)
    preview = registry.attach("s1", 4000, user="ada")
    await cache.get(preview)
    registry.detach("s1")
    for _ in range(int(TARGET_LIFETIME)):
        assert refusal(registry, "s2", 4000).startswith("refused: port 4000 was detached a moment ago")
        clock.now += 1
    registry.attach("s2", 4000, user="eve")
    with pytest.raises(NotFound):
        await cache.get(preview)


def test_its_own_session_may_attach_it_again_at_once(clock: Clock) -> None:
    registry = digitorn(clock)
    registry.attach("s1", 4000, user="ada")
    registry.detach("s1")
    assert registry.attach("s1", 4000, user="ada", name="again")


async def test_what_is_idle_for_half_an_hour_goes(clock: Clock) -> None:
    gone: list[Attachment] = []
    registry = digitorn(clock, on_detach=gone.append)
    idle, used = registry.attach("s1", 4000, user="ada"), registry.attach("s2", 4001, user="ada")
    clock.now += IDLE - 1
    assert registry.reap() == []
    await registry.resolve(used)
    clock.now += 1
    assert [attachment.session for attachment in registry.reap()] == ["s1"] == [found.session for found in gone]
    with pytest.raises(NotFound):
        await registry.resolve(idle)
    await registry.resolve(used)


async def test_an_idle_port_is_not_brought_back_by_the_request_that_finds_it(clock: Clock) -> None:
    registry = digitorn(clock)
    preview = registry.attach("s1", 4000, user="ada")
    clock.now += IDLE
    with pytest.raises(NotFound):
        await registry.resolve(preview)
    assert registry.attachments() == []


async def test_steady_traffic_counts_as_use_though_targets_are_kept(clock: Clock) -> None:
    registry = digitorn(clock)
    preview = registry.attach("s1", 4000, user="ada")
    cache = TargetCache(registry, timeout=1, clock=clock)
    for _ in range(3 * int(IDLE) // 20):
        clock.now += 20
        await cache.get(preview)
    assert clock.now - registry.attachments()[0].used_at <= TARGET_LIFETIME


def test_idle_ones_do_not_count_against_a_limit(clock: Clock) -> None:
    registry = digitorn(clock, per_session=1)
    registry.attach("s1", 4000, user="ada", name="old")
    clock.now += IDLE
    assert registry.attach("s1", 4001, user="ada", name="new")


# --- hosts ---


async def test_a_host_that_holds_the_port_leads_to_its_session(clock: Clock) -> None:
    registry = digitorn(clock)
    router: Router = DigitornHosts(registry, "preview-{port}.preview.acme.dev")
    preview = registry.attach("s1", 4000, user="ada")
    public = Origin("https", "preview-4000.preview.acme.dev", 443)
    assert await router("preview-4000.preview.acme.dev") == (preview, public)
    assert router.host_for(preview) == public
    assert await router("www.acme.dev") is None
    assert router.claims(b"x.preview.acme.dev") and not router.claims(b"www.acme.dev")
    registry.detach("s1")
    assert router.host_for(preview) is None


@pytest.mark.parametrize("label", ["preview-4001", "preview-04000", "preview-a", "preview-4000x", "4000", "preview-"])
async def test_a_host_without_an_attached_port_is_misdirected(clock: Clock, label: str) -> None:
    registry = digitorn(clock)
    registry.attach("s1", 4000, user="ada")
    with pytest.raises(Misdirected):
        await DigitornHosts(registry, "preview-{port}.preview.acme.dev")(f"{label}.preview.acme.dev")


@pytest.mark.parametrize("template", ["preview.acme.dev", "{port}-{port}.acme.dev", "{port}-{machine}.acme.dev"])
def test_a_template_needs_the_port_alone(clock: Clock, template: str) -> None:
    with pytest.raises(ConfigurationError, match="must hold"):
        DigitornHosts(digitorn(clock), template)


def test_textual_forms(clock: Clock) -> None:
    registry = digitorn(clock)
    assert repr(registry) == "Digitorn(range(4000, 4100))"
    assert repr(DigitornHosts(registry, "preview-{port}.preview.acme.dev")).startswith("DigitornHosts(HostPattern(")


# --- through the proxy ---


@asynccontextmanager
async def edge(*ports: int) -> AsyncIterator[tuple[Digitorn, Front]]:
    """The proxy as the edge of a registry; who attached a port may see it."""
    registry = Digitorn(ports)

    async def authorize(subject: str, preview: Preview) -> bool:
        return any(a.session == preview.machine and a.user == subject for a in registry.attachments())

    def router(port: int) -> Router:
        return DigitornHosts(registry, "preview-{port}.preview.localhost", scheme="http", port=port)

    async with front(registry, router=router, authorize=authorize) as made:
        yield registry, made


async def test_a_visitor_reaches_the_attached_port_and_no_other() -> None:
    async with DevServer() as dev, DevServer() as other, edge(dev.port, other.port) as (registry, visitor):
        await visitor.sign_in(registry.attach("s1", dev.port, user="ada"))
        assert await visitor.code() == (200, "")
        [received] = dev.received
        assert received.values(b"host") == [f"localhost:{dev.port}".encode()]
        assert received.values(b"x-forwarded-host") == [visitor.host.encode()]
        async with dial(visitor) as socket:
            await socket.send("over loopback")
            assert await socket.recv() == "over loopback"
        elsewhere = f"preview-{other.port}.preview.localhost:{visitor.port}"
        assert await visitor.code(host=elsewhere) == (421, "misdirected")
        assert other.connections == []


async def test_a_gate_of_the_last_session_on_a_port_does_not_open_the_next_ones() -> None:
    async with DevServer() as dev, edge(dev.port) as (registry, visitor):
        await visitor.sign_in(registry.attach("s1", dev.port, user="ada"))
        assert await visitor.code() == (200, "")
        registry.detach("s1")
        registry._detached.clear()  # a minute later
        registry.attach("s2", dev.port, user="ada")
        assert await visitor.code() == (401, "not_signed_in")
        assert len(dev.received) == 1


async def test_smoke_check_a_port_without_a_listener_is_answered_by_the_proxy() -> None:
    async with edge(4999) as (registry, visitor):
        assert await visitor.code(host=f"preview-4999.preview.localhost:{visitor.port}") == (421, "misdirected")
        await visitor.sign_in(registry.attach("s1", 4999, user="ada"))
        assert await visitor.code() == (502, "upstream_unreachable")
