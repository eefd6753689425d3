from __future__ import annotations

import asyncio
import base64
import copy
import functools
import itertools
import json
import logging
import pickle
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import httpx
import itsdangerous
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Route

from preview_proxy import sessions
from preview_proxy.errors import CheckFailed, ConfigurationError
from preview_proxy.sessions import CookieSession, Session, StarletteSession, authenticate, ensure_async

pytestmark = pytest.mark.anyio

SECRET = "canary-secret-key-of-the-customer"


def visit(*cookies: bytes) -> HTTPConnection:
    return HTTPConnection({"type": "http", "headers": [(b"cookie", cookie) for cookie in cookies]})


async def nobody(connection: HTTPConnection) -> None:
    return None


# --- Session -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subject", ["", None, 42, "a\nb", "\u202eevil", "\ud800", "x" * 256])
def test_a_session_needs_a_subject_that_can_be_logged_and_stored(subject: Any) -> None:
    with pytest.raises(ValueError, match="subject"):
        Session(subject)


@pytest.mark.parametrize("ref", [None, 7, "a\0b", "x" * 256])
def test_a_session_refuses_a_ref_that_is_no_name(ref: Any) -> None:
    with pytest.raises(ValueError, match="ref"):
        Session("ann", ref)


@pytest.mark.parametrize("expires_at", ["1", True, float("nan"), float("inf")])
def test_a_session_refuses_an_expiry_that_is_no_time(expires_at: Any) -> None:
    with pytest.raises(ValueError, match="expires_at"):
        Session("ann", "", expires_at)


# --- authenticate --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "session"),
    [(None, None), ("ann", Session("ann")), (Session("ann", "login-1", 9.0), Session("ann", "login-1", 9.0))],
)
async def test_a01_an_answer_becomes_a_session_or_nobody(answer: Any, session: Session | None) -> None:
    async def authenticator(connection: HTTPConnection) -> Any:
        return answer

    assert await authenticate(authenticator, visit(), timeout=1) == session


@pytest.mark.parametrize("answer", [True, 42, b"ann", {"sub": "ann"}, ["ann"], ""])
async def test_a01_any_other_answer_fails_closed(answer: Any) -> None:
    async def authenticator(connection: HTTPConnection) -> Any:
        return answer

    with pytest.raises(CheckFailed):
        await authenticate(authenticator, visit(), timeout=1)


async def test_a01_an_exception_fails_closed_and_does_not_travel_with_ours() -> None:
    async def authenticator(connection: HTTPConnection) -> str:
        token = "canary-session-token"
        raise LookupError(f"no row for {token}")

    with pytest.raises(CheckFailed, match="authenticator failed with LookupError") as caught:
        await authenticate(authenticator, visit(), timeout=1)
    shown = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert caught.value.__context__ is None and "canary" not in shown


async def test_a01_an_authenticator_that_hangs_fails_closed() -> None:
    class Hanging:
        async def __call__(self, connection: HTTPConnection) -> None:
            await anyio.sleep_forever()

    with anyio.fail_after(5), pytest.raises(CheckFailed, match="Hanging failed with TimeoutError"):
        await authenticate(Hanging(), visit(), timeout=0.01)


async def test_a01_a_cancellation_that_the_authenticator_leaks_fails_closed() -> None:
    async def authenticator(connection: HTTPConnection) -> str:
        raise asyncio.CancelledError

    with pytest.raises(CheckFailed, match="authenticator failed with CancelledError") as caught:
        await authenticate(authenticator, visit(), timeout=1)
    assert caught.value.__context__ is None


async def test_a_visitor_who_leaves_is_not_a_failed_check() -> None:
    async def authenticator(connection: HTTPConnection) -> str:
        await anyio.sleep_forever()
        return "ann"

    with anyio.move_on_after(0.01) as scope:
        await authenticate(authenticator, visit(), timeout=5)
    assert scope.cancelled_caught


# --- ensure_async --------------------------------------------------------------------------------------------------


class Callables:
    async def __call__(self, value: object = None) -> None: ...

    async def method(self, value: object = None) -> None: ...

    def blocking(self, value: object = None) -> None: ...


@pytest.mark.parametrize(
    "function",
    [
        nobody,
        Callables(),
        Callables().method,
        functools.partial(nobody),
        functools.partial(functools.partial(Callables())),
    ],
)
def test_a03_async_callables_of_every_kind_pass(function: object) -> None:
    ensure_async(function, "authorize")


