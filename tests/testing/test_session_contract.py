"""The authenticators hold their contract, and the contract finds each breach of it."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Collection
from typing import Any

import itsdangerous
import jwt
import pytest
from starlette.requests import HTTPConnection

from preview_proxy import Authenticator, CookieSession, JWTSession, Session, StarletteSession
from preview_proxy.testing import SessionContract

pytestmark = pytest.mark.anyio

KEY = "a key of thirty-two bytes or more"
SESSIONS = {"session-of-ada-0123": "ada", "session-of-grace-01": "grace"}


def cookie(name: str, value: str) -> dict[str, str]:
    return {"cookie": f"theme=dark; {name}={value}"}


class TestCookieSession(SessionContract):
    signed_in = tuple((cookie("sid", value), subject) for value, subject in SESSIONS.items())
    refused = (cookie("sid", "session-of-nobody"),)

    def authenticator(self) -> Authenticator:
        async def lookup(value: str) -> str | None:
            return SESSIONS.get(value)

        return CookieSession("sid", lookup)


def starlette_cookie(user: str, key: str = KEY) -> dict[str, str]:
    signer = itsdangerous.TimestampSigner(key)
    return cookie("session", signer.sign(b64encode(json.dumps({"user_id": user}).encode())).decode())


class TestStarletteSession(SessionContract):
    signed_in = ((starlette_cookie("ada"), "ada"), (starlette_cookie("grace"), "grace"))
    refused = (starlette_cookie("ada", "another key"),)

    def authenticator(self) -> Authenticator:
        return StarletteSession(secret_key=KEY)


def token(subject: str, key: str = KEY, **claims: Any) -> str:
    now = int(time.time())
    whole = {"sub": subject, "aud": "acme", "iss": "acme", "iat": now, "exp": now + 600, **claims}
    return jwt.encode(whole, key, "HS256")


class TestJWTSession(SessionContract):
    signed_in = (
        (cookie("token", token("ada")), "ada"),
        (cookie("token", token("grace")), "grace"),
        ({"authorization": f"Bearer {token('ada')}"}, "ada"),
    )
    refused = (
        cookie("token", token("ada", exp=1)),
        cookie("token", token("ada", key="another key of thirty-two bytes!")),
        cookie("token", token("ada", aud="elsewhere")),
    )

    def authenticator(self) -> Authenticator:
        return JWTSession(
            key=KEY, algorithms=["HS256"], audience="acme", issuer="acme", cookie="token", header="authorization"
        )


class Own:
    """A session in a cookie, with something wrong as a subclass says."""

    cookies: Collection[str] = frozenset({"sid"})
    headers: Collection[str] = frozenset()

    async def __call__(self, connection: HTTPConnection, /) -> Session | str | None:
        values = [
            pair.strip().partition("=")[2]
            for field in connection.headers.getlist("cookie")
            for pair in field.split(";")
            if pair.strip().startswith("sid=")
        ]
        return self.of(values, connection)

    def of(self, values: list[str], connection: HTTPConnection) -> Session | str | None:
        return SESSIONS.get(values[0]) if len(values) == 1 else None


class TestOwn(TestCookieSession):
    def authenticator(self) -> Authenticator:
        return Own()


class HttpOnly(Own):
    def of(self, values: list[str], connection: HTTPConnection) -> Session | str | None:
        return super().of(values, connection) if connection.scope["type"] == "http" else None


class Guest(Own):
    def of(self, values: list[str], connection: HTTPConnection) -> Session | str | None:
        return super().of(values, connection) or "guest"


class NeverEnds(Own):
    def of(self, values: list[str], connection: HTTPConnection) -> Session | str | None:
        return "nobody" if values == ["session-of-nobody"] else super().of(values, connection)


class Prefix(Own):
    def of(self, values: list[str], connection: HTTPConnection) -> Session | str | None:
        found = [subject for value, subject in SESSIONS.items() if values and value[:12] == values[0][:12]]
        return found[0] if len(found) == 1 else None


class FirstOne(Own):
    def of(self, values: list[str], connection: HTTPConnection) -> Session | str | None:
        return super().of(values[:1], connection)


class Undeclared(Own):
    cookies = frozenset({"session"})


class Telling(Own):
    def of(self, values: list[str], connection: HTTPConnection) -> Session | str | None:
        subject = super().of(values, connection)
        return Session(str(subject), ref=values[0]) if subject else None


class Fragile(Own):
    def of(self, values: list[str], connection: HTTPConnection) -> Session | str | None:
        return SESSIONS[values[0]] if len(values) == 1 else None


def contract(made: Authenticator) -> SessionContract:
    class Contract(TestCookieSession):
        def authenticator(self) -> Authenticator:
            return made

    return Contract()


@pytest.mark.parametrize(
    ("made", "test"),
    [
        (HttpOnly(), "test_whoever_is_signed_in_is_known"),
        (Guest(), "test_nobody_is_signed_in_without_headers"),
        (NeverEnds(), "test_what_only_looks_like_a_session_is_none"),
        (Prefix(), "test_a_credential_that_was_tampered_with_is_none"),
        (FirstOne(), "test_two_credentials_are_nobodys"),
        (Guest(), "test_garbage_is_nobody_and_no_failure"),
        (Undeclared(), "test_all_that_it_reads_is_declared"),
        (Telling(), "test_nothing_that_prints_shows_a_credential"),
    ],
)
async def test_a_breach_is_found(made: Authenticator, test: str) -> None:
    with pytest.raises(AssertionError) as caught:
        await getattr(contract(made), test)()
    assert not [value for value in SESSIONS if value in str(caught.value)]


async def test_garbage_that_makes_it_raise_is_found() -> None:
    with pytest.raises(KeyError):
        await contract(Fragile()).test_garbage_is_nobody_and_no_failure()


async def test_a_plain_function_declares_by_the_policy() -> None:
    async def plain(connection: HTTPConnection) -> str | None:
        return {"ada-0123456": "ada", "grace-0123456": "grace"}.get(connection.headers.get("x-user", ""))

    class Contract(SessionContract):
        signed_in = (({"x-user": "ada-0123456"}, "ada"), ({"x-user": "grace-0123456"}, "grace"))
        private_headers = ("X-User",)

        def authenticator(self) -> Authenticator:
            return plain

    await Contract().test_all_that_it_reads_is_declared()
    await Contract().test_whoever_is_signed_in_is_known()
