"""What edges do to the machine's answers, and where a machine's port is served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from preview_proxy.testing.dev_server import DevServer
from preview_proxy.testing.edge import Passage


@dataclass
class Added(Passage):
    """A passage whose answer gets `fields` in front of its own."""

    held: Literal["not at all", "head", "whole"] = "head"
    fields: list[tuple[bytes, bytes]] = field(default_factory=list)

    def answer(self, data: bytes) -> bytes:
        line, separator, rest = data.partition(b"\r\n")
        if not separator or not line.startswith(b"HTTP/1."):
            return data
        return b"\r\n".join([line, *(b"%b: %b" % pair for pair in self.fields), rest])


def loopback_port(ports: Mapping[int, int | DevServer], port: int) -> int | None:
    """Where a machine's port is served, or None for one that nobody serves."""
    server = ports.get(port)
    return server.port if isinstance(server, DevServer) else server
