"""The API's calls by HTTP, and by stand-ins for the SDK's classes: the real ones run in a process of their own."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import anyio
import httpx
import pytest

from preview_proxy.core.models import Endpoint, Origin, Preview
from preview_proxy.errors import MachineUnavailable, NotFound, PreviewProxyError, ProviderError
from preview_proxy.providers.api import JsonApi
from preview_proxy.providers.blaxel import Blaxel
from preview_proxy.providers.blaxel_calls import Found, HttpCalls, SdkCalls

pytestmark = pytest.mark.anyio

CANARY = "sdk-canary-0123456789"
WANTED = {"metadata": {"name": "preview-proxy-3000"}, "spec": {"port": 3000, "public": False}}


class ApiError(Exception):
    def __init__(self, status_code: object) -> None:
        super().__init__(CANARY)
        self.status_code = status_code


class Sandboxes:
    """The SDK's class, which fails or hangs as told."""

    failure: BaseException | None = None

    @classmethod
    async def get(cls, name: str) -> Any:
        if cls.failure is not None:
            raise cls.failure
        await anyio.sleep_forever()


def failing(failure: BaseException | None) -> Any:
    return type("Failing", (Sandboxes,), {"failure": failure})


@pytest.mark.parametrize(
    ("failure", "kind", "code"),
    [
        (ApiError(401), ProviderError, "provider_refused"),
        (ApiError(404), NotFound, "machine_not_found"),
        (ApiError(429), ProviderError, "rate_limit_exceeded"),
        (ApiError(503), MachineUnavailable, "edge_runtime_host_unreachable"),
        (ApiError("401"), ProviderError, "provider_failed"),
        (ValueError(CANARY), ProviderError, "provider_failed"),
        (AttributeError(CANARY), ProviderError, "provider_failed"),
    ],
)
async def test_whatever_the_sdk_raises_is_told_by_its_status_alone(
    failure: Exception, kind: type[PreviewProxyError], code: str
) -> None:
    told = await SdkCalls(failing(failure)).preview("my-sandbox", WANTED)
    assert isinstance(told, PreviewProxyError)
    assert (type(told), told.code) == (kind, code)
    assert told.detail == f"the SDK raised {type(failure).__name__}"
    assert told.__context__ is None


async def test_a_token_that_the_sdk_cannot_make_is_told_too() -> None:
    class Tokens:
        async def create(self, expires_at: object) -> None:
            raise ApiError(403)

    told = await SdkCalls(failing(None)).token(Found({}, Tokens()), 2e9)
    assert isinstance(told, ProviderError) and told.code == "provider_refused"


@pytest.mark.parametrize("failure", [None, TimeoutError(CANARY)])
async def test_the_sdk_which_has_no_time_limit_gets_one(failure: BaseException | None) -> None:
    provider = Blaxel(sdk=failing(failure), timeout=0.05)
    with anyio.fail_after(5), pytest.raises(ProviderError) as caught:
        await provider.resolve(Preview("my-sandbox", 3000))
    assert caught.value.code == "provider_timeout" and caught.value.__context__ is None
    await provider.aclose()


# --- what the SDK answers ------------------------------------------------------------------------------------------


class Made:
    """What the SDK's objects hold, as the dictionary that they make of it."""

    def __init__(self, **fields: object) -> None:
        self._fields = fields

    def to_dict(self) -> dict[str, object]:
        return self._fields


