"""Whether an object, an exception or the log tells a secret, in any of the forms in which it might be shown."""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from preview_proxy import PreviewProxyError, Secret
from preview_proxy.testing.api_faults import Wire

HERE = Path(__file__).parent
"""The suites' own files, whose frames hold the secrets that they look for."""


def assert_told_nothing(error: PreviewProxyError, secrets: Collection[str]) -> None:
    """No secret is in the exception, nor in what an error page with local variables would show of it."""
    assert error.__context__ is None and error.__cause__ is None, (
        "another exception, with its frames, is in the context"
    )
    frames = traceback.TracebackException.from_exception(error, capture_locals=True).stack
    texts = [str(error), error.detail, *(str(frame.locals) for frame in frames if Path(frame.filename).parent != HERE)]
    for text in texts:
        assert not occurring(secrets, text), f"a secret is in {censored(text, secrets)}"


def occurring(secrets: Collection[str], text: str) -> bool:
    return any(secret in text for secret in secrets)


def censored(text: str, secrets: Collection[str]) -> str:
    """Some of the text around each secret, for the message of a failure."""
    for secret in secrets:
        text = text.replace(secret, "<SECRET>")
    at = text.find("<SECRET>")
    return text[max(0, at - 200) : at + 200]


def shown(thing: object, depth: int = 3) -> Iterator[str]:
    """The textual forms of an object and of its attributes, some levels deep."""
    yield repr(thing)
    yield str(thing)
    if depth and not isinstance(thing, Wire | Secret | logging.Logger):
        slots = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ())]
        values = {**getattr(thing, "__dict__", {}), **{name: getattr(thing, name, None) for name in slots}}
        for value in values.values():
            yield from shown(value, depth - 1)


def pickled(thing: object) -> str:
    """What pickling makes of it, if it lets itself be pickled at all."""
    try:
        return pickle.dumps(thing).decode("latin-1")
    except Exception:
        return ""


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.getMessage()} {record.__dict__}")


@contextmanager
def logged() -> Iterator[list[str]]:
    """Every line that reaches the root logger meanwhile, at whatever level."""
    root, handler = logging.getLogger(), _Lines()
    before = root.level
    root.setLevel(1)
    root.addHandler(handler)
    try:
        yield handler.lines
    finally:
        root.setLevel(before)
        root.removeHandler(handler)
