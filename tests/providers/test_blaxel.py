from __future__ import annotations

import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import httpx
import pytest

from preview_proxy.core.models import Preview, Target
from preview_proxy.core.secret import Secret
from preview_proxy.errors import ConfigurationError, MachineUnavailable, NotFound, PortNotAllowed, ProviderError
from preview_proxy.providers.blaxel import Blaxel
from preview_proxy.testing import BlaxelEmulator
from tests.vendors import blaxel_provider

pytestmark = pytest.mark.anyio

API_KEY = "blaxel-key-canary-0123"
PREVIEW = Preview("my-sandbox", 3000)
NAME = "preview-proxy-3000"
PREVIEWS = "/v0/sandboxes/my-sandbox/previews"


@pytest.fixture
async def blaxel() -> AsyncIterator[BlaxelEmulator]:
    async with BlaxelEmulator() as emulator:
        emulator.add_sandbox("my-sandbox", {3000: 9})
        yield emulator


Make = Callable[..., Blaxel]


@pytest.fixture
async def provider(blaxel: BlaxelEmulator) -> AsyncIterator[Make]:
    """Makes providers of the emulator's, and closes them at the end."""
    made: list[Blaxel] = []

    def make(**options: Any) -> Blaxel:
        made.append(blaxel_provider(blaxel, **options))
        return made[-1]

    yield make
    for each in made:
        await each.aclose()


def calls(blaxel: BlaxelEmulator) -> list[tuple[str, str]]:
    return [(method, path) for method, path, _ in blaxel.api_requests]


async def test_a_private_preview_is_created_where_there_is_none_and_a_token_made(
    blaxel: BlaxelEmulator, provider: Make
) -> None:
    target = await provider().resolve(PREVIEW)
    [made] = blaxel.previews
    [token] = made.tokens.values()
    assert (made.name, made.port, made.public) == (NAME, 3000, False)
    assert target.http is not None and target.websocket is not None
    assert target.http.origin.host == f"{made.id}.{blaxel.edge_domain}"
    assert (
        target.http.credentials == ((b"x-blaxel-preview-token", Secret(token.value)),) == target.websocket.credentials
    )
    assert (target.http.marker, target.http.max_socket_age, target.websocket.max_socket_age) == (b"", None, 900)
    assert (target.id, target.expires_at) == (token.name, token.ends)
    assert token.expires_at.endswith("Z") and token.ends - blaxel.clock() == pytest.approx(900, abs=5)
    assert calls(blaxel) == [
        ("GET", f"{PREVIEWS}/{NAME}"),
        ("POST", PREVIEWS),
        ("POST", f"{PREVIEWS}/{NAME}/tokens"),
    ]
    assert blaxel.api_requests[1].json == {"metadata": {"name": NAME}, "spec": {"port": 3000, "public": False}}


async def test_the_next_target_takes_two_calls_and_has_another_token(blaxel: BlaxelEmulator, provider: Make) -> None:
    made = provider()
    first = await made.resolve(PREVIEW)
    blaxel.api_requests.clear()
    second = await made.resolve(PREVIEW)
    assert first.http is not None and second.http is not None
    assert first.http.origin == second.http.origin and first.http != second.http
    assert [method for method, _ in calls(blaxel)] == ["GET", "POST"]


async def test_a_private_preview_of_somebody_elses_is_used_as_it_is(blaxel: BlaxelEmulator, provider: Make) -> None:
    theirs = blaxel.add_preview("my-sandbox", "shop-3000", 3000, public=False)
    await provider(preview_name="shop-{port}").resolve(PREVIEW)
    assert blaxel.previews == [theirs] and len(theirs.tokens) == 1


@pytest.mark.parametrize(("port", "public", "message"), [(3000, True, "it is public"), (4000, False, "another port")])
async def test_one_that_is_public_or_for_another_port_is_refused_before_a_token_is_made(
    blaxel: BlaxelEmulator, provider: Make, port: int, public: bool, message: str
) -> None:
    blaxel.add_preview("my-sandbox", NAME, port, public=public)
    with pytest.raises(ProviderError, match=message):
        await provider().resolve(PREVIEW)
    assert [method for method, _ in calls(blaxel)] == ["GET"]


async def test_one_that_is_being_deleted_is_waited_for(blaxel: BlaxelEmulator, provider: Make) -> None:
    blaxel.add_preview("my-sandbox", NAME, 3000, public=False).status = "DELETING"
    with pytest.raises(MachineUnavailable) as caught:
        await provider().resolve(PREVIEW)
    assert caught.value.retry_after == 5


