"""What every provider must hold, as a test suite: subclass `ProviderContract`, and say how the provider is made.

    pytestmark = pytest.mark.anyio

    class TestAcorn(ProviderContract):
        preview = Preview("mch_1", 3000)
        secrets = ["the API key"]

        @asynccontextmanager
        async def provider(self, transport, timeout):
            yield Acorn(Secret("the API key"), transport=transport, timeout=timeout)

The suite stands between the provider and its API. It writes the API's answers down once, and then plays them back with
one fault at a time in each of them.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import NamedTuple

import anyio
import httpx

from preview_proxy import Endpoint, Preview, PreviewProxyError, Provider, Target
from preview_proxy.core.cookies import is_token
from preview_proxy.core.models import RawHeaders
from preview_proxy.errors import NotFound, PortNotAllowed, ProviderError
from preview_proxy.providers.base import SupportsExplainError
from preview_proxy.testing.api_faults import FAULTS, Wire, mutations, other_body, strings
from preview_proxy.testing.telling import assert_told_nothing, censored, logged, occurring, pickled, shown

DEADLINE = 10.0
"""Seconds for anything that must not hang."""

MAX_BODY = 4096
"""Bytes of an edge's answer that a provider is shown."""


class EdgeFailure(NamedTuple):
    """An answer of the provider's edge, and the code of `preview_proxy.errors.CODES` that it becomes."""

    status: int
    headers: RawHeaders
    body: bytes
    code: str


# What apps answer of their own accord, in the forms that edges use too.
APP_ANSWERS = [
    (status, ((b"content-type", kind),), body)
    for status in (400, 401, 403, 404, 409, 410, 429, 500, 502, 503)
    for kind, body in (
        (b"text/html; charset=utf-8", b"<!doctype html><title>not here</title>"),
        (b"application/json", b'{"error": "not here"}'),
        (b"application/json", b'{"code": "not_here", "message": "not here"}'),
        (b"text/plain", b"not here"),
    )
]
HOSTILE_BODIES = [
    b"",
    b"null",
    b"[]",
    b"{",
    b"\xff\xfe\x00",
    b"[" * MAX_BODY,
    b'{"code": ' * 400,
    b'{"error": {"code": ["x"]}, "code": {"x": 1}}',
    b'{"code": "' + b"x" * MAX_BODY + b'"}',
    b" " * (MAX_BODY + 4096),
]


