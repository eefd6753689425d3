"""The contract finds each breach of it, and asks nothing else of a provider."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import fields, replace
from typing import Any

import anyio
import httpx
import pytest

from examples.own_provider import Acorn
from preview_proxy import Endpoint, Origin, Preview, PreviewProxyError, Provider, Secret, Target
from preview_proxy.core.models import RawHeaders
from preview_proxy.errors import NotFound, ProviderError
from preview_proxy.testing import EdgeFailure, ProviderContract
from tests.examples import test_own_provider as acorn
from tests.examples.test_own_provider import API_KEY

pytestmark = pytest.mark.anyio

TOKEN = "acorn-token-canary"


class Wrapped(Acorn):
    """Acorn with something wrong."""

    transport: httpx.AsyncBaseTransport

    def __init__(self, api_key: Secret, *, timeout: float, transport: httpx.AsyncBaseTransport) -> None:
        super().__init__(api_key, timeout=timeout, transport=transport)
        self.transport = transport

    async def share(self, preview: Preview) -> httpx.Response:
        request = httpx.Request("POST", f"https://api.acorn.example/machines/{preview.machine}/ports/3000/share")
        request.headers["authorization"] = f"Bearer {API_KEY}"
        response = await self.transport.handle_async_request(request)
        await response.aread()
        return response


class RaisesWhatHttpxRaises(Wrapped):
    async def resolve(self, preview: Preview) -> Target:
        await self.share(preview)
        return await super().resolve(preview)


class RaisesInsideExcept(Wrapped):
    async def resolve(self, preview: Preview) -> Target:
        try:
            await self.share(preview)
        except Exception:
            raise ProviderError  # noqa: B904 - this is the breach
        return await super().resolve(preview)


class TellsTheAnswer(Wrapped):
    async def resolve(self, preview: Preview) -> Target:
        try:
            return await super().resolve(preview)
        except PreviewProxyError:
            pass
        told = ""
        with suppress(Exception):
            told = (await self.share(preview)).text
        raise ProviderError(detail=told)


class HoldsTheKeyInALocal(Wrapped):
    async def resolve(self, preview: Preview) -> Target:
        key = f"Bearer {API_KEY}"
        outcome = await self._resolve(preview)
        if isinstance(outcome, PreviewProxyError) and key:
            raise outcome
        assert isinstance(outcome, Target)
        return outcome


class Logs(Wrapped):
    async def resolve(self, preview: Preview) -> Target:
        logging.getLogger("acorn").debug("asking with %s", API_KEY)
        return await super().resolve(preview)


class ShowsTheKey(Wrapped):
    def __repr__(self) -> str:
        return f"Acorn({API_KEY!r})"


class KeepsTheKeyAsText(Wrapped):
    key = ""

    async def resolve(self, preview: Preview) -> Target:
        self.key = API_KEY
        return await super().resolve(preview)


class Changed(Wrapped):
    """Acorn whose target is not as it should be."""

    def change(self, target: Target, endpoint: Endpoint) -> Any:
        raise NotImplementedError

    async def resolve(self, preview: Preview) -> Target:
        target = await super().resolve(preview)
        assert target.http is not None
        changed: Target = self.change(target, target.http)
        return changed


def broken(endpoint: Endpoint, **changes: object) -> Endpoint:
    """A copy with changes, whatever `Endpoint` itself would say to them."""
    made = object.__new__(Endpoint)
    for name in (each.name for each in fields(Endpoint)):
        object.__setattr__(made, name, changes.get(name, getattr(endpoint, name)))
    return made


class NoEndpoint(Changed):
    def change(self, target: Target, endpoint: Endpoint) -> Target:
        return replace(target, http=None, websocket=None)


class NoTarget(Changed):
    def change(self, target: Target, endpoint: Endpoint) -> object:
        return "https://s1.acorn.example"


class Insecure(Changed):
    def change(self, target: Target, endpoint: Endpoint) -> Target:
        return replace(target, http=broken(endpoint, origin=replace(endpoint.origin, scheme="http")))


class TokenInUrl(Changed):
    def change(self, target: Target, endpoint: Endpoint) -> Target:
        return replace(target, http=replace(endpoint, marker=b"token=" + TOKEN.encode()))


class TokenInId(Changed):
    def change(self, target: Target, endpoint: Endpoint) -> Target:
        return replace(target, id=TOKEN)


class TwoCredentials(Changed):
    def change(self, target: Target, endpoint: Endpoint) -> Target:
        return replace(target, http=broken(endpoint, credentials=endpoint.credentials * 2))


class UpperCase(Changed):
    def change(self, target: Target, endpoint: Endpoint) -> Target:
        return replace(target, http=replace(endpoint, credentials=((b"X-Token", Secret(TOKEN)),)))


class LosesTheMarker(Changed):
    def change(self, target: Target, endpoint: Endpoint) -> Target:
        return replace(target, http=replace(endpoint, marker=b""))


class LongId(Changed):
    def change(self, target: Target, endpoint: Endpoint) -> Target:
        return replace(target, id="x" * 129)


class NoTime(Changed):
    def change(self, target: Target, endpoint: Endpoint) -> Target:
        return replace(target, expires_at=float("inf"))


class Expired(Changed):
    def change(self, target: Target, endpoint: Endpoint) -> Target:
        return replace(target, expires_at=1.0)


class MovesWithTheGeneration(Wrapped):
    async def resolve(self, preview: Preview) -> Target:
        target = await super().resolve(preview)
        assert target.http is not None
        origin = replace(target.http.origin, host=f"g{preview.generation}.acorn.example")
        return replace(target, http=replace(target.http, origin=origin))


class OneAtATime(Wrapped):
    busy = False

    async def resolve(self, preview: Preview) -> Target:
        if self.busy:
            raise ProviderError
        self.busy = True
        await anyio.lowlevel.checkpoint()
        try:
            return await super().resolve(preview)
        finally:
            self.busy = False


class LosesItsPlaceWhenCancelled(Wrapped):
    busy = False

    async def resolve(self, preview: Preview) -> Target:
        if self.busy:
            raise ProviderError
        self.busy = True
        target = await super().resolve(preview)
        self.busy = False
        return target


class UnknownIsAFailure(Wrapped):
    async def resolve(self, preview: Preview) -> Target:
        outcome = await self._resolve(preview)
        if isinstance(outcome, NotFound):
            raise ProviderError
        return await super().resolve(preview)


class AsksAboutClosedPorts(Wrapped):
    async def resolve(self, preview: Preview) -> Target:
        await self._resolve(preview)
        return await super().resolve(preview)


class NeverGivesUp(Wrapped):
    def __init__(self, api_key: Secret, *, timeout: float, transport: httpx.AsyncBaseTransport) -> None:
        super().__init__(api_key, timeout=60, transport=transport)


class CallsATimeoutAFailure(Wrapped):
    async def resolve(self, preview: Preview) -> Target:
        outcome = await self._resolve(preview)
        if isinstance(outcome, PreviewProxyError) and outcome.code == "provider_timeout":
            raise ProviderError
        return await super().resolve(preview)


class ReadsWithoutEnd(Wrapped):
    async def resolve(self, preview: Preview) -> Target:
        request = httpx.Request("POST", "https://api.acorn.example/machines/mch_1/ports/3000/share")
        request.headers["authorization"] = f"Bearer {API_KEY}"
        response = await self.transport.handle_async_request(request)
        read = 0
        async for chunk in response.aiter_raw():
            read += len(chunk)
            if read > 4 * 1024 * 1024:
                raise ProviderError
        return await super().resolve(preview)


class LeavesAnswersOpen(Wrapped):
    async def resolve(self, preview: Preview) -> Target:
        request = httpx.Request("POST", "https://api.acorn.example/machines/mch_1/ports/3000/share")
        request.headers["authorization"] = f"Bearer {API_KEY}"
        with suppress(Exception):
            await self.transport.handle_async_request(request)
        return await super().resolve(preview)


class TakesTheAppsAnswers(Wrapped):
    def explain_error(self, status: int, headers: RawHeaders, body: bytes) -> ProviderError | None:
        return super().explain_error(status, headers, body) or ProviderError()


class CannotReadForgeries(Wrapped):
    def explain_error(self, status: int, headers: RawHeaders, body: bytes) -> ProviderError | None:
        body.decode()
        return super().explain_error(status, headers, body)


class DeafToItsEdge(Wrapped):
    def may_explain(self, status: int, headers: RawHeaders) -> bool:
        return False


class ClosesOnce(Wrapped):
    closed = False

    async def aclose(self) -> None:
        if self.closed:
            raise RuntimeError
        self.closed = True


BREACHES: list[tuple[Callable[..., Provider], str]] = [
    (NoTarget, "test_a_preview_resolves_to_a_target_that_requests_can_use"),
    (NoEndpoint, "test_a_preview_resolves_to_a_target_that_requests_can_use"),
    (Insecure, "test_a_preview_resolves_to_a_target_that_requests_can_use"),
    (TokenInUrl, "test_a_preview_resolves_to_a_target_that_requests_can_use"),
    (TokenInId, "test_a_preview_resolves_to_a_target_that_requests_can_use"),
    (TwoCredentials, "test_a_preview_resolves_to_a_target_that_requests_can_use"),
    (UpperCase, "test_a_preview_resolves_to_a_target_that_requests_can_use"),
    (LongId, "test_a_preview_resolves_to_a_target_that_requests_can_use"),
    (NoTime, "test_a_preview_resolves_to_a_target_that_requests_can_use"),
    (Expired, "test_a_preview_resolves_to_a_target_that_requests_can_use"),
    (LosesTheMarker, "test_the_address_is_kept_as_the_api_says_it"),
    (MovesWithTheGeneration, "test_a_new_generation_of_the_public_host_is_the_same_machine"),
    (UnknownIsAFailure, "test_an_unknown_machine_is_not_found"),
    (AsksAboutClosedPorts, "test_a_closed_port_is_refused_without_asking"),
    (RaisesWhatHttpxRaises, "test_whatever_goes_wrong_with_the_api_is_typed_and_tells_nothing"),
    (RaisesInsideExcept, "test_whatever_goes_wrong_with_the_api_is_typed_and_tells_nothing"),
    (TellsTheAnswer, "test_whatever_goes_wrong_with_the_api_is_typed_and_tells_nothing"),
    (HoldsTheKeyInALocal, "test_whatever_goes_wrong_with_the_api_is_typed_and_tells_nothing"),
    (TellsTheAnswer, "test_an_answer_amiss_in_any_part_is_refused_or_does_not_matter"),
    (CallsATimeoutAFailure, "test_an_api_that_hangs_is_given_up_in_time"),
    (ReadsWithoutEnd, "test_an_endless_answer_is_cut_off_and_closed"),
    (LeavesAnswersOpen, "test_an_endless_answer_is_cut_off_and_closed"),
    (ShowsTheKey, "test_nothing_that_prints_copies_or_logs_it_shows_a_secret"),
    (KeepsTheKeyAsText, "test_nothing_that_prints_copies_or_logs_it_shows_a_secret"),
    (Logs, "test_nothing_that_prints_copies_or_logs_it_shows_a_secret"),
    (DeafToItsEdge, "test_the_edges_own_failures_are_told_by_their_code"),
    (TakesTheAppsAnswers, "test_the_apps_own_failures_pass"),
]


def contract(kind: Callable[..., Provider], **changes: object) -> ProviderContract:
    """Acorn's contract, asked of another class."""

    class Contract(acorn.TestAcorn):
        @asynccontextmanager
        async def provider(self, transport: httpx.AsyncBaseTransport, timeout: float) -> AsyncIterator[Provider]:
            yield kind(Secret(API_KEY), timeout=timeout, transport=transport)

    made = Contract()
    for name, value in changes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(("kind", "test"), BREACHES, ids=lambda value: getattr(value, "__name__", value))
