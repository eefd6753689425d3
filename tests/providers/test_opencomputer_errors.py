from __future__ import annotations

import json
import re

import pytest

from preview_proxy.core.models import RawHeaders
from preview_proxy.errors import CODES, MachineUnavailable
from preview_proxy.providers.opencomputer_errors import EDGE_ERRORS, edge_error, may_be_edge_error
from preview_proxy.testing.opencomputer_state import EDGE_REFUSALS, RELOADING

JSON: RawHeaders = ((b"content-type", b"application/json"),)
TEXT: RawHeaders = ((b"content-type", b"text/plain; charset=utf-8"),)


@pytest.mark.parametrize(("status", "text"), EDGE_REFUSALS.values())
@pytest.mark.parametrize("form", ["json", "text"])
def test_each_error_of_the_edge_is_told_by_its_text(status: int, text: str, form: str) -> None:
    said = text.format(sandbox="sb-a1b2c3")
    headers, body = (JSON, json.dumps({"error": said}).encode()) if form == "json" else (TEXT, f"{said}\n".encode())
    assert may_be_edge_error(status, headers)
    error = edge_error(status, headers, body)
    assert error is not None
    [row] = [row for row in EDGE_ERRORS if row.status == status and re.fullmatch(row.text, said)]
    assert (type(error), error.code, error.detail) == (row.kind, row.code, f"the edge answered {status}")
    assert error.retry_after == (5 if row.kind is MachineUnavailable else None)
    assert error.code in CODES


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (401, JSON, b'{"error": "log in first"}'),
        (401, JSON, b'{"error": "invalid preview token, sorry"}'),
        (401, JSON, b'{"error": ["invalid preview token"]}'),
        (401, JSON, b'{"message": "invalid preview token"}'),
        (401, ((b"content-type", b"text/html"),), b"invalid preview token"),
        (402, JSON, b'{"error": "pay first"}'),
        (403, JSON, b'{"error": "invalid preview token"}'),
        (404, TEXT, b"sandbox not found"),
        (404, TEXT, b"page not found"),
        (410, JSON, b'{"error": "the sandbox is gone"}'),
        (502, TEXT, b"Bad Gateway"),
        (503, ((b"content-type", b"text/html; charset=utf-8"),), RELOADING),
        (401, TEXT, b"invalid preview token" + b" " * 5000),
        (401, JSON, b"\xff" * 100),
    ],
)
def test_every_other_answer_is_the_apps(status: int, headers: RawHeaders, body: bytes) -> None:
    assert edge_error(status, headers, body) is None
