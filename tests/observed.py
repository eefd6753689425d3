"""Everything that an operator could watch a server with: all loggers at DEBUG, and OpenTelemetry with every header."""

from __future__ import annotations

import logging
import sys

from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from starlette.types import ASGIApp

EVERY = [".*"]


def observed(app: ASGIApp) -> ASGIApp:
    """`app` with all of that around it, said to standard error."""
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr, force=True)
    for name in ("httpx", "httpcore", "asyncio", "uvicorn", "hypercorn", "granian"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stderr)))
    HTTPXClientInstrumentor().instrument(tracer_provider=provider)
    return OpenTelemetryMiddleware(app, tracer_provider=provider)
