"""Names that tell nothing, values that only the secret opens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from preview_proxy.sealing import Sealer

ONE, OTHER = Sealer(b"one secret of thirty-two bytes!!"), Sealer(b"another secret of 32 bytes!!!!!!")


@given(st.binary(max_size=300))
def test_what_was_sealed_for_a_name_opens_under_it(value: bytes) -> None:
    assert ONE.unseal("name", ONE.seal("name", value)) == value


def test_nothing_else_opens_it() -> None:
    sealed = ONE.seal("name", b"canary")
    assert b"canary" not in sealed
    assert ONE.seal("name", b"canary") != sealed
    assert ONE.unseal("another", sealed) is None
    assert OTHER.unseal("name", sealed) is None
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        assert ONE.unseal("name", bytes(changed)) is None


@given(st.binary(max_size=64))
def test_what_was_never_sealed_is_nothing(sealed: bytes) -> None:
    assert ONE.unseal("name", sealed) is None


def test_names_depend_on_kind_text_and_secret_and_show_only_the_kind() -> None:
    names = [ONE.name("target", "mch_1"), ONE.name("lock", "mch_1"), ONE.name("target", "mch_2"), OTHER.name("target")]
    assert len(set(names)) == 4
    assert names[0] == Sealer(b"one secret of thirty-two bytes!!").name("target", "mch_1")
    assert names[0].startswith("preview-proxy:target:") and "mch" not in names[0]
