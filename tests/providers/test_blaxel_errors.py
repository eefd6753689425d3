from __future__ import annotations

import json

import pytest

from preview_proxy.core.models import RawHeaders
from preview_proxy.errors import CODES, MachineUnavailable, ProviderError
from preview_proxy.providers.blaxel_errors import EDGE_ERRORS, edge_error, may_be_edge_error

MARKED: RawHeaders = ((b"content-type", b"application/json"), (b"x-blaxel-source", b"platform"))


def body(code: object) -> bytes:
    return json.dumps({"error": {"code": code, "message": "not for visitors", "origin": "platform"}}).encode()


@pytest.mark.parametrize("code", EDGE_ERRORS)
@pytest.mark.parametrize("by", ["header", "body"])
def test_each_documented_code_is_told_by_its_header_or_else_its_body(code: str, by: str) -> None:
    headers = (*MARKED, (b"x-blaxel-error-code", code.encode())) if by == "header" else MARKED
    error = edge_error(404, headers, b"" if by == "header" else body(code))
    kind, ours = EDGE_ERRORS[code]
    assert error is not None
    assert (type(error), error.code, error.detail) == (kind, ours, f"the edge answered 404 {code}")
    assert ours in CODES


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [(502, MachineUnavailable, "preview_service_not_ready"), (500, ProviderError, "provider_failed")],
)
@pytest.mark.parametrize("content", [b"", b"<html>", body("NEW_CODE"), body(7), body("x" * 5000), b"[" * 4000])
def test_a_marked_answer_without_a_known_code_is_told_by_its_status(
    status: int, kind: type, code: str, content: bytes
) -> None:
    error = edge_error(status, MARKED, content)
    assert error is not None and (type(error), error.code) == (kind, code)
    assert "not for visitors" not in str(error)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (401, ()),
        (401, ((b"x-blaxel-source", b"app"),)),
        (401, ((b"x-blaxel-error-code", b"AUTHENTICATION_FAILED"),)),
        (200, MARKED),
        (302, MARKED),
    ],
)
def test_an_answer_without_the_mark_is_the_apps(status: int, headers: RawHeaders) -> None:
    assert not may_be_edge_error(status, headers)
    assert edge_error(status, headers, body("AUTHENTICATION_FAILED")) is None


def test_waiting_is_told_where_it_helps() -> None:
    headers = (*MARKED, (b"retry-after", b"7"))
    waiting, refused = (
        edge_error(404, headers, body("WORKLOAD_UNAVAILABLE")),
        edge_error(401, headers, body("FORBIDDEN")),
    )
    assert waiting is not None and refused is not None
    assert (waiting.retry_after, refused.retry_after) == (7, None)
