"""What a refused credential leads to, and how often."""

from __future__ import annotations

from typing import Literal

import httpx
import pytest

from preview_proxy import Nullspace, Origin, Preview, Routed, Static, Target
from preview_proxy.breaker import FAILURES, PAUSE, Breaker
from preview_proxy.core.models import RawHeaders
from preview_proxy.errors import (
    CODES,
    CredentialRejected,
    MachineUnavailable,
    NotFound,
    PreviewProxyError,
    ProviderError,
    UpstreamError,
)
from preview_proxy.lease import RENEWABLE, TargetLease
from preview_proxy.providers.base import Provider
from preview_proxy.providers.cache import TargetCache
from preview_proxy.providers.held import MINT_INTERVAL
from preview_proxy.providers.static import fixed_target
from preview_proxy.providers.wakes import PAUSED, Wakes
from tests.providers.test_wakes import NAVIGATION, inbound

pytestmark = pytest.mark.anyio

PREVIEW = Preview("m1", 3000)
ROUTED = Routed(PREVIEW, Origin("https", "3000-m1.previews.example", 443))
CANARY = "canary-0123456789"
EXPIRED = CredentialRejected("preview_proxy_token_expired")
JSON = ((b"content-type", b"application/json"),)
SAYS_EXPIRED = b'{"error": "expired", "code": "preview_proxy_token_expired"}'


class Minting:
    """A provider whose every target is new, and whose `now` is the cache's clock."""

    def __init__(self) -> None:
        self.mints = 0
        self.now = 1_000_000.0

    async def resolve(self, preview: Preview) -> Target:
        self.mints += 1
        http, websocket = fixed_target("https://http.example").http, fixed_target("https://socket.example").http
        return Target(f"target {self.mints}", http, websocket, self.now + 900)

    def clock(self) -> float:
        return self.now


class Talkative:
    """A provider whose edge may be behind every answer, and has no failures of its own."""

    async def resolve(self, preview: Preview) -> Target:
        return fixed_target("https://up.example", http_credentials={"x-token": CANARY})

    def may_explain(self, status: int, headers: RawHeaders) -> bool:
        return True

    def explain_error(self, status: int, headers: RawHeaders, body: bytes) -> ProviderError | None:
        return None


def lease(
    provider: Provider,
    kind: Literal["http", "websocket"] = "http",
    cache: TargetCache | None = None,
    breaker: Breaker | None = None,
    wakes: Wakes | None = None,
    headers: RawHeaders = (),
) -> TargetLease:
    targets = cache or TargetCache(provider, timeout=1)
    return TargetLease(inbound(kind, headers=headers), ROUTED, targets, provider, breaker or Breaker(), wakes)


async def test_h12_each_transport_gets_its_own_endpoint() -> None:
    for kind in ("http", "websocket"):
        route = await lease(Minting(), kind).route()
        assert route.endpoint.origin.host == {"http": "http.example", "websocket": "socket.example"}[kind]
        assert (route.preview, route.public) == ROUTED


async def test_a_target_without_the_transport_is_404() -> None:
    only_http = Static({PREVIEW: Target("t", fixed_target("https://up.example").http, None)})
    await lease(only_http).route()
    with pytest.raises(NotFound, match="no websocket endpoint"):
        await lease(only_http, "websocket").route()


async def test_a_providers_failure_comes_through() -> None:
    with pytest.raises(NotFound):
        await lease(Static({})).route()


def test_only_a_provider_that_can_is_asked_to_explain() -> None:
    plain = lease(Static({}))
    assert not plain.may_explain(401, JSON)
    assert plain.explain(401, JSON, SAYS_EXPIRED) is None
    edge = lease(Nullspace("canary-api-key", base_url="https://api.example"))
    assert edge.may_explain(401, JSON)
    assert not edge.may_explain(200, JSON)
    error = edge.explain(401, JSON, SAYS_EXPIRED)
    assert error is not None
    assert error.code == "preview_proxy_token_expired"
    assert edge.explain(401, JSON, b'{"error": "the app\'s own"}') is None


@pytest.mark.parametrize(("status", "asked"), [(200, False), (204, False), (304, False), (307, True), (502, True)])
def test_failures_and_redirects_may_be_the_edges(status: int, asked: bool) -> None:
    assert lease(Talkative()).may_explain(status, ()) is asked


async def test_h14_an_answer_that_repeats_the_credential_is_not_shown() -> None:
    held = lease(Talkative())
    await held.route()
    error = held.explain(502, (), f"no route to {CANARY}".encode())
    assert error is not None
    assert (error.code, error.detail) == ("provider_failed", "an answer 502 that repeats the credential")
    assert held.explain(502, (), b"no route") is None


async def test_only_what_a_new_credential_cures_renews_it() -> None:
    assert set(CODES) >= RENEWABLE
    for code in CODES:
        provider = Minting()
        cache = TargetCache(provider, timeout=1, clock=provider.clock)
        held = lease(provider, cache=cache)
        await held.route()
        provider.now += MINT_INTERVAL
        assert await held.cure(PreviewProxyError(code)) is (code in RENEWABLE)
        await held.route()
        assert provider.mints == (2 if code in RENEWABLE else 1)


async def test_before_anything_was_asked_there_is_nothing_to_cure() -> None:
    assert not await lease(Minting()).cure(EXPIRED)


async def test_v04_a_preview_that_forges_refusals_costs_one_mint_per_interval() -> None:
    provider = Minting()
    cache = TargetCache(provider, timeout=1, clock=provider.clock)
    for _ in range(100):
        for kind in ("http", "websocket"):
            held = lease(provider, kind, cache)
            await held.route()
            await held.cure(EXPIRED)
        provider.now += 1
    assert provider.mints == 1 + 100 // MINT_INTERVAL


