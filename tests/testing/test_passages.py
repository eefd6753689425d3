from __future__ import annotations

import pytest

from preview_proxy.testing import DevServer
from preview_proxy.testing.passages import Added, loopback_port


@pytest.mark.parametrize(
    ("answer", "goes_on"),
    [
        (b"HTTP/1.1 200 OK\r\nA: 1\r\n\r\nbody", b"HTTP/1.1 200 OK\r\nX: 2\r\nA: 1\r\n\r\nbody"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: 2\r\n\r\n"),
        (b"nonsense\r\nA: 1\r\n\r\n", b"nonsense\r\nA: 1\r\n\r\n"),
        (b"HTTP/1.1 200", b"HTTP/1.1 200"),
        (b"", b""),
    ],
)
def test_fields_stand_in_front_of_the_apps_own(answer: bytes, goes_on: bytes) -> None:
    assert Added(None, b"/", [], fields=[(b"X", b"2")]).answer(answer) == goes_on


def test_a_port_is_served_by_a_dev_server_or_another_port_or_by_nobody() -> None:
    ports: dict[int, int | DevServer] = {1: DevServer(port=81), 2: 82}
    assert [loopback_port(ports, port) for port in (1, 2, 3)] == [81, 82, None]