class Working:
    """The SDK's `SandboxInstance`, its previews and their tokens in one; it notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[object] = []
        self.previews = self.tokens = self
        self.preview = Made(name="preview-proxy-3000")
        self.preview_token = Made(value=CANARY)

    async def get(self, name: str) -> Any:
        self.asked.append(name)
        return self

    async def create_if_not_exists(self, wanted: object) -> Any:
        self.asked.append(wanted)
        return self

    async def create(self, expires_at: datetime) -> Any:
        self.asked.append(expires_at)
        return self

    async def delete(self, name: str) -> None:
        self.asked.append(("delete", name))


async def test_the_sdk_is_asked_for_a_preview_and_a_token() -> None:
    sdk: Any = Working()
    calls = SdkCalls(sdk)
    found = await calls.preview("my-sandbox", WANTED)
    assert found == Found({"name": "preview-proxy-3000"}, sdk)
    assert await calls.token(found, 2e9) == {"value": CANARY}
    assert sdk.asked == ["my-sandbox", WANTED, datetime(2033, 5, 18, 3, 33, 20, tzinfo=UTC)]


async def test_the_sdk_deletes_a_token() -> None:
    sdk: Any = Working()
    assert await SdkCalls(sdk).delete_token("my-sandbox", "preview-proxy-3000", "token-1") is None
    assert sdk.asked == ["my-sandbox", "preview-proxy-3000", ("delete", "token-1")]


async def test_a_token_that_the_sdk_cannot_delete_is_told() -> None:
    told = await SdkCalls(failing(ApiError(404))).delete_token("my-sandbox", "preview-proxy-3000", "token-1")
    assert isinstance(told, NotFound)


# --- by HTTP -------------------------------------------------------------------------------------------------------


class Api:
    """Answers in turn, and notes what was asked."""

    def __init__(self, *answers: httpx.Response) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []
        self.bodies: list[bytes] = []
        transport = httpx.MockTransport(self._answer)
        endpoint = Endpoint(Origin("https", "api.example", 443))
        self.calls = HttpCalls(JsonApi(endpoint, credentials=(), timeout=5, transport=transport))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(f"{request.method} {request.url.raw_path.decode()}")
        self.bodies.append(request.content)
        return self._answers.pop(0)


PREVIEWS = "/sandboxes/my%2Fsandbox/previews"
THERE = httpx.Response(200, json={"spec": {"url": "https://x.example"}})


@pytest.mark.parametrize(
    ("statuses", "asked"),
    [
        ([], ["GET"]),
        ([404], ["GET", "POST"]),
        ([404, 409], ["GET", "POST", "GET"]),
    ],
    ids=["it is there", "it is created", "another worker was faster"],
)
async def test_a_preview_is_found_or_created(statuses: list[int], asked: list[str]) -> None:
    api = Api(*(httpx.Response(status, json={}) for status in statuses), THERE)
    found = await api.calls.preview("my/sandbox", WANTED)
    assert found == Found({"spec": {"url": "https://x.example"}}, f"{PREVIEWS}/preview-proxy-3000/tokens")
    paths = {"GET": f"{PREVIEWS}/preview-proxy-3000", "POST": PREVIEWS}
    assert api.asked == [f"{method} {paths[method]}" for method in asked]
    assert [json.loads(body) for body in api.bodies if body] == [WANTED] * asked.count("POST")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (httpx.Response(401, json={}), "provider_refused"),
        (httpx.Response(200, json=[]), "provider_failed"),
        (httpx.Response(200, content=b"<html>"), "provider_failed"),
    ],
)
async def test_what_the_api_cannot_give_is_told(answer: httpx.Response, code: str) -> None:
    api = Api(answer, answer, answer)
    found = Found({}, f"{PREVIEWS}/preview-proxy-3000/tokens")
    for told in (
        await api.calls.preview("my/sandbox", WANTED),
        await api.calls.token(found, 2e9),
        await api.calls.delete_token("my/sandbox", "preview-proxy-3000", "token-1"),
    ):
        assert isinstance(told, ProviderError) and told.code == code


async def test_an_api_that_is_not_there_is_told() -> None:
    def nobody(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError(CANARY)

    endpoint = Endpoint(Origin("https", "api.example", 443))
    told = await HttpCalls(JsonApi(endpoint, credentials=(), timeout=5, transport=httpx.MockTransport(nobody))).preview(
        "s", WANTED
    )
    assert isinstance(told, ProviderError) and CANARY not in str(told)


async def test_a_token_is_made_until_a_time_in_utc_and_deleted_by_its_name() -> None:
    api = Api(httpx.Response(200, json={"spec": {"token": CANARY}}), httpx.Response(200, json={}))
    tokens = f"{PREVIEWS}/preview-proxy-3000/tokens"
    assert await api.calls.token(Found({}, tokens), 2e9) == {"spec": {"token": CANARY}}
    assert await api.calls.delete_token("my/sandbox", "preview-proxy-3000", "a/b") is None
    assert api.asked == [f"POST {tokens}", f"DELETE {tokens}/a%2Fb"]
    assert json.loads(api.bodies[0])["spec"] == {"expiresAt": "2033-05-18T03:33:20Z"}
    await api.calls.aclose()
