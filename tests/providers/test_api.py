from __future__ import annotations

import httpx
import pytest

from preview_proxy.core.secret import Secret
from preview_proxy.errors import PreviewProxyError, ProviderError
from preview_proxy.providers.api import ApiAnswer, JsonApi, json_answer
from preview_proxy.providers.base import endpoint_from_url

pytestmark = pytest.mark.anyio

KEY = "api-key-canary-0123"


class Far(httpx.MockTransport):
    """An API that keeps each request and answers with `reply`; `closed` counts."""

    closed = 0

    def __init__(self, reply: httpx.Response | Exception) -> None:
        super().__init__(self.answer)
        self.reply = reply
        self.requests: list[httpx.Request] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply

    async def aclose(self) -> None:
        self.closed += 1


def api(far: httpx.AsyncBaseTransport | None) -> JsonApi:
    return JsonApi(
        endpoint_from_url("https://api.example.com/v0/"),
        credentials=((b"authorization", b"Bearer ", Secret(KEY)),),
        headers=((b"x-workspace", b"acme"),),
        timeout=5,
        transport=far,
    )


async def test_a_call_carries_the_credential_and_the_extra_headers_and_json() -> None:
    far = Far(httpx.Response(200, json={}))
    await api(far).call("POST", "/things/a%2Fb", {"a": [1]})
    [request] = far.requests
    assert (request.method, str(request.url)) == ("POST", "https://api.example.com/v0/things/a%2Fb")
    assert request.content == b'{"a":[1]}'
    assert dict(httpx.Headers(request.headers.raw)) == {
        "accept": "application/json",
        "accept-encoding": "identity",
        "authorization": f"Bearer {KEY}",
        "content-type": "application/json",
        "user-agent": "preview-proxy",
        "x-workspace": "acme",
        "host": "api.example.com",
        "content-length": "9",
    }
    assert request.extensions["timeout"] == {"connect": 5, "read": 5, "write": 5, "pool": 5}


async def test_a_call_without_a_body_declares_none() -> None:
    far = Far(httpx.Response(200, json=[]))
    await api(far).call("GET", "/things")
    assert far.requests[0].content == b"" and "content-type" not in far.requests[0].headers


@pytest.mark.parametrize(("status", "ok"), [(200, True), (204, True), (302, False), (404, False)])
async def test_every_status_is_an_answer(status: int, ok: bool) -> None:
    answer = await api(Far(httpx.Response(status, json=[1], headers={"X-A": "b"}))).call("GET", "/")
    assert isinstance(answer, ApiAnswer)
    assert (answer.status, answer.ok, answer.document) == (status, ok, [1])
    assert (b"x-a", b"b") in answer.headers


@pytest.mark.parametrize(
    "reply",
    [
        httpx.Response(200, content=b"<html>"),
        httpx.Response(200, content=b'"' + b"x" * 65536 + b'"'),
        httpx.Response(200, content=b"[" * 60_000),
        httpx.Response(200, headers={"content-encoding": "br"}, stream=httpx.ByteStream(b"{}")),
    ],
)
async def test_what_is_not_small_plain_json_is_no_document(reply: httpx.Response) -> None:
    answer = await api(Far(reply)).call("GET", "/")
    assert isinstance(answer, ApiAnswer) and answer.document is None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (httpx.ConnectError(KEY), "provider_failed"),
        (ValueError(KEY), "provider_failed"),
        (httpx.ReadTimeout(KEY), "provider_timeout"),
        (TimeoutError(KEY), "provider_timeout"),
    ],
)
async def test_a_failure_is_answered_and_not_raised(error: Exception, code: str) -> None:
    failure = await api(Far(error)).call("GET", "/")
    assert isinstance(failure, ProviderError)
    assert failure.code == code and KEY not in str(failure)
    assert failure.__context__ is None


async def test_it_closes_the_transport_that_it_was_given_or_has_made() -> None:
    far = Far(httpx.Response(200))
    await api(far).aclose()
    assert far.closed == 1
    await api(None).aclose()


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (ProviderError("provider_timeout"), "provider_timeout"),
        (ApiAnswer(200, (), [1]), "provider_failed"),
        (ApiAnswer(200, (), None), "provider_failed"),
        (ApiAnswer(400, (), {}), "provider_failed"),
        (ApiAnswer(401, (), {}), "provider_refused"),
        (ApiAnswer(404, (), {"message": "gone"}), "machine_not_found"),
        (ApiAnswer(404, (), None), "provider_failed"),
        (ApiAnswer(429, (), None), "rate_limit_exceeded"),
    ],
)
def test_an_answer_is_its_json_object_or_a_failure(answer: ApiAnswer | ProviderError, code: str) -> None:
    failure = json_answer(answer)
    assert isinstance(failure, PreviewProxyError) and failure.code == code
    assert json_answer(ApiAnswer(201, (), {"a": 1})) == {"a": 1}
