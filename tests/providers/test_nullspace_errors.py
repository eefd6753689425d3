from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preview_proxy.core.models import RawHeaders
from preview_proxy.errors import (
    CODES,
    CredentialRejected,
    MachineUnavailable,
    NotFound,
    PortNotAllowed,
    PreviewProxyError,
    ProviderError,
)
from preview_proxy.providers.answers import json_document
from preview_proxy.providers.api import ApiAnswer
from preview_proxy.providers.nullspace_errors import (
    API_ERRORS,
    EDGE_ERRORS,
    api_error,
    edge_error,
    may_be_edge_error,
    sdk_error,
)

JSON: RawHeaders = ((b"content-type", b"application/json"),)


def body(code: object, **more: object) -> bytes:
    return json.dumps({"error": "not for visitors", "code": code, "request_id": "req_1", **more}).encode()


@pytest.mark.parametrize("status", [401, 403, 429, 502, 503])
@pytest.mark.parametrize(
    "headers",
    [
        JSON,
        ((b"content-type", b"Application/JSON; charset=utf-8"), (b"x-request-id", b"req_1")),
        (*JSON, (b"content-length", b"4096")),
        (*JSON, (b"content-length", b"0")),
    ],
)
def test_r15_a_small_json_answer_with_the_right_status_may_be_the_edges(status: int, headers: RawHeaders) -> None:
    assert may_be_edge_error(status, headers)


@pytest.mark.parametrize("status", [200, 204, 302, 400, 404, 500, 504])
def test_r15_another_status_is_the_apps(status: int) -> None:
    assert not may_be_edge_error(status, JSON)


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ((b"content-type", b"text/html"),),
        ((b"content-type", b"application/problem+json"),),
        (*JSON, *JSON),
        (*JSON, (b"content-encoding", b"gzip")),
        (*JSON, (b"content-length", b"4097")),
        (*JSON, (b"content-length", b"5000000")),
        (*JSON, (b"content-length", b"+1")),
        (*JSON, (b"content-length", "²".encode("latin-1"))),
    ],
)
def test_r15_a_head_unlike_the_edges_is_the_apps(headers: RawHeaders) -> None:
    assert not may_be_edge_error(401, headers)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("preview_proxy_token_missing", CredentialRejected),
        ("preview_proxy_token_expired", CredentialRejected),
        ("preview_proxy_token_revoked", CredentialRejected),
        ("preview_proxy_token_invalid", CredentialRejected),
        ("preview_proxy_token_scope_mismatch", CredentialRejected),
        ("preview_grant_revoked", CredentialRejected),
        ("edge_token_missing", CredentialRejected),
        ("edge_token_expired", CredentialRejected),
        ("preview_proxy_token_disabled", ProviderError),
        ("preview_grant_disabled", ProviderError),
        ("preview_machine_disabled", ProviderError),
        ("rate_limit_exceeded", ProviderError),
        ("edge_runtime_host_unreachable", MachineUnavailable),
        ("preview_service_not_ready", MachineUnavailable),
        ("machine_paused_auto_resume_disabled", MachineUnavailable),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_r15_each_documented_code_of_the_edge_keeps_its_name(code: str, kind: type, nested: bool) -> None:
    content = json.dumps({"error": {"code": code}}).encode() if nested else body(code)
    error = edge_error(401, JSON, content)
    assert error is not None and type(error) is kind
    assert error.code == code
    assert error.detail == "the edge answered 401"


@pytest.mark.parametrize(
    ("code", "ours"),
    [
        ("preview_sandbox_disabled", "preview_machine_disabled"),
        ("sandbox_paused_auto_resume_disabled", "machine_paused_auto_resume_disabled"),
    ],
)
def test_codes_from_before_the_renaming_are_read(code: str, ours: str) -> None:
    error = edge_error(503, JSON, body(code))
    assert error is not None and error.code == ours


@pytest.mark.parametrize("code", ["preview_grant_invalid", "edge_token_invalid", "edge_token_scope_mismatch"])
def test_undocumented_refusals_that_the_sdk_knows_are_refusals(code: str) -> None:
    assert type(edge_error(401, JSON, body(code))) is CredentialRejected


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b'"edge_token_missing"',
        b"{",
        b"\xff\xfe",
        b"[" * 4000,
        b"{}",
        body("not_signed_in"),
        body("EDGE_TOKEN_MISSING"),
        body(None),
        body(401),
        body(["edge_token_missing"]),
        body("machine_not_found"),
        body("edge_token_missing", padding="x" * 4096),
        json.dumps({"error": {"message": "x"}, "code": "edge_token_missing"}).encode(),
    ],
)
def test_r15_every_other_body_is_the_apps_own(content: bytes) -> None:
    assert edge_error(401, JSON, content) is None


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        ([b"1"], 1),
        ([b"300"], 300),
        ([], 5),
        ([b"0"], 5),
        ([b"301"], 5),
        ([b"99999999"], 5),
        ([b"-1"], 5),
        ([b"7", b"7"], 5),
        ([b"Wed, 21 Oct 2026 07:28:00 GMT"], 5),
        ([b"5\r\nX: y"], 5),
    ],
)
def test_v07_retry_after_is_1_to_300_seconds_or_5(values: list[bytes], seconds: int) -> None:
    headers = tuple((b"retry-after", value) for value in values)
    for code in ("rate_limit_exceeded", "preview_service_not_ready"):
        error = edge_error(503, headers, body(code))
        assert error is not None and error.retry_after == seconds