async def test_a_refusal_of_a_target_that_is_gone_costs_nothing() -> None:
    provider = Minting()
    cache = TargetCache(provider, timeout=1, clock=provider.clock)
    slow, quick = lease(provider, cache=cache), lease(provider, cache=cache)
    await slow.route()
    await quick.route()
    provider.now += MINT_INTERVAL
    assert await quick.cure(EXPIRED)
    await quick.route()
    assert await slow.cure(EXPIRED)
    await slow.route()
    assert provider.mints == 2


async def test_what_the_providers_switches_say_is_not_curable_but_noted() -> None:
    provider = Minting()
    cache = TargetCache(provider, timeout=1, clock=provider.clock)
    held = lease(provider, cache=cache)
    await held.route()
    assert not await held.cure(ProviderError("preview_machine_disabled"))
    [entry] = cache.inventory()
    assert (entry.last_error_code, entry.last_error_at) == ("preview_machine_disabled", provider.now)


async def test_each_request_counts_for_its_transport() -> None:
    provider = Minting()
    cache = TargetCache(provider, timeout=1, clock=provider.clock)
    for kind in ("http", "websocket", "http"):
        await lease(provider, kind, cache).route()
    [entry] = cache.inventory()
    assert (entry.http_request_count, entry.websocket_connection_count) == (2, 1)


class Paused(Minting):
    """A provider whose machine sleeps: its API mints nothing until it is woken."""

    def __init__(self) -> None:
        super().__init__()
        self.wakes = 0
        self.asleep = True

    async def resolve(self, preview: Preview) -> Target:
        if self.asleep:
            raise MachineUnavailable(PAUSED)
        return await super().resolve(preview)

    async def wake(self, preview: Preview) -> None:
        self.wakes += 1
        self.asleep = False


async def test_a_navigation_wakes_a_machine_for_which_nothing_is_minted() -> None:
    provider = Paused()
    held = lease(provider, wakes=Wakes(provider, timeout=1), headers=NAVIGATION)
    await held.route()
    assert (provider.wakes, provider.mints) == (1, 1)


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_v08_what_is_no_navigation_leaves_it_asleep(kind: Literal["http", "websocket"]) -> None:
    provider = Paused()
    with pytest.raises(MachineUnavailable) as caught:
        await lease(provider, kind, wakes=Wakes(provider, timeout=1)).route()
    assert (caught.value.code, provider.wakes) == (PAUSED, 0)


async def test_v08_nothing_is_woken_unless_the_operator_wants_it() -> None:
    provider = Paused()
    with pytest.raises(MachineUnavailable):
        await lease(provider, headers=NAVIGATION).route()
    assert provider.wakes == 0


async def test_a_navigation_that_the_edge_finds_paused_is_sent_again_after_waking() -> None:
    provider = Paused()
    provider.asleep = False
    wakes = Wakes(provider, timeout=1)
    held = lease(provider, wakes=wakes, headers=NAVIGATION)
    await held.route()
    assert await held.cure(MachineUnavailable(PAUSED))
    assert not await held.cure(MachineUnavailable(PAUSED))
    assert not await held.cure(MachineUnavailable("preview_service_not_ready"))
    assert provider.wakes == 1


# --- whether to try at all -----------------------------------------------------------------------------------------


class Broken:
    """A provider that fails each time."""

    def __init__(self, failure: Exception) -> None:
        self.failure = failure
        self.asked = 0

    async def resolve(self, preview: Preview) -> Target:
        self.asked += 1
        raise self.failure


@pytest.mark.parametrize(
    ("failure", "calls"),
    [
        (ProviderError("provider_failed"), FAILURES),
        (ConnectionError("canary"), FAILURES),
        (MachineUnavailable(), FAILURES),
        (NotFound("machine_not_found"), 1),
        (ProviderError("provider_refused"), 1),
    ],
)
async def test_v06_a_machine_that_is_dead_does_not_cost_a_call_for_each_request(failure: Exception, calls: int) -> None:
    provider, breaker = Broken(failure), Breaker(lambda: 1000.0)
    for _ in range(50):
        with pytest.raises(PreviewProxyError):
            await lease(provider, breaker=breaker).route()
    assert provider.asked == calls


async def test_v06_a_lease_tries_once_for_all() -> None:
    now = 1000.0
    provider, breaker = Minting(), Breaker(lambda: now)
    for _ in range(FAILURES):
        lease(provider, breaker=breaker).failed(httpx.ConnectError("canary"))
    with pytest.raises(UpstreamError, match="not tried again yet: ConnectError"):
        await lease(provider, breaker=breaker).route()
    now += PAUSE
    first, second = lease(provider, breaker=breaker), lease(provider, breaker=breaker)
    await first.route()
    await first.route()  # with a new credential perhaps
    with pytest.raises(UpstreamError):
        await second.route()
    first.close()
    await second.route()
    second.reached()
    await lease(provider, breaker=breaker).route()


@pytest.mark.parametrize("failure", [httpx.ReadError("x"), httpx.ReadTimeout("x"), httpx.PoolTimeout("x"), OSError()])
async def test_v06_only_a_connection_that_could_not_be_made_is_a_failure(failure: Exception) -> None:
    breaker = Breaker()
    for _ in range(2 * FAILURES):
        lease(Minting(), breaker=breaker).failed(failure)
    await lease(Minting(), breaker=breaker).route()