async def test_response_headers_and_a_custom_domain_are_for_a_preview_created_here(
    blaxel: BlaxelEmulator, provider: Make
) -> None:
    cors = {"Access-Control-Allow-Origin": "https://app.acme.com", "Vary": "Origin"}
    domain = "{port}-{machine}.acme.localhost"
    target = await provider(response_headers=cors, custom_domain=domain).resolve(PREVIEW)
    [made] = blaxel.previews
    assert (made.response_headers, made.custom_domain) == (cors, "3000-my-sandbox.acme.localhost")
    assert target.http is not None and target.http.origin.host == "3000-my-sandbox.acme.localhost"


async def test_a_custom_domain_that_is_no_host_with_this_machine_is_an_error(
    blaxel: BlaxelEmulator, provider: Make
) -> None:
    blaxel.add_sandbox("m" * 60, {})
    with pytest.raises(ProviderError, match="is no host"):
        await provider(custom_domain="{port}-{machine}.acme.dev").resolve(Preview("m" * 60, 30000))


async def test_a_url_outside_the_domains_is_refused(blaxel: BlaxelEmulator, provider: Make) -> None:
    with pytest.raises(ProviderError, match=r"must be under one of: preview\.bl\.run"):
        await provider(domains=["preview.bl.run"]).resolve(PREVIEW)


@pytest.mark.parametrize("port", [80, 443, 8080])
async def test_the_platforms_ports_are_refused_without_asking(
    blaxel: BlaxelEmulator, provider: Make, port: int
) -> None:
    with pytest.raises(PortNotAllowed):
        await provider().resolve(Preview("my-sandbox", port))
    assert blaxel.api_requests == []


async def test_an_unknown_sandbox_is_not_found(blaxel: BlaxelEmulator, provider: Make) -> None:
    with pytest.raises(NotFound) as caught:
        await provider().resolve(Preview("gone", 3000))
    assert caught.value.code == "machine_not_found"


async def test_a_wrong_key_is_refused_and_not_told(blaxel: BlaxelEmulator, provider: Make) -> None:
    with pytest.raises(ProviderError) as caught:
        await provider(api_key=API_KEY).resolve(PREVIEW)
    assert caught.value.code == "provider_refused"
    frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True).stack
    assert API_KEY not in str([frame.locals for frame in frames if "preview_proxy/providers" in frame.filename])


