"""The two upstreams: nginx for what is downloaded, and a process of our own that swallows and answers.

`python -m tests.bench.origin PORT` runs the second. A request with `Upgrade` becomes a WebSocket, on which each
message is answered by one of its size; the body of any other is counted and thrown away.
"""

from __future__ import annotations

import asyncio
import re
import sys
from base64 import b64encode
from hashlib import sha1
from pathlib import Path
from typing import cast

import uvloop

SMALL = 1024
LARGE = 10 * 1024 * 1024
HUGE = 1024 * 1024 * 1024

_UPGRADED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n"
)
_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_LAST_CHUNK = b"0\r\n\r\n"
_CLOSE = 0x8


def nginx_conf(folder: Path, port: int) -> str:
    """A configuration that serves /small, /large and /huge; the last two are files made in `folder`."""
    (folder / "large").write_bytes(b"x" * LARGE)
    with (folder / "huge").open("wb") as file:
        file.truncate(HUGE)
    return f"""{nginx_preamble(folder)}
        sendfile on; open_file_cache max=8; default_type application/octet-stream;
        server {{
            listen 127.0.0.1:{port} backlog=4096; root {folder};
            location = /small {{ return 200 "{"x" * SMALL}"; }}
        }}
    }}"""


def nginx_preamble(folder: Path) -> str:
    """One process without privileges or traces outside `folder`, up to inside the block `http`."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    return f"""
    daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr error;
    events {{ worker_connections 8192; }}
    http {{
        access_log off; {temporary}
        keepalive_requests 1000000000; keepalive_timeout 600s;"""


def message(size: int, *, mask: bytes = b"") -> bytes:
    """A whole binary WebSocket message of `size` bytes (RFC 6455 §5.2). A mask of zeros leaves it as it is."""
    bit = 0x80 if mask else 0
    if size < 126:
        head = bytes([0x82, bit | size])
    elif size < 1 << 16:
        head = bytes([0x82, bit | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([0x82, bit | 127]) + size.to_bytes(8, "big")
    return head + mask + b"x" * size


class Origin(asyncio.Protocol):
    """One connection: requests one after the other, or a WebSocket."""

    def __init__(self) -> None:
        self._pending = b""
        self._left = 0
        self._feed = self._head
        self._replies: dict[int, bytes] = {}
        self._size = 0
        self._final = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by class

    def data_received(self, data: bytes) -> None:
        while data:
            data = self._feed(data)

    def _head(self, data: bytes) -> bytes:
        head, end, rest = (self._pending + data).partition(b"\r\n\r\n")
        if not end:
            self._pending = head
            return b""
        self._pending = b""
        key = _field(head, b"sec-websocket-key")
        if key is not None:
            self._transport.write(_UPGRADED % accept_value(key))
            self._feed = self._frame_head
        elif _field(head, b"transfer-encoding") is not None:
            self._feed = self._chunks
        else:
            self._left = int(_field(head, b"content-length") or 0)
            self._feed = self._body
            if not self._left:
                self._answer()
        return rest

    def _body(self, data: bytes) -> bytes:
        taken = min(self._left, len(data))
        self._left -= taken
        if not self._left:
            self._answer()
        return data[taken:] if taken < len(data) else b""

    def _chunks(self, data: bytes) -> bytes:
        """Up to the last chunk, for a body that does not contain one."""
        self._pending = (self._pending + data[-len(_LAST_CHUNK) :])[-len(_LAST_CHUNK) :]
        if self._pending == _LAST_CHUNK:
            self._pending = b""
            self._answer()
        return b""

    def _answer(self) -> None:
        self._transport.write(_OK)
        self._feed = self._head

    def _frame_head(self, data: bytes) -> bytes:
        head = self._pending + data[:14]
        short = len(head) < 2
        code = 0 if short else head[1] & 0x7F
        extra = {126: 2, 127: 8}.get(code, 0)
        if short or len(head) < 6 + extra:  # two bytes, the length, and the four of the mask
            self._pending = head
            return data[14:]
        taken = 6 + extra - len(self._pending)
        self._pending = b""
        self._left = int.from_bytes(head[2 : 2 + extra], "big") if extra else code
        self._final = bool(head[0] & 0x80)
        opcode = head[0] & 0x0F
        if opcode == _CLOSE:
            self._transport.write(b"\x88\x00")
            self._transport.close()
            return b""
        if opcode > _CLOSE:
            self._final = False  # a ping counts for no message; nobody here waits 20 seconds for a pong
        else:
            self._size += self._left
        self._feed = self._payload
        return data[taken:] or self._payload(b"")

    def _payload(self, data: bytes) -> bytes:
        taken = min(self._left, len(data))
        self._left -= taken
        if self._left:
            return b""
        self._feed = self._frame_head
        if self._final:
            reply = self._replies.get(self._size) or self._replies.setdefault(self._size, message(self._size))
            self._transport.write(reply)
            self._size = 0
        return data[taken:]


def accept_value(key: bytes) -> bytes:
    """RFC 6455 §4.2.2."""
    return b64encode(sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest())


def _field(head: bytes, name: bytes) -> bytes | None:
    found = re.search(rb"\r\n" + name + rb":[ \t]*([^\r]*)", head, re.IGNORECASE)
    return found[1].strip() if found else None


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Origin, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
