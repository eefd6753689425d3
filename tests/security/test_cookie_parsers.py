"""The names that an app behind us may read in a `Cookie` field, by the parsers of Node's frameworks themselves."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preview_proxy.core.cookies import filter_cookies
from tests.core.test_cookies import RESERVED, hostile
from tests.programs import need, npm_packages

Read = Callable[[bytes], dict[str, list[str]]]


@pytest.fixture(scope="module")
def read() -> Iterator[Read]:
    """What each parser reads in a field, by its name. Node hands a field to them in Latin-1."""
    folder = npm_packages(Path(__file__).parent / "cookie_parsers").parent
    with subprocess.Popen([need("node"), "read.js"], cwd=folder, stdin=-1, stdout=-1, text=True) as node:
        to_node, from_node = node.stdin, node.stdout
        assert to_node is not None and from_node is not None

        def ask(field: bytes) -> dict[str, list[str]]:
            to_node.write(json.dumps(field.decode("latin-1")) + "\n")
            to_node.flush()
            names: dict[str, list[str]] = json.loads(from_node.readline())
            return names

        yield ask
        to_node.close()


def test_the_parsers_read_a_plain_field_alike_and_a_hostile_one_not(read: Read) -> None:
    assert set(map(tuple, read(b"a=1; session=2").values())) == {("a", "session")}
    assert len(set(map(tuple, read(b"a=1; \xa0session=2; b c=3").values()))) > 1


@settings(max_examples=300)
@given(values=st.lists(hostile, max_size=3))
def test_h07_no_reserved_name_survives_in_any_parser_of_node(read: Read, values: list[bytes]) -> None:
    for parser, names in read(filter_cookies(values, RESERVED)).items():
        for name in names:
            assert name.strip().casefold().encode("latin-1", "replace") not in RESERVED, parser