def test_a_refused_credential_says_nothing_about_waiting() -> None:
    error = edge_error(401, ((b"retry-after", b"7"),), body("preview_proxy_token_expired"))
    assert error is not None and error.retry_after is None


@pytest.mark.parametrize(
    ("status", "content", "kind", "code"),
    [
        (400, body("unsupported_preview_port"), PortNotAllowed, "unsupported_preview_port"),
        (400, body("bad_request"), ProviderError, "provider_failed"),
        (401, body("unauthorized"), ProviderError, "provider_refused"),
        (403, body("permission_denied"), ProviderError, "provider_refused"),
        (403, body("preview_machine_disabled"), ProviderError, "preview_machine_disabled"),
        (403, b"<html>", ProviderError, "provider_refused"),
        (404, body("machine_not_found"), NotFound, "machine_not_found"),
        (404, body("sandbox_not_found"), NotFound, "machine_not_found"),
        (404, body("route_gone"), NotFound, "machine_not_found"),
        (404, b"<html>", ProviderError, "provider_failed"),
        (408, b"", ProviderError, "provider_timeout"),
        (409, body("transition_in_progress"), MachineUnavailable, "edge_runtime_host_unreachable"),
        (409, body("conflict"), ProviderError, "provider_failed"),
        (429, b"", ProviderError, "rate_limit_exceeded"),
        (500, body("internal"), ProviderError, "provider_failed"),
        (503, b"", MachineUnavailable, "edge_runtime_host_unreachable"),
        (503, body("machine_paused_auto_resume_disabled"), MachineUnavailable, "machine_paused_auto_resume_disabled"),
        (504, b"", ProviderError, "provider_timeout"),
        (307, b"", ProviderError, "provider_failed"),
    ],
)
def test_an_error_of_the_api_is_told_by_code_or_else_by_status(
    status: int, content: bytes, kind: type[PreviewProxyError], code: str
) -> None:
    error = api_error(ApiAnswer(status, ((b"retry-after", b"9"),), json_document(content)))
    assert (type(error), error.code) == (kind, code)
    assert error.retry_after == (9 if kind is MachineUnavailable or code == "rate_limit_exceeded" else None)
    assert str(status) in error.detail and "not for visitors" not in str(error)


@pytest.mark.parametrize("wait", [None, 0.0, float("inf"), float("nan"), "7", 7.0])
def test_an_error_of_the_sdk_is_told_by_its_name_and_code(wait: object) -> None:
    from nullspace import RateLimitError

    error = RateLimitError("canary-0123456789")
    error.retry_after = wait  # type: ignore[assignment]
    ours = sdk_error(error)
    assert str(ours) == "rate_limit_exceeded: the SDK raised RateLimitError rate_limit_exceeded"
    assert ours.retry_after == (7 if wait == 7.0 else 5)


def test_every_code_that_is_named_has_its_row_or_a_default() -> None:
    for code, kind in {**API_ERRORS, **EDGE_ERRORS}.items():
        assert code in CODES or kind.default_code in CODES


codes = st.sampled_from([*API_ERRORS, *EDGE_ERRORS, "sandbox_not_found", "canary", "", None, 1])
bodies = st.builds(body, codes) | st.binary(max_size=30)


@given(st.sampled_from([307, 401, 403, 404, 408, 409, 429, 500, 503, 504]), st.binary(max_size=4), bodies)
def test_any_answer_is_an_error_that_repeats_no_more_than_a_code(status: int, wait: bytes, content: bytes) -> None:
    headers = (*JSON, (b"retry-after", wait))
    may_be_edge_error(status, headers)
    for error in (api_error(ApiAnswer(status, headers, json_document(content))), edge_error(status, headers, content)):
        if error is not None:
            assert error.code in CODES
            assert error.retry_after is None or 1 <= error.retry_after <= 300
            assert "not for visitors" not in f"{error} {error!r} {vars(error)}"