class ProviderContract(ABC):
    """The tests that a provider has to pass. They are `async`, and need no more of pytest than that it awaits them."""

    preview: Preview
    """One that resolves."""
    unknown: Preview | None = None
    """One whose machine does not exist: `NotFound`."""
    closed_ports: Collection[int] = ()
    """Ports that the provider never exposes: `PortNotAllowed`, without asking the API."""
    secrets: Collection[str] = ()
    """What must never be shown besides the targets' credentials: the API key. `provider` may set it."""
    edge_failures: Collection[EdgeFailure] = ()
    """What its edge says of its own accord, for a provider that `SupportsExplainError`."""
    api: httpx.AsyncBaseTransport | None = None
    """What answers the provider's calls; None for the network."""

    @abstractmethod
    def provider(self, transport: httpx.AsyncBaseTransport, timeout: float) -> AbstractAsyncContextManager[Provider]:
        """A provider that calls its API by `transport` and gives up after `timeout` seconds; fresh each time.

        One that calls no API ignores both.
        """

    @asynccontextmanager
    async def _running(self, timeout: float = 10.0) -> AsyncIterator[tuple[Provider, Wire]]:  # noqa: ASYNC109 - the provider's own
        far_end = self.api or httpx.AsyncHTTPTransport(trust_env=False)
        wire = Wire(far_end)
        with anyio.fail_after(DEADLINE * 6):
            async with far_end, self.provider(wire, timeout) as provider:
                yield provider, wire

    # --- the target ---

    async def test_a_preview_resolves_to_a_target_that_requests_can_use(self) -> None:
        async with self._running() as (provider, _):
            target = await provider.resolve(self.preview)
        assert_sound(target)
        assert target.expires_at is None or target.expires_at > time.time(), "expired before it was used"

    async def test_a_new_generation_of_the_public_host_is_the_same_machine(self) -> None:
        async with self._running() as (provider, _):
            first = await provider.resolve(self.preview)
            second = await provider.resolve(replace(self.preview, generation=self.preview.generation + 1))
        assert [endpoint.origin for endpoint in endpoints(first)] == [endpoint.origin for endpoint in endpoints(second)]

    async def test_the_address_is_kept_as_the_api_says_it(self) -> None:
        async with self._running() as (provider, wire):
            target = await wire.record(provider.resolve(self.preview))
            said = [text for answer in wire.tape for text in strings(answer.body) if "://" in text]
        for endpoint in endpoints(target):
            urls = [plain(url) for url in said if endpoint.origin.host in url.lower()]
            query = f"?{endpoint.marker.decode()}" if endpoint.marker else ""
            kept = plain(f"{endpoint.origin}{endpoint.base_path.decode()}{query}")
            assert not urls or kept in urls, f"{kept} is none of what the API said: {urls}"

    async def test_several_may_ask_at_once(self) -> None:
        found: list[Target] = []
        async with self._running() as (provider, _):

            async def ask() -> None:
                found.append(await provider.resolve(self.preview))

            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(ask)
        assert len(found) == 3, "a call failed or answered nothing"
        for target in found:
            assert_sound(target)

    # --- failures ---

    async def test_an_unknown_machine_is_not_found(self) -> None:
        async with self._running() as (provider, _):
            if self.unknown is not None:
                error = await failure(provider, self.unknown)
                assert isinstance(error, NotFound), f"{error!r} is not NotFound"
                assert_told_nothing(error, self.secrets)

    async def test_a_closed_port_is_refused_without_asking(self) -> None:
        async with self._running() as (provider, wire):
            for port in self.closed_ports:
                error = await failure(provider, replace(self.preview, port=port))
                assert isinstance(error, PortNotAllowed), f"port {port}: {error!r} is not PortNotAllowed"
            assert wire.calls == 0, "the API was asked about a port that is never exposed"

    async def test_whatever_goes_wrong_with_the_api_is_typed_and_tells_nothing(self) -> None:
        async with self._running() as (provider, wire):
            secrets = await self._recorded(provider, wire)
            for call in range(len(wire.tape)):
                for name, fault in FAULTS.items():
                    wire.play(call, fault)
                    await self._try(provider, f"call {call}, {name}", secrets)

    async def test_an_answer_amiss_in_any_part_is_refused_or_does_not_matter(self) -> None:
        async with self._running() as (provider, wire):
            secrets = await self._recorded(provider, wire)
            for call in range(len(wire.tape)):
                for name, body in mutations(wire.tape[call].body):
                    wire.play(call, other_body(body))
                    await self._try(provider, f"call {call}, {name}", secrets)

    async def test_an_endless_answer_is_cut_off_and_closed(self) -> None:
        async with self._running() as (provider, wire):
            secrets = await self._recorded(provider, wire)
            for call in range(len(wire.tape)):
                flood = wire.play_flood(call)
                await self._try(provider, f"call {call}, endless", secrets)
                assert flood.sent <= 2 * 1024 * 1024, f"call {call}: {flood.sent} bytes of an endless answer were read"
                assert flood.closed, f"call {call}: the endless answer was left open"

    async def test_an_api_that_hangs_is_given_up_in_time(self) -> None:
        async with self._running(timeout=0.05) as (provider, wire):
            wire.hang(0)
            with anyio.fail_after(DEADLINE):
                error = await outcome(provider, self.preview)
            if wire.calls:
                assert isinstance(error, PreviewProxyError), "no answer, and yet a target"
                assert error.code == "provider_timeout", f"{error!r} is no timeout"
                assert_told_nothing(error, self.secrets)

    async def test_a_cancelled_call_leaves_the_provider_usable(self) -> None:
        async with self._running() as (provider, wire):
            wire.hang(0)
            async with anyio.create_task_group() as group:
                group.start_soon(outcome, provider, self.preview)
                with anyio.move_on_after(0.05):
                    await wire.hanging.wait()
                group.cancel_scope.cancel()
            wire.live()
            assert_sound(await provider.resolve(self.preview))

    # --- secrets ---

    async def test_nothing_that_prints_copies_or_logs_it_shows_a_secret(self) -> None:
        with logged() as lines:
            async with self._running() as (provider, _):
                target = await provider.resolve(self.preview)
                secrets = {*self.secrets, *credentials(target)}
                texts = [*shown(provider), *shown(target), pickled(provider), pickled(target), *lines]
        for text in texts:
            assert not occurring(secrets, text), f"a secret is shown in {censored(text, secrets)}"

    # --- the edge ---

    async def test_the_edges_own_failures_are_told_by_their_code(self) -> None:
        async with self._running() as (provider, _):
            for status, headers, body, code in self.edge_failures:
                assert isinstance(provider, SupportsExplainError)
                assert provider.may_explain(status, headers), f"{status} {body!r} is not worth a look"
                error = provider.explain_error(status, headers, body)
                assert isinstance(error, ProviderError), f"{status} {body!r} is taken for the app's"
                assert error.code == code, f"{status} {body!r}: {error.code}"
                assert error.retry_after is None or 1 <= error.retry_after <= 300
                assert len(error.detail) < 300, "the edge's own text belongs neither in logs nor on pages"

    async def test_the_apps_own_failures_pass(self) -> None:
        async with self._running() as (provider, _):
            if isinstance(provider, SupportsExplainError):
                for status, headers, body in APP_ANSWERS:
                    error = provider.explain_error(status, headers, body)
                    assert error is None, f"{status} {body!r} is taken for the edge's: {error!r}"

    async def test_no_forged_answer_does_harm(self) -> None:
        async with self._running() as (provider, _):
            if isinstance(provider, SupportsExplainError):
                for status, headers, _, _ in self.edge_failures:
                    for body in HOSTILE_BODIES:
                        error = provider.explain_error(status, headers, body)
                        assert error is None or isinstance(error, ProviderError)
                    for more in ((b"retry-after", b"9" * 400), (b"content-length", b"-1"), (b"content-type", b"\xff")):
                        assert provider.may_explain(status, (*headers, more)) in (True, False)

    # --- the end ---

    async def test_it_may_be_closed_unused_and_twice(self) -> None:
        async with self._running() as (provider, _):
            for _ in range(2):
                await close(provider)

    async def test_it_may_be_closed_after_use(self) -> None:
        async with self._running() as (provider, _):
            await provider.resolve(self.preview)
            for _ in range(2):
                await close(provider)

    async def _recorded(self, provider: Provider, wire: Wire) -> set[str]:
        """Every secret, after one call whose answers are then played back."""
        target = await wire.record(provider.resolve(self.preview))
        return {*self.secrets, *credentials(target)}

    async def _try(self, provider: Provider, what: str, secrets: Collection[str]) -> None:
        found: Target | Exception
        try:
            with anyio.fail_after(DEADLINE):
                found = await outcome(provider, self.preview)
        except Exception as error:
            found = error
        assert isinstance(found, PreviewProxyError | Target), f"{what}: {type(found).__name__} is no PreviewProxyError"
        if isinstance(found, Target):
            assert_sound(found)
        else:
            assert_told_nothing(found, secrets)


