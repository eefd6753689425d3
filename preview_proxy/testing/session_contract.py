"""What every authenticator must hold, as a test suite: subclass `SessionContract`, and say who is signed in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping

from starlette.requests import HTTPConnection

from preview_proxy import Authenticator, Session
from preview_proxy.core.models import RawHeaders

Headers = Mapping[str, str]

GARBAGE = ("", " ", "=", ";", "a=b=c", "\x7f", "ÿþ", "x" * 100_000, "null", "[]", "..", "a.b.c", "%00", '"', "=;=;=")


class SessionContract(ABC):
    """The tests that an authenticator has to pass. They are `async`, and need no more of pytest than that.

    Headers are those of a request, such as ``{"cookie": "session=…"}``; give each test session a user of its own.
    """

    signed_in: Collection[tuple[Headers, str]]
    """Headers of visitors who are signed in, each with the subject; at least two with different subjects."""
    refused: Collection[Headers] = ()
    """Headers that look like a session and are none: expired, revoked, signed by another key."""
    private_cookies: Collection[str] = ()
    """For a plain function: what you put into `Policy.private_cookies`."""
    private_headers: Collection[str] = ()
    """For a plain function: what you put into `Policy.private_headers`."""

    @abstractmethod
    def authenticator(self) -> Authenticator:
        """An authenticator, fresh each time."""

    async def test_whoever_is_signed_in_is_known(self) -> None:
        authenticator = self.authenticator()
        assert len({subject for _, subject in self.signed_in}) > 1, "name two visitors who are signed in"
        for headers, subject in self.signed_in:
            for kind in ("http", "websocket"):
                found = await authenticator(visit(headers, kind))
                assert subject_of(found) == subject, f"{subject!r} is {found!r} to the authenticator ({kind})"

    async def test_nobody_is_signed_in_without_headers(self) -> None:
        assert await self.authenticator()(visit({})) is None

    async def test_what_only_looks_like_a_session_is_none(self) -> None:
        authenticator = self.authenticator()
        for number, headers in enumerate(self.refused):
            assert await authenticator(visit(headers)) is None, f"refused[{number}] is signed in"

    async def test_a_credential_that_was_tampered_with_is_none(self) -> None:
        authenticator = self.authenticator()
        for headers, subject in self.signed_in:
            for name, value in headers.items():
                for what, tampered in tamperings(value):
                    found = await authenticator(visit({**headers, name: tampered}))
                    assert found is None, f"{name} of {subject!r} {what} is {subject_of(found)!r}"

    async def test_two_credentials_are_nobodys(self) -> None:
        """A page on a sibling host can plant a second cookie, in front of the real one or behind it."""
        authenticator = self.authenticator()
        for first, one in self.signed_in:
            for second, other in self.signed_in:
                if one != other and first.keys() == second.keys():
                    both = [*raw(first), *raw(second)]
                    assert await authenticator(_connection(both)) is None, (
                        f"{one!r} and {other!r} together are signed in"
                    )
                    if "cookie" in first:
                        joined = {**first, "cookie": f"{first['cookie']}; {second['cookie']}"}
                        assert await authenticator(visit(joined)) is None, "two cookies in one field are signed in"

    async def test_garbage_is_nobody_and_no_failure(self) -> None:
        authenticator = self.authenticator()
        for headers, _ in self.signed_in:
            for name, value in headers.items():
                pairs = value.split(";") if name == "cookie" else ()
                for start in ("", *(pair.partition("=")[0].strip() + "=" for pair in pairs)):
                    for garbage in GARBAGE:
                        assert await authenticator(visit({name: start + garbage})) is None

    async def test_all_that_it_reads_is_declared(self) -> None:
        """What is declared never reaches the sandbox. What is not, does: the sandbox then has your user's session."""
        authenticator = self.authenticator()
        cookies = {*self.private_cookies, *getattr(authenticator, "cookies", ())}
        names = {name.lower() for name in (*self.private_headers, *getattr(authenticator, "headers", ()))}
        for headers, subject in self.signed_in:
            left = {name: value for name, value in headers.items() if name.lower() not in names}
            if "cookie" in left:
                pairs = [pair.strip() for pair in left["cookie"].split(";")]
                left["cookie"] = "; ".join(pair for pair in pairs if pair.partition("=")[0] not in cookies)
            found = await authenticator(visit(left))
            assert found is None, f"{subject!r} is signed in by something that is not declared"

    async def test_nothing_that_prints_shows_a_credential(self) -> None:
        authenticator = self.authenticator()
        for headers, _ in self.signed_in:
            found = await authenticator(visit(headers))
            for value in headers.values():
                credential = max(value.replace("=", " ").split(), key=len)
                assert credential not in f"{found!r} {authenticator!r}", "a credential is shown"


def visit(headers: Headers, kind: str = "http") -> HTTPConnection:
    """A request or a handshake with these headers."""
    return _connection(raw(headers), kind)


def _connection(headers: Iterable[tuple[bytes, bytes]], kind: str = "http") -> HTTPConnection:
    scope = {"type": kind, "method": "GET", "scheme": "https", "path": "/", "raw_path": b"/", "query_string": b""}
    return HTTPConnection({**scope, "headers": list(headers), "server": None, "client": ("192.0.2.1", 1)})


def raw(headers: Headers) -> RawHeaders:
    return tuple((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items())


def subject_of(found: Session | str | None) -> str | None:
    return found.subject if isinstance(found, Session) else found


def tamperings(value: str) -> Iterator[tuple[str, str]]:
    """A value with something changed: characters in it, its end, its case."""
    for part in (4, 3, 2):
        at = len(value) - len(value) // part
        changed = "A" if value[at] != "A" else "B"
        yield f"with another character {at}", value[:at] + changed + value[at + 1 :]
    yield "cut in half", value[: len(value) // 2]
    yield "without its end", value[:-2]
    if value.swapcase() != value:
        yield "in the other case", value.swapcase()
