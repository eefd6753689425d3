"""What neither an answer nor a log line may tell, whatever happened."""

from __future__ import annotations

import logging

import pytest

from tests.world import Answer, World


def secrets_of(w: World) -> list[str]:
    """The secrets of the world, as they are at this moment."""
    tokens = [token for grant in w.nullspace.grants.values() for token in grant.tokens.values()]
    return [*tokens, w.gate, w.nullspace.api_key, "__ns_preview"]


def says_nothing(answer: Answer, w: World) -> None:
    """No part of an answer tells of upstream, or repeats the request, which has a canary wherever it may."""
    text = answer.body + b"".join(name + b": " + value + b"\n" for name, value in answer.headers)
    ports = [f":{port}" for port in (w.nullspace.edge_port, w.dev.port)]
    for secret in (*secrets_of(w), *ports, w.nullspace.edge_domain, "canary"):
        assert secret.encode() not in text, secret


def records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What was logged, but for what asyncio in debug mode says of steps that a busy machine took long for."""
    return [record for record in caplog.records if record.name != "asyncio"]


def one_line(caplog: pytest.LogCaptureFixture, w: World, answer: Answer, code: str | None) -> None:
    """What was logged: one line. None, or one about the broken body, where the server answered."""
    messages = [record.getMessage() for record in caplog.records if record.name.startswith("preview_proxy")]
    assert len(messages) == 1 or (code is None and not messages)
    for message in messages:
        assert message.isprintable()
        assert message.isascii()
        assert f" {answer.status} " in message
        assert code is None or code in message
        for secret in (*secrets_of(w), "canary", "?"):
            assert secret not in message