async def test_a_preview_that_another_worker_creates_meanwhile_is_used(blaxel: BlaxelEmulator, provider: Make) -> None:
    class Slow(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.method == "POST" and not blaxel.previews:
                blaxel.add_preview("my-sandbox", NAME, 3000, public=False)
            return await super().handle_async_request(request)

    made = provider(transport=Slow(trust_env=False))
    assert await made.resolve(PREVIEW)
    assert [method for method, _ in calls(blaxel)] == ["GET", "POST", "GET", "POST"]
    await made.aclose()


async def test_a_target_is_taken_back_by_deleting_its_token(blaxel: BlaxelEmulator, provider: Make) -> None:
    made = provider()
    target, other = await made.resolve(PREVIEW), await made.resolve(PREVIEW)
    await made.revoke(PREVIEW, target)
    await made.revoke(PREVIEW, target)
    assert list(blaxel.previews[0].tokens) == [other.id]
    with pytest.raises(ProviderError, match="provider_refused"):
        await provider(api_key=API_KEY).revoke(PREVIEW, other)


async def test_taking_back_is_given_up_in_time() -> None:
    async def never(request: httpx.Request) -> httpx.Response:
        await anyio.sleep_forever()
        raise AssertionError

    made = Blaxel(API_KEY, workspace="acme", transport=httpx.MockTransport(never), timeout=0.02)
    with pytest.raises(ProviderError, match="provider_timeout"):
        await made.revoke(PREVIEW, Target("token-1", None, None))


def answers(*documents: object) -> httpx.MockTransport:
    """An API with these answers, one after the other."""
    following = iter(documents)
    return httpx.MockTransport(lambda request: httpx.Response(200, json=next(following)))


SPEC = {"port": 3000, "public": False, "url": "https://abc.preview.bl.run"}
ISSUED = {"token": "token-canary-0123", "expiresAt": "2036-04-23T12:15:00Z"}


async def resolved(preview: object, token: object) -> Any:
    made = Blaxel(API_KEY, workspace="acme", transport=answers(preview, token))
    return await made.resolve(PREVIEW)


@pytest.mark.parametrize(
    ("metadata", "target_id"),
    [
        ({"name": "token-1"}, "token-1"),
        ({"name": "token-canary-0123"}, "abc.preview.bl.run"),
        ({"name": "two\nlines"}, "abc.preview.bl.run"),
        ({"name": 7}, "abc.preview.bl.run"),
        (None, "abc.preview.bl.run"),
    ],
)
async def test_the_id_is_fit_for_a_log(metadata: object, target_id: str) -> None:
    assert (await resolved({"spec": SPEC}, {"metadata": metadata, "spec": ISSUED})).id == target_id


@pytest.mark.parametrize(
    ("preview", "token"),
    [
        ({}, {"spec": ISSUED}),
        ({"spec": []}, {"spec": ISSUED}),
        ({"spec": SPEC | {"public": None}}, {"spec": ISSUED}),
        ({"spec": SPEC | {"public": 0}}, {"spec": ISSUED}),
        ({"spec": SPEC | {"port": True}}, {"spec": ISSUED}),
        ({"spec": SPEC | {"url": None}}, {"spec": ISSUED}),
        ({"spec": SPEC | {"url": "http://abc.preview.bl.run"}}, {"spec": ISSUED}),
        ({"spec": SPEC | {"url": "https://abc.preview.bl.run?bl_preview_token=x"}}, {"spec": ISSUED}),
        ({"spec": SPEC}, {}),
        ({"spec": SPEC}, {"spec": ISSUED | {"token": None}}),
        ({"spec": SPEC}, {"spec": ISSUED | {"token": "short"}}),
        ({"spec": SPEC}, {"spec": ISSUED | {"expiresAt": "soon"}}),
        ([], {"spec": ISSUED}),
        ({"spec": SPEC}, []),
    ],
)
async def test_an_answer_amiss_in_what_we_use_is_refused(preview: object, token: object) -> None:
    with pytest.raises(ProviderError) as caught:
        await resolved(preview, token)
    assert caught.value.code == "provider_failed" and "token-canary" not in str(caught.value)


async def test_the_request_is_as_documented() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(401)

    with pytest.raises(ProviderError):
        await Blaxel(Secret(API_KEY), workspace="acme", transport=httpx.MockTransport(answer)).resolve(PREVIEW)
    assert str(seen[0].url) == f"https://api.blaxel.ai{PREVIEWS}/{NAME}"
    headers = httpx.Headers(seen[0].headers.raw)
    assert headers["x-blaxel-authorization"] == f"Bearer {API_KEY}"
    assert (headers["x-blaxel-workspace"], headers["blaxel-version"]) == ("acme", "2026-09-22")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"api_key": None}, "either an api_key or the SDK's"),
        ({"sdk": object}, "either an api_key or the SDK's"),
        ({"api_key": None, "sdk": object}, "are for an api_key"),
        ({"api_key": "short"}, "api_key: a credential"),
        ({"workspace": None}, "workspace must be"),
        ({"workspace": "a b"}, "workspace must be"),
        ({"expires_in": 59}, "60 to 86400"),
        ({"expires_in": 86_401}, "60 to 86400"),
        ({"timeout": 0}, "timeout must be greater"),
        ({"base_url": "http://api.blaxel.ai"}, "base_url: the URL must be https"),
        ({"domains": "preview.bl.run"}, "domains: give a list"),
        ({"preview_name": "fixed"}, "preview_name must be"),
        ({"preview_name": "{port}/../x"}, "preview_name must be"),
        ({"custom_domain": "localhost"}, "custom_domain must be"),
        ({"custom_domain": "https://a.dev"}, "custom_domain must be"),
        ({"response_headers": {"a b": "c"}}, "response_headers: 'a b'"),
        ({"response_headers": {"x": "a\r\nb"}}, "response_headers: 'x'"),
    ],
)
def test_what_could_not_work_is_refused_at_construction(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Blaxel(**{"api_key": API_KEY, "workspace": "acme"} | options)
    assert message in str(caught.value) and API_KEY not in str(caught.value)


def test_its_repr_shows_no_key() -> None:
    assert repr(Blaxel(API_KEY, workspace="acme")) == "Blaxel(preview_name='preview-proxy-{port}')"
