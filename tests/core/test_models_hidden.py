"""An origin whose host is a credential: what it is for the connection, and what it is for everybody else."""

from __future__ import annotations

import pytest

from preview_proxy.core.models import HiddenOrigin, Origin, Preview
from preview_proxy.core.secret import Secret

CANARY = "canary-0123456789"
HOST = f"3000-{CANARY}.edge.dev"


@pytest.mark.parametrize(("port", "authority"), [(443, HOST), (8443, f"{HOST}:8443")])
def test_h14_a_hidden_host_is_whole_on_the_wire_and_nowhere_else(port: int, authority: str) -> None:
    hidden, plain = HiddenOrigin("https", HOST, port, Secret(CANARY)), Origin("https", HOST, port)
    assert hidden.host == HOST
    assert hidden.authority == plain.authority == authority
    assert hidden.field == plain.field
    assert hidden.serialized == plain.serialized
    assert str(hidden) == "https://hidden.invalid"
    assert repr(hidden) == "HiddenOrigin('https://hidden.invalid')"
    assert CANARY not in f"{vars(hidden)}"


def test_a_preview_is_a_key() -> None:
    assert {Preview("m1", 3000): 1}[Preview("m1", 3000)] == 1
    assert len({Preview("m1", 3000), Preview("m1", 3001), Preview("m1", 3000, 1)}) == 3
