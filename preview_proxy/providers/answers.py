"""Reading what a provider's API or edge says: small JSON, `Retry-After`, times. Anything amiss reads as nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from datetime import datetime

from preview_proxy.core.models import RawHeaders

MAX_ERROR = 4 * 1024
"""Bytes of an error of an edge."""

JSON = frozenset({b"application/json"})


def json_object(body: bytes) -> Mapping[str, object] | None:
    """The JSON object in `body`, or None for everything else."""
    document = json_document(body)
    return document if isinstance(document, dict) else None


def json_document(body: bytes) -> object:
    """The JSON in `body`, or None for everything else."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def is_small(headers: RawHeaders, types: Collection[bytes] = JSON) -> bool:
    """Whether a response head is that of at most `MAX_ERROR` bytes, plain, of one of the media types."""
    if any(name == b"content-encoding" for name, _ in headers):
        return False
    lengths = [value for name, value in headers if name == b"content-length"]
    if any(not re.fullmatch(rb"[0-9]{1,4}", value) or int(value) > MAX_ERROR for value in lengths):
        return False
    found = [value.partition(b";")[0].strip().lower() for name, value in headers if name == b"content-type"]
    return len(found) == 1 and found[0] in types


def retry_after(headers: RawHeaders) -> int:
    """`Retry-After` (RFC 9110 §10.2.3) in seconds: 1 to 300, and 5 for anything else."""
    values = [value for name, value in headers if name == b"retry-after"]
    seconds = int(values[0]) if len(values) == 1 and re.fullmatch(rb"[0-9]{1,3}", values[0]) else 0
    return seconds if 1 <= seconds <= 300 else 5


def unix_seconds(value: object) -> float:
    """A time of RFC 3339 with its offset, or an SDK's reading of one. Raises `ValueError` for anything else."""
    if isinstance(value, str) and re.fullmatch(r"[0-9T:.Z+-]{1,40}", value, re.IGNORECASE):
        value = datetime.fromisoformat(value.upper())
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError("it is not a time with an offset")
    return value.timestamp()
