"""The WebSocket handshake and close rules (RFC 6455)."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha1

from preview_proxy.core.cookies import is_token
from preview_proxy.core.models import RawHeaders, Rejected

MAX_SUBPROTOCOLS = 16
MAX_SUBPROTOCOL_BYTES = 1024
MAX_REASON = 123  # RFC 6455 §5.5: a control frame holds 125 bytes, two of them the code

# RFC 6455 §7.4.1: these say what was seen and never go out in a frame.
_NEVER_SENT = {1005: 1000, 1006: 1011, 1015: 1011}
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_value(key: bytes) -> bytes:
    """`Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455 §4.2.2)."""
    return b64encode(sha1(key + _GUID, usedforsecurity=False).digest())


def offered_subprotocols(subprotocols: tuple[str, ...]) -> bytes:
    """The value of `Sec-WebSocket-Protocol` to offer upstream, empty for none; `Rejected` where it is no token list."""
    names = [name.encode("latin-1", "replace") for name in subprotocols]
    if len(names) > MAX_SUBPROTOCOLS or sum(map(len, names)) > MAX_SUBPROTOCOL_BYTES or not all(map(is_token, names)):
        raise Rejected("bad_header", "Sec-WebSocket-Protocol is not a list of tokens")
    return b", ".join(names)


def check_handshake(headers: RawHeaders, key: bytes, offered: tuple[str, ...]) -> str | None:
    """The subprotocol that a 101 chose; `Rejected` unless it answers our handshake and nothing more (§4.1)."""
    chosen = _values(headers, b"sec-websocket-protocol")
    if [value.lower() for value in _values(headers, b"upgrade")] != [b"websocket"]:
        raise Rejected("upstream_protocol_error", "101 without Upgrade: websocket")
    if b"upgrade" not in {token.strip().lower() for v in _values(headers, b"connection") for token in v.split(b",")}:
        raise Rejected("upstream_protocol_error", "101 without Connection: upgrade")
    if _values(headers, b"sec-websocket-accept") != [accept_value(key)]:
        raise Rejected("upstream_protocol_error", "101 with a wrong Sec-WebSocket-Accept")
    if _values(headers, b"sec-websocket-extensions"):
        raise Rejected("upstream_protocol_error", "101 with an extension nobody offered")
    if not chosen:
        return None
    if len(chosen) > 1 or chosen[0].decode("latin-1") not in offered:
        raise Rejected("upstream_protocol_error", "101 with a subprotocol nobody offered")
    return chosen[0].decode("latin-1")


def _values(headers: RawHeaders, name: bytes) -> list[bytes]:
    return [value.strip(b" \t") for key, value in headers if key == name]


def outgoing_close(code: int | None, reason: str | None) -> tuple[int, str]:
    """A close code and reason that may go out in a frame (§7.4), from what was received on the other side."""
    number = 1005 if code is None else code
    if number not in _NEVER_SENT and not (number in SENDABLE or 3000 <= number <= 4999):
        return 1011, ""
    return _NEVER_SENT.get(number, number), shorten(reason or "")


# RFC 6455 §7.4.1 and the IANA close code registry
SENDABLE = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015)})


def shorten(reason: str) -> str:
    """At most 123 bytes of UTF-8, cut on a character's boundary (§5.5.1)."""
    return reason.encode("utf-8", "replace")[:MAX_REASON].decode("utf-8", "ignore")
