from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preview_proxy.core import websocket
from preview_proxy.core.models import RawHeaders, Rejected
from preview_proxy.core.websocket import accept_value, check_handshake, offered_subprotocols, outgoing_close, shorten

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE, CONNECTION = (b"upgrade", b"websocket"), (b"connection", b"Upgrade")
ACCEPT = (b"sec-websocket-accept", accept_value(KEY))
GOOD: RawHeaders = (UPGRADE, CONNECTION, ACCEPT)


def test_w05_the_accept_value_is_the_rfc_s_example() -> None:
    assert accept_value(KEY) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def chosen(name: bytes) -> tuple[bytes, bytes]:
    return b"sec-websocket-protocol", name


@pytest.mark.parametrize(
    "headers",
    [
        GOOD,
        ((b"upgrade", b"WebSocket"), (b"connection", b"keep-alive, upgrade"), ACCEPT),
        ((b"upgrade", b" websocket\t"), (b"connection", b"keep-alive"), (b"connection", b" UPGRADE "), ACCEPT),
        (*GOOD, (b"set-cookie", b"a=1"), (b"x", b"\xe9")),
    ],
)
@pytest.mark.parametrize("offered", [(), ("vite-hmr",)])
def test_w05_a_handshake_that_answers_ours_is_taken(headers: RawHeaders, offered: tuple[str, ...]) -> None:
    assert check_handshake(headers, KEY, offered) is None


def test_w03_a_subprotocol_that_was_offered_may_be_chosen() -> None:
    assert check_handshake((*GOOD, chosen(b"b")), KEY, ("a", "b")) == "b"
    assert check_handshake((*GOOD, chosen(b" b ")), KEY, ("b",)) == "b"


@pytest.mark.parametrize("name", [b"c", b"B", b"", b"a, b", b"a,b", b"\xe9"])
def test_w03_any_other_choice_is_refused(name: bytes) -> None:
    assert_refused((*GOOD, chosen(name)), ("a", "b"))
    assert_refused((*GOOD, chosen(name)), ())


def test_w03_two_choices_are_refused() -> None:
    assert_refused((*GOOD, chosen(b"a"), chosen(b"a")), ("a",))


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (CONNECTION, ACCEPT),
        (UPGRADE, ACCEPT),
        (UPGRADE, CONNECTION),
        ((b"upgrade", b"h2c"), CONNECTION, ACCEPT),
        ((b"upgrade", b"websocket, h2c"), CONNECTION, ACCEPT),
        (UPGRADE, *GOOD),
        ((b"upgrade", b"\x0bwebsocket"), CONNECTION, ACCEPT),
        ((b"upgrade", b"Xwebsocket"), CONNECTION, ACCEPT),
        (UPGRADE, (b"connection", b"close"), ACCEPT),
        (UPGRADE, (b"connection", b"upgraded"), ACCEPT),
        (UPGRADE, CONNECTION, (ACCEPT[0], accept_value(b"another"))),
        (UPGRADE, CONNECTION, (ACCEPT[0], ACCEPT[1].lower())),
        (UPGRADE, CONNECTION, (ACCEPT[0], b"")),
        (UPGRADE, CONNECTION, ACCEPT, ACCEPT),
        (*GOOD, (b"sec-websocket-extensions", b"permessage-deflate")),
        (*GOOD, (b"sec-websocket-extensions", b"")),
    ],
    ids=repr,
)
def test_w05_a_handshake_that_does_not_answer_ours_is_refused(headers: RawHeaders) -> None:
    assert_refused(headers, ())


def assert_refused(headers: RawHeaders, offered: tuple[str, ...]) -> None:
    with pytest.raises(Rejected) as caught:
        check_handshake(headers, KEY, offered)
    assert caught.value.code == "upstream_protocol_error"


@pytest.mark.parametrize(
    ("names", "value"),
    [((), b""), (("vite-hmr",), b"vite-hmr"), (("a", "b"), b"a, b"), (("x" * 1024,), b"x" * 1024)]
    + [(("a",) * 16, b", ".join([b"a"] * 16))],
)
def test_w03_subprotocols_are_offered_as_they_came(names: tuple[str, ...], value: bytes) -> None:
    assert offered_subprotocols(names) == value


@pytest.mark.parametrize(
    "names", [("",), ("a b",), ("a,b",), ("é",), ("\u20ac",), ("a\r\n",), ("a",) * 17, ("x" * 1025,), ("x" * 600,) * 2]
)
def test_w03_what_is_no_list_of_tokens_is_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(Rejected) as caught:
        offered_subprotocols(names)
    assert caught.value.code == "bad_header"


SENDABLE = {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}


def test_w09_the_registered_codes_that_may_be_sent() -> None:
    assert {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014} == websocket.SENDABLE


@pytest.mark.parametrize("code", sorted(SENDABLE - set(range(3002, 4998))))
def test_w09_a_code_that_may_be_sent_passes(code: int) -> None:
    assert outgoing_close(code, "bye") == (code, "bye")


@pytest.mark.parametrize(("code", "sent"), [(None, 1000), (1005, 1000), (1006, 1011), (1015, 1011)])
def test_w09_what_only_says_what_was_seen_becomes_what_it_means(code: int | None, sent: int) -> None:
    assert outgoing_close(code, None) == (sent, "")
    assert outgoing_close(code, "why") == (sent, "why")


@pytest.mark.parametrize("code", [0, -1, 999, 1004, 1016, 1100, 2000, 2999, 5000, 65536])
def test_w09_a_code_that_nobody_may_send_becomes_1011(code: int) -> None:
    assert outgoing_close(code, "why") == (1011, "")


@given(st.none() | st.integers() | st.integers(990, 5010), st.none() | st.text(st.characters(), max_size=200))
def test_w09_every_close_that_goes_out_may_be_sent(code: int | None, reason: str | None) -> None:
    number, text = outgoing_close(code, reason)
    assert number in SENDABLE
    assert len(text.encode("utf-8")) <= 123


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("x" * 123, "x" * 123),
        ("x" * 124, "x" * 123),
        ("é" * 62, "é" * 61),
        ("x" + "é" * 61, "x" + "é" * 61),
        ("😀" * 31, "😀" * 30),
        ("a\ud800b", "a?b"),
    ],
    ids=["fits", "cut", "not through a character", "to the last byte", "nor through a longer one", "not a character"],
)
def test_w09_a_reason_is_cut_between_characters(reason: str, kept: str) -> None:
    assert shorten(reason) == kept
