from __future__ import annotations

import logging
from collections.abc import Iterator

import httpx
import pytest

from preview_proxy import logs, redact_logging
from tests.transports.test_relay_websocket import dial
from tests.world import world

pytestmark = pytest.mark.anyio

SECRET = "canary-of-a-cookie"


@pytest.fixture
def everything(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Every logger at DEBUG and without filters; what was before comes back."""
    before = {name: (logging.getLogger(name).level, list(logging.getLogger(name).filters)) for name in logs._LOUD}
    caplog.set_level(logging.DEBUG)
    for name in before:
        logging.getLogger(name).setLevel(logging.DEBUG)
        logging.getLogger(name).filters = []  # an example of the documentation may have called it before
    yield caplog
    for name, (level, filters) in before.items():
        logging.getLogger(name).setLevel(level)
        logging.getLogger(name).filters = filters


async def visit(caplog: pytest.LogCaptureFixture) -> None:
    """HTTP and a WebSocket, upstream by httpx's transport, with a cookie that is nobody's business."""
    async with world(transport=httpx.AsyncHTTPTransport(trust_env=False)) as w:
        uvicorn = logging.getLogger("uvicorn.error")  # the server has its own idea of it as it starts
        uvicorn.setLevel(logging.DEBUG)
        uvicorn.addHandler(caplog.handler)
        await w.get("/echo", headers={"Cookie": f"pp-development={w.gate}; own={SECRET}"})
        async with dial(w, headers={"Cookie": f"pp-development={w.gate}; own={SECRET}"}) as socket:
            await socket.send("x")
            await socket.recv()
        uvicorn.removeHandler(caplog.handler)


def shown(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.name for record in caplog.records if SECRET in record.getMessage()]


async def test_h23_one_call_keeps_cookies_out_of_other_libraries_logs(everything: pytest.LogCaptureFixture) -> None:
    await visit(everything)
    assert set(shown(everything)) >= {"uvicorn.error", "websockets.client"}, "or there is nothing to redact"
    everything.clear()
    redact_logging()
    await visit(everything)
    assert shown(everything) == []
    assert not [record for record in everything.records if record.name.startswith("httpcore")]


async def test_h23_urls_are_kept_out_too_and_what_went_wrong_is_not(everything: pytest.LogCaptureFixture) -> None:
    redact_logging()
    redact_logging()
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda request: httpx.Response(200))) as client:
        await client.get(f"https://issuer.example/?code={SECRET}")
    logging.getLogger("httpx").warning("a warning")
    assert [record.getMessage() for record in everything.records if record.name == "httpx"] == ["a warning"]
    assert all(len(logging.getLogger(name).filters) == 1 for name in logs._LOUD)
