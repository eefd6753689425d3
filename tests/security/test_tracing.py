"""A tracer that records every header of httpx finds none of ours."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from preview_proxy import Preview, Static
from preview_proxy.providers.static import fixed_target
from preview_proxy.testing import DevServer
from tests.transports.test_relay_websocket import dial
from tests.world import MACHINE, world

pytestmark = pytest.mark.anyio

SECRET = "canary-of-the-target"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    for kind in ("REQUEST", "RESPONSE"):
        monkeypatch.setenv(f"OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_CLIENT_{kind}", ".*")
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = HTTPXClientInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    yield exporter
    instrumentor.uninstrument()


def text(spans: InMemorySpanExporter) -> str:
    return "\n".join(span.to_json() for span in spans.get_finished_spans())


async def test_h21_a_relay_leaves_no_span_with_a_header_or_a_query(spans: InMemorySpanExporter) -> None:
    async with DevServer() as dev:
        target = fixed_target(
            f"http://localhost:{dev.port}", http_credentials={"X-Token": SECRET}, allow_insecure_loopback=True
        )
        async with world(provider=lambda _: Static({Preview(MACHINE, 3000): target})) as w:
            await w.get("/echo?code=canary-of-the-app", headers={"X-Own": "canary-of-the-visitor"})
            async with dial(w, "/ws?code=canary-of-the-app") as socket:
                await socket.send("x")
                await socket.recv()
        assert [received.values(b"x-token") for received in dev.received] == [[SECRET.encode()]] * 2
    assert "canary" not in text(spans)


async def test_h21_a_mint_shows_no_token(spans: InMemorySpanExporter) -> None:
    """Of the API key a tracer that is told to record every header records it: it is the operator's own request."""
    async with world() as w:
        await w.get("/echo")
        tokens = [request.values(b"x-nullspace-preview-proxy-token")[0] for request in w.nullspace.edge_requests]
    assert spans.get_finished_spans(), "or nothing was traced"
    assert not [token for token in tokens if token.decode() in text(spans)]