async def outcome(provider: Provider, preview: Preview) -> Target | PreviewProxyError:
    """What `resolve` returned, or the failure that it raised."""
    try:
        return await provider.resolve(preview)
    except PreviewProxyError as error:
        return error


async def failure(provider: Provider, preview: Preview) -> PreviewProxyError:
    """The failure that `resolve` has to raise."""
    found = await outcome(provider, preview)
    assert isinstance(found, PreviewProxyError), f"{preview} resolved, and should not have"
    return found


async def close(provider: Provider) -> None:
    """`aclose`, if there is one."""
    aclose = getattr(provider, "aclose", None)
    if aclose is not None:
        await aclose()


def endpoints(target: Target) -> list[Endpoint]:
    return [endpoint for endpoint in (target.http, target.websocket) if endpoint is not None]


def credentials(target: Target) -> set[str]:
    """The values of every credential of a target."""
    return {secret.reveal().decode() for endpoint in endpoints(target) for _, secret in endpoint.credentials}


def assert_sound(target: Target) -> None:
    """A target that requests can use, and that keeps its credentials to itself."""
    assert isinstance(target, Target), f"{type(target).__name__} is no Target"
    found = endpoints(target)
    assert found, "a target needs an endpoint for HTTP or WebSocket"
    for endpoint in found:
        secure = endpoint.origin.scheme == "https" or endpoint.origin.is_loopback
        assert secure, f"{endpoint.origin} would carry the credential in the clear"
        url = str(endpoint.origin).encode() + endpoint.base_path + b"?" + endpoint.marker
        assert not endpoint.leaks(url + target.id.encode()), "a credential is in the URL or the id"
        assert not endpoint.base_path.endswith(b"/"), "a base path has no slash at its end"
        names = [name for name, _ in endpoint.credentials]
        assert len({*names}) == len(names), "a credential header twice"
        assert all(is_token(name) and name == name.lower() for name in names), f"{names} are no header names"
    assert target.id.isprintable() and 1 <= len(target.id) <= 128, "the id is for logs: printable and short"
    assert target.expires_at is None or math.isfinite(target.expires_at), "expires_at is no time"


def plain(url: str) -> str:
    """A URL without what `endpoint_from_url` may change: a WebSocket's scheme, and a slash at the path's end."""
    scheme, _, rest = url.partition("://")
    before, question, query = rest.partition("?")
    return scheme.replace("ws", "http") + "://" + before.removesuffix("/") + question + query
