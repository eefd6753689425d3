"""What a server may hand over in another form, and the edges of what is read from it."""

from __future__ import annotations

from typing import Any

import pytest

from preview_proxy.core.models import Rejected
from preview_proxy.core.snapshot import body_framing, check_upgrade, parse_authority, raw_headers
from tests.core.test_snapshot import BODY, refusal, take

FORMS = [bytes, bytearray, memoryview]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("value", FORMS)
@pytest.mark.parametrize("second", [b"x-a", b"X-A"])
def test_h01_whatever_buffers_a_server_uses_the_copy_is_bytes(name: Any, value: Any, second: bytes) -> None:
    copied = raw_headers({"headers": [(name(b"host"), value(b"a.dev")), [name(second), value(b"")]]})
    assert copied == ((b"host", b"a.dev"), (b"x-a", b""))
    assert {type(part) for pair in copied for part in pair} == {bytes}
    assert {type(pair) for pair in copied} == {tuple}
    assert raw_headers({"headers": []}) == ()


@pytest.mark.parametrize(
    ("value", "authority"), [(b"a:1", "a:1"), (b"a:8", "a:8"), (b"a:00080", "a"), (b"a:000080", None)]
)
def test_p01_a_port_has_one_to_five_digits(value: bytes, authority: str | None) -> None:
    assert parse_authority(value, "http") == authority


def test_p05_every_visible_character_but_the_hash_may_stand_in_a_target() -> None:
    visible = bytes([*range(0x21, 0x23), *range(0x24, 0x7F)])
    path = b"/" + visible.replace(b"?", b"")
    inbound = take(raw_path=path, query_string=visible + bytes(range(0x80, 0x100)))
    assert (inbound.path, inbound.query) == (path, visible + bytes(range(0x80, 0x100)))


def test_p07_a_mount_may_end_in_any_letter() -> None:
    assert take(root_path="/previeX/", raw_path=b"/previeX/a").path == b"/a"


@pytest.mark.parametrize("version", ["1", "1.0", "1.1"])
def test_p14_below_http_2_a_body_is_announced(version: str) -> None:
    assert not take(http_version=version, method="POST").has_body
    assert body_framing((), "POST", version) == (False, None)


def test_p14_a_websocket_has_no_body_whatever_it_says() -> None:
    for headers in ((BODY,), ((b"transfer-encoding", b"chunked"),), ()):
        inbound = take(headers=headers, type="websocket", http_version="2")
        assert (inbound.has_body, inbound.content_length) == (False, None)


@pytest.mark.parametrize("value", [b"\x0bchunked", b"Xchunked", b"chunkedX"])
def test_p13_only_spaces_and_tabs_are_no_part_of_a_coding(value: bytes) -> None:
    with pytest.raises(Rejected, match="bad_framing"):
        body_framing(((b"transfer-encoding", value),), "POST", "1.1")


@pytest.mark.parametrize("value", [b"\x0bwebsocket", b"Xwebsocket", b"websocketX"])
def test_p15_nor_of_an_upgrade(value: bytes) -> None:
    with pytest.raises(Rejected, match="bad_upgrade"):
        check_upgrade(((b"upgrade", value),))
    assert refusal(headers=((b"upgrade", b"Xwebsocket"), BODY), method="POST") == "bad_upgrade"