@pytest.mark.parametrize(
    "function",
    [
        lambda connection: "ann",
        Callables,
        Callables().blocking,
        functools.partial(Callables().blocking),
        print,
        None,
        "ann",
    ],
)
def test_a03_what_would_block_the_loop_is_refused_with_the_fix(function: object) -> None:
    with pytest.raises(ConfigurationError, match=r"authorize must be an async callable.*async def.*to_thread"):
        ensure_async(function, "authorize")


# --- CookieSession -------------------------------------------------------------------------------------------------


def looked_up(rows: dict[str, Any], seen: list[str] | None = None) -> Callable[[str], Awaitable[Any]]:
    async def lookup(value: str) -> Any:
        if seen is not None:
            seen.append(value)
        return rows.get(value)

    return lookup


async def test_cookie_session_looks_its_cookie_up() -> None:
    authenticator = CookieSession("sid", looked_up({"abc": "ann"}))
    assert await authenticate(authenticator, visit(b"a=b; sid=abc"), timeout=1) == Session("ann")
    assert await authenticate(authenticator, visit(b"sid=xyz"), timeout=1) is None
    assert await authenticate(authenticator, visit(), timeout=1) is None


def test_h06_the_shipped_authenticators_declare_what_they_read() -> None:
    cookie, starlette = CookieSession("sid", looked_up({})), StarletteSession(secret_key=SECRET, cookie="app")
    assert (cookie.cookies, cookie.headers) == (frozenset({"sid"}), frozenset())
    assert (starlette.cookies, starlette.headers) == (frozenset({"app"}), frozenset())


@pytest.mark.parametrize(
    "header", [b'sid="abc"', b'sid="\\141bc"', b"\xa0sid=abc", b"SID=abc", b"sid=", b"sid=\xe9", b"sid=" + b"x" * 8193]
)
async def test_h08_only_the_exact_name_and_bytes_are_looked_up(header: bytes) -> None:
    authenticator = CookieSession("sid", looked_up({"abc": "ann", "": "ann"}))
    assert await authenticator(visit(header)) is None


@pytest.mark.parametrize(
    "cookies", [(b"sid=good; sid=planted",), (b"sid=planted; sid=good",), (b"sid=planted", b"sid=good")]
)
async def test_h08_a_planted_cookie_does_not_hide_the_real_one(cookies: tuple[bytes, ...]) -> None:
    assert await CookieSession("sid", looked_up({"good": "ann"}))(visit(*cookies)) == "ann"


async def test_h08_two_cookies_that_verify_are_nobody() -> None:
    authenticator = CookieSession("sid", looked_up({"a": "ann", "b": "bob"}))
    assert await authenticator(visit(b"sid=a; sid=b")) is None
    assert await authenticator(visit(b"sid=b; sid=a")) is None


async def test_one_cookie_sent_twice_is_one_lookup() -> None:
    seen: list[str] = []
    assert await CookieSession("sid", looked_up({"a": "ann"}, seen))(visit(b"sid=a; sid=a")) == "ann"
    assert seen == ["a"]


async def test_a_flood_of_cookies_of_the_name_costs_no_lookup() -> None:
    seen: list[str] = []
    flood = b"; ".join(b"sid=%d" % number for number in range(9))
    assert await CookieSession("sid", looked_up({"0": "ann"}, seen))(visit(flood)) is None
    assert seen == []


@pytest.mark.parametrize("name", ["", "a b", "a;b", "a=b", "sé", "\u0100"])
def test_a_name_that_no_cookie_can_have_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot name a cookie"):
        CookieSession(name, looked_up({}))


def test_a03_a_blocking_lookup_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="the lookup of CookieSession must be an async callable"):
        CookieSession("sid", lambda value: None)  # type: ignore[arg-type, return-value]


# --- StarletteSession ----------------------------------------------------------------------------------------------


async def signed_in(content: dict[str, Any], **options: Any) -> bytes:
    """The cookie that a real Starlette app sets when it signs a visitor in."""

    async def sign_in(request: Request) -> Response:
        request.session.update(content)
        return Response()

    middleware = [Middleware(SessionMiddleware, secret_key=SECRET, **options)]
    app = Starlette(routes=[Route("/", sign_in)], middleware=middleware)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app.test") as client:
        response = await client.get("/")
    return response.headers["set-cookie"].partition(";")[0].encode()


def signed(content: object, secret: str = SECRET) -> bytes:
    return itsdangerous.TimestampSigner(secret).sign(base64.b64encode(json.dumps(content).encode()))