async def test_a_breach_is_found(kind: Callable[..., Provider], test: str) -> None:
    with pytest.raises(AssertionError) as caught:
        await getattr(contract(kind), test)()
    assert API_KEY not in str(caught.value) and TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "test", "error"),
    [
        (OneAtATime, "test_several_may_ask_at_once", ExceptionGroup),
        (LosesItsPlaceWhenCancelled, "test_a_cancelled_call_leaves_the_provider_usable", PreviewProxyError),
        (CannotReadForgeries, "test_no_forged_answer_does_harm", UnicodeDecodeError),
        (ClosesOnce, "test_it_may_be_closed_unused_and_twice", RuntimeError),
        (ClosesOnce, "test_it_may_be_closed_after_use", RuntimeError),
    ],
)
async def test_a_breach_that_raises_is_seen(kind: Callable[..., Provider], test: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        await getattr(contract(kind), test)()


class Plain:
    """A provider that can do no more than it must, and calls no API."""

    async def resolve(self, preview: Preview) -> Target:
        origin = Origin("https", "s1.acorn.example", 443)
        return Target("s1", Endpoint(origin, credentials=((b"x-token", Secret(TOKEN)),)), None)


TESTS = [name for name in dir(ProviderContract) if name.startswith("test_")]


@pytest.mark.parametrize("name", TESTS)
async def test_a_provider_is_not_asked_for_what_it_need_not_do(name: str) -> None:
    plain = contract(lambda *_, **__: Plain(), unknown=None, closed_ports=(), edge_failures=())
    with anyio.fail_after(10):
        await getattr(plain, name)()


async def test_a_provider_that_never_gives_up_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preview_proxy.testing.provider_contract.DEADLINE", 0.2)
    with pytest.raises(TimeoutError):
        await contract(NeverGivesUp).test_an_api_that_hangs_is_given_up_in_time()


async def test_a_wrong_code_is_found() -> None:
    failure = acorn.TestAcorn.edge_failures[0]
    with pytest.raises(AssertionError, match="preview_proxy_token_expired"):
        wrong = EdgeFailure(failure.status, failure.headers, failure.body, "rate_limit_exceeded")
        await contract(Acorn, edge_failures=[wrong]).test_the_edges_own_failures_are_told_by_their_code()
