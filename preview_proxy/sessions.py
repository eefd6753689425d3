"""Who the visitor is, by the customer's own session."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import inspect
import json
import math
from base64 import b64decode
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar

import anyio
from starlette.requests import HTTPConnection

from preview_proxy import event_loop
from preview_proxy.core.cookies import cookie_values, is_token
from preview_proxy.errors import CheckFailed, ConfigurationError

T = TypeVar("T")

# More than a browser stores in one cookie, and room for a token in a header
MAX_CREDENTIAL = 8 * 1024
# Each candidate may cost the customer a database query
MAX_CANDIDATES = 8
# OpenID Connect Core §2, "sub"
MAX_NAME = 255


@dataclass(frozen=True, slots=True)
class Session:
    """A visitor that the customer's app knows.

    `subject` is the customer's opaque user id. `ref` names this login, so that one can be ended without the
    user's others; it is never the credential itself. `expires_at` is in Unix seconds, None where unknown.
    `issued_at` likewise: a revocation voids what was issued before it. Where that is unknown, one of the subject or
    the preview has `authorize` decide anew, and only one that names `ref` voids the session.

    Raises `ValueError` unless `subject` is 1 to 255 printable characters, `ref` none to 255, and the times are
    finite numbers.
    """

    subject: str
    ref: str = ""
    expires_at: float | None = None
    issued_at: float | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not is_name(self.subject):
            raise ValueError("subject must be a string of 1 to 255 printable characters, such as str(user.id)")
        if self.ref != "" and not is_name(self.ref):
            raise ValueError("ref must be a string of at most 255 printable characters")
        for name in ("expires_at", "issued_at"):
            value = getattr(self, name)
            if value is not None and not is_number(value):
                raise ValueError(f"{name} must be a finite number of Unix seconds, or None")


class Authenticator(Protocol):
    """Reads the customer's session from a request or a WebSocket handshake: any async callable of this shape.

    A plain string is taken as the subject; None means that nobody is signed in. Raising means that the check
    itself failed: the visitor is refused with 503. What it reads must not reach the sandbox, so the shipped ones
    declare it in two attributes, `cookies` and `headers` (frozensets of names, lower-case for headers); for a
    plain function name them in `Policy.private_cookies` and `Policy.private_headers`.
    """

    async def __call__(self, connection: HTTPConnection, /) -> Session | str | None: ...


class CookieSession:
    """The customer's server-side session, found by the value of its cookie.

    `lookup` gets the value as the browser sent it (ASCII, at most 8 KiB) and returns a `Session`, the subject as
    a string, or None. It is the place for a database query, and for revocation. Several cookies of the name are
    each looked up; unless exactly one is known, nobody is signed in.
    """

    headers: frozenset[str] = frozenset()

    def __init__(self, name: str, lookup: Callable[[str], Awaitable[Session | str | None]]) -> None:
        ensure_async(lookup, "the lookup of CookieSession")
        self.cookies = frozenset({cookie_name(name)})
        self._name = name
        self._lookup = lookup

    async def __call__(self, connection: HTTPConnection, /) -> Session | str | None:
        values = cookie_values(tuple(connection.scope["headers"]), self._name)
        return await only_verified(values, self._verify)

    async def _verify(self, value: bytes) -> Session | str | None:
        return await self._lookup(value.decode("ascii")) if value.isascii() else None


class StarletteSession:
    """The session of Starlette's `SessionMiddleware`, read from its signed cookie.

    Give it the `secret_key`, cookie name and `max_age` (seconds) of the middleware; `key` is the entry that holds
    the user id, a string or an integer. The middleware runs inside ours, so `request.session` is not there yet.

    That cookie is held by the visitor: signing out deletes it in the browser, and a copy goes on working until
    `max_age`. `check` is the remedy: it gets the session's dict for every decision, compares it with what the
    server knows (a version counter on the user, a row per login), and returns whether it still stands.
    `Session.ref` changes whenever the app changes the session, since each change signs a new cookie.

    Raises `ConfigurationError` for an empty `secret_key`, or where `itsdangerous` is not installed.
    """

    headers: frozenset[str] = frozenset()

    def __init__(
        self,
        *,
        secret_key: str,
        key: str = "user_id",
        cookie: str = "session",
        max_age: int = 14 * 24 * 60 * 60,
        check: Callable[[dict[str, Any]], Awaitable[bool]] | None = None,
    ) -> None:
        if check is not None:
            ensure_async(check, "the check of StarletteSession")
        if max_age <= 0:
            raise ConfigurationError(f"max_age must be greater than 0 seconds, not {max_age!r}")
        self.cookies = frozenset({cookie_name(cookie)})
        self._cookie = cookie
        self._key = key
        self._max_age = max_age
        self._check = check
        self._unsign = _unsigner(secret_key, max_age)

    async def __call__(self, connection: HTTPConnection, /) -> Session | None:
        values = cookie_values(tuple(connection.scope["headers"]), self._cookie)
        return await only_verified(values, self._verify)

    async def _verify(self, value: bytes) -> Session | None:
        signed = self._unsign(value)
        if signed is None:
            return None
        content, signed_at = signed
        subject = content.get(self._key)
        if type(subject) not in (str, int) or not is_name(str(subject)):
            return None
        if self._check is not None and not _yes(await self._check(content)):
            return None
        return Session(str(subject), fingerprint(value), signed_at.timestamp() + self._max_age)


def _yes(answer: object) -> bool:
    if not isinstance(answer, bool):
        raise TypeError("the check of StarletteSession must return True or False")
    return answer


def _unsigner(secret_key: str, max_age: int) -> Callable[[bytes], tuple[dict[str, Any], datetime] | None]:
    """Reads what `SessionMiddleware` signed: the dict and when, or None.

    A closure, so that no attribute, `repr` or pickle of its owner holds the key.
    """
    if not secret_key:
        raise ConfigurationError("secret_key must be the one that SessionMiddleware signs with, not empty")
    if find_spec("itsdangerous") is None:
        raise ConfigurationError("StarletteSession reads what itsdangerous signs: pip install itsdangerous")
    from itsdangerous import TimestampSigner

    signer = TimestampSigner(secret_key)

    def unsign(value: bytes) -> tuple[dict[str, Any], datetime] | None:
        try:
            payload, signed_at = signer.unsign(value, max_age=max_age, return_timestamp=True)
            content = json.loads(b64decode(payload))
        except Exception:  # BadSignature, and whatever a key shared with something else may have signed
            return None
        return (content, signed_at) if isinstance(content, dict) else None

    return unsign


async def authenticate(
    authenticator: Authenticator,
    connection: HTTPConnection,
    *,
    timeout: float,  # noqa: ASYNC109 - it is part of what is promised: no answer in time is a failed check
) -> Session | None:
    """Ask `authenticator` who the visitor is, for at most `timeout` seconds; None means nobody.

    Raises `CheckFailed` if it raises, hangs or answers anything but a `Session`, a string or None. The error
    names classes only and carries no other exception, since theirs may hold the credential.
    """
    session: Session | None = None
    failure = ""
    try:
        with anyio.fail_after(timeout):
            session = _session_of(await authenticator(connection))
    except asyncio.CancelledError as error:
        if event_loop.is_cancelled():
            raise
        failure = type(error).__name__
    except Exception as error:
        failure = type(error).__name__
    if failure:
        raise CheckFailed(detail=f"the authenticator {_name_of(authenticator)} failed with {failure}")
    return session


def _session_of(answer: object) -> Session | None:
    if answer is None or isinstance(answer, Session):
        return answer
    if isinstance(answer, str):
        return Session(answer)
    raise TypeError(type(answer).__name__)


def _name_of(function: object) -> str:
    return getattr(function, "__name__", type(function).__name__)


def ensure_async(function: object, what: str) -> None:
    """Refuse a callable that would block the event loop, where every visitor waits for it.

    An `async def`, an object whose class has an async ``__call__`` and a `functools.partial` of either pass.
    Raises `ConfigurationError` for anything else; `what` names it there.
    """
    while isinstance(function, functools.partial):
        function = function.func
    call = getattr(type(function), "__call__", None)  # noqa: B004 - whether it is async, not whether it is there
    if not (inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)):
        raise ConfigurationError(
            f"{what} must be an async callable: define it with `async def`, "
            "and put what blocks into `await anyio.to_thread.run_sync(...)`"
        )


async def only_verified(values: Iterable[bytes], verify: Callable[[bytes], Awaitable[T | None]]) -> T | None:
    """What the one credential that verifies stands for; None if none does, or several different ones.

    A page on a sibling host can plant a second cookie of the name, in front of the real one or behind it, so
    neither the first nor the last is to be trusted.
    """
    candidates = dict.fromkeys(value for value in values if 0 < len(value) <= MAX_CREDENTIAL)
    if len(candidates) > MAX_CANDIDATES:
        return None
    found = [answer for value in candidates if (answer := await verify(value)) is not None]
    return found[0] if len(found) == 1 else None


def cookie_name(name: str) -> str:
    """`name`, if a cookie can have it; raises `ConfigurationError` otherwise."""
    if not is_token(name.encode("latin-1", "replace")):
        raise ConfigurationError(f"{name!r} cannot name a cookie: use letters, digits, '-' and '_'")
    return name


def fingerprint(credential: bytes) -> str:
    """A name for a credential that does not give it away: the first half of its SHA-256, in hex."""
    return hashlib.sha256(credential).hexdigest()[:32]


def is_name(value: object) -> bool:
    """Whether `value` can be a subject or a ref. What prints as itself also logs and encodes."""
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and value.isprintable()


def is_number(value: object) -> bool:
    """Whether `value` is a finite int or float."""
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
