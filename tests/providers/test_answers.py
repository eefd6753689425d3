from __future__ import annotations

from datetime import UTC, datetime

import pytest

from preview_proxy.core.models import RawHeaders
from preview_proxy.providers.answers import is_small, json_document, json_object, retry_after, unix_seconds

PLAIN: RawHeaders = ((b"content-type", b"application/json"),)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_reads_as_nothing(body: bytes) -> None:
    assert json_document(body) is None and json_object(body) is None


def test_only_objects_are_objects() -> None:
    assert (json_document(b"[1]"), json_object(b"[1]"), json_object(b'{"a": 1}')) == ([1], None, {"a": 1})


@pytest.mark.parametrize(
    ("headers", "small"),
    [
        (PLAIN, True),
        (((b"content-type", b"Application/JSON; charset=utf-8"), (b"content-length", b"4096")), True),
        ((*PLAIN, (b"content-length", b"4097")), False),
        ((*PLAIN, (b"content-length", b"-1")), False),
        ((*PLAIN, (b"content-encoding", b"gzip")), False),
        ((*PLAIN, *PLAIN), False),
        (((b"content-type", b"text/html"),), False),
        ((), False),
    ],
)
def test_a_small_answer_is_told_by_its_head(headers: RawHeaders, small: bool) -> None:
    assert is_small(headers) is small


def test_other_media_types_may_be_asked_for() -> None:
    assert is_small(((b"content-type", b"text/html"),), {b"text/html"})


@pytest.mark.parametrize(
    ("values", "seconds"),
    [([b"1"], 1), ([b"300"], 300), ([b"301"], 5), ([b"0"], 5), ([b"soon"], 5), ([], 5), ([b"7", b"7"], 5)],
)
def test_retry_after_is_1_to_300_seconds_or_5(values: list[bytes], seconds: int) -> None:
    assert retry_after(tuple((b"retry-after", value) for value in values)) == seconds


@pytest.mark.parametrize(
    "value", ["2026-04-23T12:15:00Z", "2026-04-23t14:15:00+02:00", datetime(2026, 4, 23, 12, 15, tzinfo=UTC)]
)
def test_a_time_is_read_with_its_offset(value: object) -> None:
    assert unix_seconds(value) == 1776946500.0


@pytest.mark.parametrize("value", [None, 1776946500, "2026-04-23T12:15:00", "soon", "9" * 50, datetime(2026, 4, 23)])
def test_a_time_without_one_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"offset|Invalid"):
        unix_seconds(value)
