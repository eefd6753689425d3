from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

import preview_proxy
from preview_proxy import errors
from preview_proxy.core.models import Rejected
from preview_proxy.core.websocket import outgoing_close
from preview_proxy.errors import CODES, ConfigurationError, PreviewProxyError, from_rejected

TREE = [error for _, error in inspect.getmembers(errors, inspect.isclass) if issubclass(error, PreviewProxyError)]
PACKAGE = Path(preview_proxy.__file__).parent


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_a_status_a_sendable_close_code_and_words(code: str) -> None:
    row = CODES[code]
    assert re.fullmatch(r"[a-z_]+", code)
    assert 400 <= row.status <= 599
    assert outgoing_close(row.close_code, code) == (row.close_code, code)
    for text in (row.message, row.suggested_action):
        assert re.fullmatch(r"[A-Z][^<>&\"]*\.", text)
        assert len(text) < 100


@pytest.mark.parametrize("code", CODES)
def test_h24_no_word_of_a_code_names_a_provider_a_url_or_a_token(code: str) -> None:
    text = f"{CODES[code].message} {CODES[code].suggested_action}".lower()
    assert not re.search(r"nullspace|daytona|blaxel|e2b|http:|https:|token|upstream|edge", text)


def test_a_close_code_of_ours_is_the_status_it_stands_for() -> None:
    own = {code: row for code, row in CODES.items() if row.close_code >= 4000}
    assert {code for code, row in own.items() if row.close_code - 4000 != row.status} <= {
        "access_ended",  # 404, as to any stranger; but who had it open may know
        "preview_grant_revoked",
        "preview_grant_disabled",
        "preview_proxy_token_disabled",
        "preview_machine_disabled",
    }


@pytest.mark.parametrize("kind", TREE)
def test_every_error_starts_from_a_row_of_the_table(kind: type[PreviewProxyError]) -> None:
    error = kind()
    assert error.code == kind.default_code
    assert (error.status, error.close_code) == (CODES[error.code].status, CODES[error.code].close_code)
    assert error.row is CODES[error.code]
    assert error.source in {"proxy", "downstream", "upstream", "provider", "customer"}


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn: dict[str, tuple[str, int]] = {}
    above = {-1: "Exception"}
    for branch, name, status in re.findall(
        r"^( [ |+-]*)([A-Z]\w+)(?: +(\d{3})\b.*)?$", errors.__doc__ or "", re.MULTILINE
    ):
        above = {depth: parent for depth, parent in above.items() if depth < len(branch)}
        drawn[name] = above[max(above)], int(status or 500)
        above[len(branch)] = name
    assert drawn == {kind.__name__: (kind.__bases__[0].__name__, kind().status) for kind in TREE}


def test_a_code_of_the_table_replaces_the_default_and_any_other_does_not() -> None:
    assert errors.ProviderError("machine_not_found").status == 404
    assert errors.ProviderError("<script>").code == "provider_failed"
    assert PreviewProxyError("").code == "internal_error"


def test_the_text_is_for_the_log_and_the_detail_is_not_shown() -> None:
    assert str(errors.NotFound()) == "no_such_preview"
    error = errors.MachineUnavailable(detail="the edge answered 503", retry_after=7)
    assert str(error) == "edge_runtime_host_unreachable: the edge answered 503"
    assert (error.detail, error.retry_after) == ("the edge answered 503", 7)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("bad_host", errors.BadRequest),
        ("bad_target", errors.BadRequest),
        ("method_not_allowed", errors.BadRequest),
        ("headers_too_large", errors.BadRequest),
        ("cross_site", errors.Forbidden),
        ("upstream_protocol_error", errors.UpstreamProtocol),
    ],
)
def test_a_rejection_becomes_the_error_of_whose_fault_it_is(code: str, kind: type[PreviewProxyError]) -> None:
    error = from_rejected(Rejected(code, "why"))
    assert type(error) is kind
    assert (error.code, error.detail, error.status) == (code, "why", CODES[code].status)


CALLS = [
    (node.func.id, node.args[0].value)
    for path in PACKAGE.rglob("*.py")
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args
    if isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
]


@pytest.mark.parametrize("function", ["Rejected", *(kind.__name__ for kind in TREE)])
def test_every_code_in_the_source_is_in_the_table(function: str) -> None:
    assert {code for name, code in CALLS if name == function} <= CODES.keys()


def test_a_wrong_configuration_is_a_value_error_and_no_failure_of_a_request() -> None:
    assert issubclass(ConfigurationError, ValueError)
    assert not issubclass(ConfigurationError, PreviewProxyError)
