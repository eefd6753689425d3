"""A request that shows its credentials to nobody but the transport."""

from __future__ import annotations

import httpx
import pytest
from opentelemetry.instrumentation.httpx import AsyncOpenTelemetryTransport
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from preview_proxy.core.secret import Secret
from preview_proxy.sealed import SealedRequest

pytestmark = pytest.mark.anyio

CANARY = "canary-of-a-credential"
OWN = [(b"x-own", b"1"), (b"x-own", b"2")]


def sealed(content: bytes | None = None) -> SealedRequest:
    credentials = ((b"authorization", b"Bearer ", Secret(CANARY)),)
    return SealedRequest("POST", "https://api.example/x", OWN, credentials, content=content)


@pytest.mark.parametrize("content", [None, b"body"])
def test_h14_only_raw_headers_hold_the_credential_and_once(content: bytes | None) -> None:
    request = sealed(content)
    assert request.headers.raw[-1] == (b"authorization", b"Bearer " + CANARY.encode())
    assert [name for name, _ in request.headers.raw].count(b"authorization") == 1
    assert request.headers.get_list("x-own") == ["1", "2"]
    assert "authorization" not in request.headers
    copies = dict(request.headers), request.headers.multi_items(), httpx.Headers(request.headers).raw
    assert CANARY not in repr((request, request.headers, request.headers.copy().raw, vars(request), *copies))


def test_h14_other_headers_do_not_take_it_along_or_away() -> None:
    request = sealed()
    request.headers = httpx.Headers({"x-other": "1"})
    assert request.headers.raw == [(b"x-other", b"1"), (b"authorization", b"Bearer " + CANARY.encode())]


async def test_h21_tracing_that_records_every_header_records_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_REQUEST", ".*")
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(204)

    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    transport = AsyncOpenTelemetryTransport(httpx.MockTransport(answer), tracer_provider=provider)
    await transport.handle_async_request(sealed(b"body"))
    [span] = spans.get_finished_spans()
    assert "x_own" in span.to_json() and CANARY not in span.to_json()
    assert (b"authorization", b"Bearer " + CANARY.encode()) in sent[0].headers.raw