@pytest.mark.parametrize(("user_id", "subject"), [("ann", "ann"), (42, "42")])
async def test_a06_the_cookie_of_a_real_starlette_app_is_read(user_id: object, subject: str) -> None:
    cookie = await signed_in({"user_id": user_id, "theme": "dark"})
    session = await StarletteSession(secret_key=SECRET)(visit(cookie))
    assert session is not None and session.subject == subject
    assert len(session.ref) == 32 and session.ref.encode() not in cookie
    assert session.expires_at is not None and session.expires_at > 14 * 24 * 60 * 60


async def test_a06_the_name_key_and_age_of_the_app_are_followed() -> None:
    cookie = await signed_in({"uid": "ann"}, session_cookie="__Host-app", max_age=60)
    session = await StarletteSession(secret_key=SECRET, key="uid", cookie="__Host-app", max_age=60)(visit(cookie))
    assert session is not None and session.subject == "ann"
    assert await StarletteSession(secret_key=SECRET, key="uid")(visit(cookie)) is None
    assert await StarletteSession(secret_key=SECRET, cookie="__Host-app")(visit(cookie)) is None


@pytest.mark.parametrize("in_front", [True, False])
async def test_a06_a_tossed_cookie_neither_wins_nor_hides_the_real_one(in_front: bool) -> None:
    real, tossed = await signed_in({"user_id": "ann"}), b"session=" + signed({"user_id": "eve"}, "another key")
    cookies = [tossed, real] if in_front else [real, tossed]
    session = await StarletteSession(secret_key=SECRET)(visit(b"; ".join(cookies)))
    assert session is not None and session.subject == "ann"


@pytest.mark.parametrize(
    "value",
    [
        b"null",
        b"x.y.z",
        signed({"user_id": "eve"}, "another key"),
        signed({"user_id": True}),
        signed({"user_id": None}),
        signed({"user_id": ""}),
        signed({"user_id": {"id": 1}}),
        signed({}),
        signed(["user_id"]),
        itsdangerous.TimestampSigner(SECRET).sign(b"!not base64 or json"),
        itsdangerous.Signer(SECRET).sign(base64.b64encode(b'{"user_id": "ann"}')),
    ],
    ids=itertools.count(),  # a signature has its time in it
)
async def test_a06_a_value_that_the_app_did_not_sign_for_a_user_is_nobody(value: bytes) -> None:
    assert await StarletteSession(secret_key=SECRET)(visit(b"session=" + value)) is None


async def test_a06_a_session_older_than_its_age_is_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(itsdangerous.TimestampSigner, "get_timestamp", lambda self: 1_000_000_000)
    value = signed({"user_id": "ann"})
    monkeypatch.undo()
    assert await StarletteSession(secret_key=SECRET)(visit(b"session=" + value)) is None


async def test_a06_the_apps_own_check_revokes_a_session_that_is_still_signed() -> None:
    versions = {"ann": 1}

    async def current(content: dict[str, Any]) -> bool:
        return bool(versions[content["user_id"]] == content["version"])

    authenticator = StarletteSession(secret_key=SECRET, check=current)
    cookie = await signed_in({"user_id": "ann", "version": 1})
    assert await authenticator(visit(cookie)) is not None
    versions["ann"] = 2
    assert await authenticator(visit(cookie)) is None


@pytest.mark.parametrize("answer", [None, 1, "yes"])
async def test_a01_a_check_that_answers_no_bool_fails_closed(answer: Any) -> None:
    async def check(content: dict[str, Any]) -> Any:
        return answer

    authenticator = StarletteSession(secret_key=SECRET, check=check)
    with pytest.raises(CheckFailed, match="StarletteSession failed with TypeError"):
        await authenticate(authenticator, visit(await signed_in({"user_id": "ann"})), timeout=1)


def test_what_starlette_session_cannot_work_with_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="secret_key"):
        StarletteSession(secret_key="")
    with pytest.raises(ConfigurationError, match="max_age"):
        StarletteSession(secret_key=SECRET, max_age=0)
    with pytest.raises(ConfigurationError, match="cookie"):
        StarletteSession(secret_key=SECRET, cookie="a b")
    with pytest.raises(ConfigurationError, match="async"):
        StarletteSession(secret_key=SECRET, check=lambda content: True)  # type: ignore[arg-type, return-value]
    monkeypatch.setattr(sessions, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="pip install itsdangerous"):
        StarletteSession(secret_key=SECRET)


def test_h19_the_signing_key_is_in_no_form_of_the_authenticator(caplog: pytest.LogCaptureFixture) -> None:
    authenticator = StarletteSession(secret_key=SECRET)
    with caplog.at_level(logging.INFO):
        logging.info("%s %r %s", authenticator, authenticator, vars(copy.copy(authenticator)))
    assert SECRET not in caplog.text
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        pickle.dumps(authenticator)
