from __future__ import annotations

import copy
import json
import logging
import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass
from traceback import TracebackException

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preview_proxy.core.secret import Secret

CANARY = "canary-0123456789"
VISIBLE = bytes(range(0x21, 0x7F))


@dataclass
class Holder:
    secret: Secret


@given(st.text(alphabet=VISIBLE.decode(), min_size=8, max_size=64))
def test_h13_visible_ascii_comes_back_as_it_went_in(value: str) -> None:
    assert Secret(value).reveal() == Secret(value.encode()).reveal() == value.encode()


@pytest.mark.parametrize("size", [8, 8192])
def test_h13_the_shortest_and_the_longest_value_are_taken(size: int) -> None:
    assert len(Secret("x" * size).reveal()) == size


@pytest.mark.parametrize("size", [0, 7, 8193])
def test_h13_a_length_that_must_be_a_mistake_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"8 to 8192 bytes long, this one has {size}"):
        Secret("x" * size)


@pytest.mark.parametrize("stray", ["\r", "\n", "\r\n", "\t", " ", "\0", "\x7f", "é", "€", "\ud800", "\u200b"])
@pytest.mark.parametrize("form", ["{0}{1}", "{1}{0}", "cana{1}ry-0123456789"])
def test_h13_a_value_that_no_header_carries_whole_is_refused_and_not_told(stray: str, form: str) -> None:
    with pytest.raises(ValueError, match="must be visible ASCII") as caught:
        Secret(form.format(CANARY, stray))
    told = "".join(TracebackException.from_exception(caught.value).format())
    assert "0123456789" not in f"{caught.value!r} {caught.value.args} {vars(caught.value)}"
    assert "0123456789" not in told


@pytest.mark.parametrize(
    "show",
    [
        str,
        repr,
        "{}".format,
        "{0!r:>30}".format,
        "%s".__mod__,
        lambda s: repr([s, {"k": s}]),
        lambda s: repr(Holder(s)),
    ],
    ids=["str", "repr", "format", "padded", "percent", "containers", "dataclass"],
)
def test_h19_every_text_of_it_is_redacted(show: Callable[[Secret], str]) -> None:
    text = show(Secret(CANARY))
    assert "Secret(****)" in text
    assert CANARY not in text


@pytest.mark.parametrize(
    "spread",
    [
        copy.copy,
        copy.deepcopy,
        pickle.dumps,
        json.dumps,
        hash,
        vars,
        bytes,
        lambda s: asdict(Holder(s)),
        lambda s: pickle.dumps(s, protocol=0),
        lambda s: format(s, "x"),
    ],
    ids=["copy", "deepcopy", "pickle", "json", "hash", "vars", "bytes", "asdict", "pickle-0", "format"],
)
def test_h19_every_second_holder_is_refused(spread: Callable[[Secret], object]) -> None:
    with pytest.raises(TypeError) as caught:
        spread(Secret(CANARY))
    assert CANARY not in str(caught.value)


def test_h19_logging_and_tracebacks_with_locals_do_not_show_it(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret(CANARY)
    logging.getLogger("test").error("%s %r", secret, {"token": secret})
    try:
        _ = 1 // 0
    except ZeroDivisionError as error:
        told = "".join(TracebackException.from_exception(error, capture_locals=True).format())
    assert "secret = Secret(****)" in told
    assert CANARY not in caplog.text + told


def test_h19_it_cannot_be_changed() -> None:
    secret = Secret(CANARY)
    for name in ("value", "_Secret__value", "anything"):
        with pytest.raises(AttributeError, match="cannot be changed"):
            setattr(secret, name, b"other")
    assert secret.reveal() == CANARY.encode()


def test_equality_is_of_values_and_only_with_secrets() -> None:
    assert Secret(CANARY) == Secret(CANARY.encode())
    assert Secret(CANARY) != Secret(CANARY + "x")
    assert Secret(CANARY) != CANARY
    assert Secret(CANARY) != CANARY.encode()


@pytest.mark.parametrize(
    ("text", "repeats"), [(b"", False), (CANARY.encode(), True), (b"a" + CANARY.encode(), True), (b"canary-", False)]
)
def test_h18_it_recognises_its_value_in_an_echo(text: bytes, repeats: bool) -> None:
    assert Secret(CANARY).occurs_in(text) is repeats
